// Low-rank branches on FLUX's shapes: x·downᵀ, and the GEMM with 0, 16, 64 and 128 ranks a part.
#include <memory>
#include <utility>

#include "harness/case.h"
#include "lora/lora.h"

namespace flux::testing {
namespace {

using kernels::DownGroup;
using kernels::DownProjection;
using kernels::Gemm;
using kernels::GemmEpilogue;
using kernels::GemmGroup;

constexpr int64_t kRows = 4608;

struct Bytes {
  Bytes(int64_t count, Element type, uint64_t seed, float deviation) : bytes(count * size_of(type)) {
    fill_normal(bytes.data(), count, type, seed, deviation);
  }
  template <typename T>
  T* as() const {
    return reinterpret_cast<T*>(bytes.data());
  }
  DeviceBytes bytes;
};

void bench_down(Context& c, Element type, int64_t k, int64_t ranks) {
  struct Set {
    Bytes x, down, scale, low;
  };
  const double bytes = double(kRows) * k * size_of(type) + ranks * k * size_of(type) + kRows * ranks * 2.0;
  std::vector<Set> sets;
  for (int i = 0; i < c.rotation(bytes); ++i)
    sets.push_back({{kRows * k, type, uint64_t(1 + i), type == Element::kE4M3 ? 100.0f : 1.0f},
                    {ranks * k, type, uint64_t(2 + i), type == Element::kE4M3 ? 100.0f : 0.02f},
                    {ranks, Element::kF32, 3, 1.0f},
                    {kRows * ranks, Element::kBF16, 4, 1.0f}});
  c.measure({bytes, 2.0 * kRows * k * ranks, type == Element::kE4M3 ? 1979.0 : 989.0}, int(sets.size()),
            [&](int i) {
              const Set& set = sets[size_t(i)];
              DownGroup group;
              group.rows = kRows;
              group.x = {set.x.bytes.data(), k, 0};
              group.down = set.down.bytes.data();
              group.scale = set.scale.as<float>();
              group.low = {set.low.bytes.data(), ranks, 0};
              const DownProjection call{type, k, ranks, &group, 1};
              return kernels::down_project(call, c.stream());
            });
}

struct Product {
  const char* name;
  int64_t n, k;
  GemmEpilogue epilogue;
  int parts;
};
constexpr Product kProducts[] = {{"mlp_up", 12288, 3072, GemmEpilogue::kLinear, 1},
                                 {"out", 3072, 3072, GemmEpilogue::kGateResidual, 1},
                                 {"mlp_down", 3072, 12288, GemmEpilogue::kGateResidual, 1},
                                 {"single_out", 3072, 15360, GemmEpilogue::kGateResidual, 1},
                                 {"qkv", 9216, 3072, GemmEpilogue::kQkv, 3},
                                 {"qkv_mlp", 21504, 3072, GemmEpilogue::kQkv, 4}};

// kNone: low is there already. kNext: the product, right behind the projection, waits for low alone.
enum class Projection { kNone, kBefore, kNext };

void bench_product(Context& c, const Product& product, int64_t rank, Projection projection) {
  constexpr Element kCodes = Element::kE4M3, kBf16 = Element::kBF16, kF32 = Element::kF32;
  const int64_t n = product.n, k = product.k, ranks = rank * product.parts;
  struct Set {
    Bytes a, w, y, low, up, down;
  };
  const double bytes = double(kRows) * k + double(n) * k + 2.0 * kRows * n + 2.0 * (kRows * ranks + n * rank);
  std::vector<Set> sets;
  for (int i = 0; i < c.rotation(bytes); ++i)
    sets.push_back({{kRows * k, kCodes, uint64_t(1 + i), 100.0f},
                    {n * k, kCodes, uint64_t(2 + i), 100.0f},
                    {kRows * n, kBf16, 3, 1.0f},
                    {kRows * std::max<int64_t>(ranks, 16), kBf16, 4, 1.0f},
                    {n * std::max<int64_t>(rank, 16), kBf16, 5, 1.0f},
                    {std::max<int64_t>(ranks, 16) * k, kCodes, 11, 100.0f}});
  const Bytes a_scale(kRows, kF32, 6, 1e-2f), w_scale(n, kF32, 7, 1e-4f), bias(n, kF32, 8, 1.0f),
      norm(128, kF32, 9, 1.0f), rope(kRows * 128, Element::kF16, 10, 1.0f), scale(512, kF32, 12, 1e-4f);
  c.measure({bytes, 2.0 * kRows * n * k, 1979}, int(sets.size()), [&](int i) {
    const Set& set = sets[size_t(i)];
    GemmGroup group;
    group.rows = kRows;
    group.a = {set.a.bytes.data(), k, 0};
    group.w = set.w.bytes.data();
    group.w_row_stride = k;
    group.a_scale = a_scale.as<float>();
    group.w_scale = w_scale.as<float>();
    group.bias = bias.as<float>();
    group.c = {set.y.bytes.data(), n, 0};
    group.residual = {set.y.bytes.data(), n, 0};
    group.norm_q = group.norm_k = norm.as<float>();
    group.rope_pairs = rope.bytes.data();
    group.mlp = {set.y.as<uint16_t>() + 9216, n, 0};
    group.low = {set.low.bytes.data(), ranks, 0};
    group.up = set.up.bytes.data();
    Gemm call;
    call.n = n;
    call.k = k;
    call.epilogue = product.epilogue;
    call.activation = kernels::Activation::kGelu;
    call.heads = product.epilogue == GemmEpilogue::kQkv ? 24 : 0;
    call.groups = &group;
    call.group_count = 1;
    call.low_rank = rank;
    call.low_parts = product.parts;
    call.low_is_next = projection == Projection::kNext;
    for (int part = 0; part < product.parts; ++part) call.low_begin[part] = part * 3072;
    if (rank > 0 && projection != Projection::kNone) {
      DownGroup from;
      from.rows = kRows;
      from.x = {set.a.bytes.data(), k, 0};
      from.down = set.down.bytes.data();
      from.scale = scale.as<float>();
      from.low = {set.low.bytes.data(), ranks, 0};
      const DownProjection down{kCodes, k, ranks, &from, 1};
      if (Status status = kernels::down_project(down, c.stream()); !status.ok()) return status;
    }
    return kernels::gemm_hopper(call, c.stream());
  });
}

const Cases kCases([](Register& add) {
  for (const int64_t k : {3072, 12288, 15360}) {
    for (const int64_t ranks : {16, 64, 128, 256, 512}) {
      if (k != 3072 && ranks > 128) continue;
      add.bench("lora/down/fp8/" + std::to_string(ranks) + "x" + std::to_string(k),
                [=](Context& c) { bench_down(c, Element::kE4M3, k, ranks); });
    }
  }
  add.bench("lora/down/bf16/64x3072", [](Context& c) { bench_down(c, Element::kBF16, 3072, 64); });
  for (const Product& product : kProducts) {
    for (const int64_t rank : {0, 16, 64, 128})
      for (const auto& [projection, form] :
           {std::pair{Projection::kBefore, ""}, {Projection::kNext, "/next"}})
        add.bench(std::string("lora/pair/") + product.name + "/rank" + std::to_string(rank) + form,
                  [=, how = projection](Context& c) { bench_product(c, product, rank, how); });
    for (const int64_t rank : {0, 16, 64, 128})
      add.bench(std::string("lora/gemm/") + product.name + "/rank" + std::to_string(rank),
                [=](Context& c) { bench_product(c, product, rank, Projection::kNone); });
  }
});

}  // namespace
}  // namespace flux::testing
