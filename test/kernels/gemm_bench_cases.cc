// gemm_hopper on FLUX's shapes, sustained, with every epilogue. The peer is bench/peers/gemm.py.
#include <algorithm>
#include <memory>
#include <type_traits>

#include "gemm/gemm.h"
#include "harness/case.h"

namespace flux::testing {
namespace {

using kernels::Activation;
using kernels::Gemm;
using kernels::GemmEpilogue;
using kernels::GemmGroup;

struct Shape {
  int64_t m, n, k;
  int64_t text = 0;  // of the m rows, those with weights of their own: a double block's
};

constexpr Shape kFluxShapes[] = {{4608, 9216, 3072},  {4608, 12288, 3072}, {4608, 3072, 12288},
                                 {4608, 21504, 3072}, {4608, 3072, 15360}, {4608, 3072, 3072}};

// One set of a call's buffers, filled with random values.
struct BufferSet {
  BufferSet(const Shape& shape, Element operand, uint64_t seed)
      : a(shape.m * shape.k * size_of(operand)),
        w((shape.text > 0 ? 2 : 1) * shape.n * shape.k * size_of(operand)),
        c(shape.m * shape.n * 2),
        a_scale(shape.m * 4),
        w_scale(shape.n * 4),
        bias(shape.n * 4),
        gate(shape.n * 4) {
    // As scaled codes are: the largest of a row near 448.
    const float deviation = operand == Element::kE4M3 ? 100.0f : 1.0f;
    fill_normal(a.data(), shape.m * shape.k, operand, seed, deviation);
    fill_normal(w.data(), w.bytes() / size_of(operand), operand, seed + 1, deviation);
    fill_normal(c.data(), shape.m * shape.n, Element::kBF16, seed + 2);
    fill_normal(a_scale.data(), shape.m, Element::kF32, seed + 3, 1e-2f);
    fill_normal(w_scale.data(), shape.n, Element::kF32, seed + 4, 1e-4f);
    fill_normal(bias.data(), shape.n, Element::kF32, seed + 5);
    fill_normal(gate.data(), shape.n, Element::kF32, seed + 6);
  }
  DeviceBytes a, w, c, a_scale, w_scale, bias, gate;
};

template <typename T>
T* as(const DeviceBytes& bytes) {
  return reinterpret_cast<T*>(bytes.data());
}

GemmGroup group_of(const BufferSet& set, const Shape& shape, Element operand) {
  GemmGroup group;
  group.rows = shape.m;
  group.a = {set.a.data(), shape.k, 0};
  group.w = set.w.data();
  group.w_row_stride = shape.k;
  if (operand == Element::kE4M3) {
    group.a_scale = as<float>(set.a_scale);
    group.w_scale = as<float>(set.w_scale);
  }
  group.bias = as<float>(set.bias);
  group.c = {set.c.data(), shape.n, 0};
  return group;
}

// Takes the last rows of a group, with the second half of W.
GemmGroup cut_text(GemmGroup& image, const Shape& shape, Element operand) {
  GemmGroup text = image;
  text.rows = shape.text;
  image.rows -= shape.text;
  const auto later = [&](auto& rows, int64_t bytes) {
    using Data = std::remove_reference_t<decltype(rows.data)>;
    if (rows.data == nullptr) return;
    rows.data =
        reinterpret_cast<Data>(uintptr_t(rows.data) + uintptr_t(image.rows * rows.row_stride * bytes));
  };
  later(text.a, size_of(operand));
  later(text.c, 2);
  later(text.residual, 2);
  later(text.mlp, 2);
  text.w = static_cast<const uint8_t*>(text.w) + shape.n * shape.k * size_of(operand);
  if (text.a_scale != nullptr) text.a_scale += image.rows;
  if (text.rope_pairs != nullptr)
    text.rope_pairs = static_cast<const uint8_t*>(text.rope_pairs) + image.rows * 256;
  return text;
}

void bench(Context& c, Element operand, GemmEpilogue epilogue, Activation activation, const Shape& shape) {
  const double bytes = double(shape.m + shape.n) * double(shape.k) * size_of(operand) +
                       double(shape.m * shape.n) * (epilogue == GemmEpilogue::kGateResidual ? 4 : 2);
  const int sets = c.rotation(bytes);
  const int64_t heads = 24, qkv = 3 * heads * 128;
  const DeviceBytes norm(128 * 4), rope(shape.m * 128 * 2);
  fill_normal(norm.data(), 128, Element::kF32, 91);
  fill_normal(rope.data(), shape.m * 128, Element::kF16, 92);
  const int parts = shape.text > 0 ? 2 : 1;
  std::vector<std::unique_ptr<BufferSet>> buffers;
  std::vector<GemmGroup> groups;
  for (int i = 0; i < sets; ++i) {
    buffers.push_back(std::make_unique<BufferSet>(shape, operand, uint64_t(100 * i)));
    GemmGroup group = group_of(*buffers.back(), shape, operand);
    if (epilogue == GemmEpilogue::kGateResidual) {
      group.residual = {group.c.data, group.c.row_stride, 0};
      group.gate = as<float>(buffers.back()->gate);
    } else if (epilogue == GemmEpilogue::kQkv) {
      group.norm_q = group.norm_k = as<float>(norm);
      group.rope_pairs = rope.data();
      group.mlp = {as<uint16_t>(buffers.back()->c) + qkv, shape.n, 0};
    }
    groups.push_back(group);
    if (shape.text > 0) groups.push_back(cut_text(groups.back(), shape, operand));
  }
  Gemm call;
  call.operand = operand;
  call.epilogue = epilogue;
  call.activation = activation;
  call.n = shape.n;
  call.k = shape.k;
  call.heads = heads;
  call.group_count = parts;
  const Work work{bytes, 2.0 * double(shape.m) * double(shape.n) * double(shape.k),
                  operand == Element::kE4M3 ? 1979.0 : 989.0};
  c.measure(work, sets, [&](int set) {
    call.groups = &groups[size_t(set * parts)];
    return gemm_hopper(call, c.stream());
  });
}

const Cases kCases([](Register& add) {
  for (const Element operand : {Element::kE4M3, Element::kBF16}) {
    const std::string family = operand == Element::kE4M3 ? "gemm/fp8/" : "gemm/bf16/";
    const auto named = [&](const char* epilogue, const Shape& shape) {
      const std::string rows = shape.text > 0
                                   ? std::to_string(shape.m - shape.text) + "+" + std::to_string(shape.text)
                                   : std::to_string(shape.m);
      return family + epilogue + "/" + rows + "x" + std::to_string(shape.n) + "x" + std::to_string(shape.k);
    };
    for (const int64_t m : {4608, 4352, 8704}) {
      for (Shape shape : kFluxShapes) {
        shape.m = m;
        add.bench(named("bias", shape),
                  [=](Context& c) { bench(c, operand, GemmEpilogue::kLinear, Activation::kNone, shape); });
      }
    }
    // The linears of a double block, image and text in one launch.
    for (const int64_t m : {4608, 8704}) {
      for (const Shape& shape :
           {Shape{m, 12288, 3072, 512}, Shape{m, 3072, 12288, 512}, Shape{m, 3072, 3072, 512}}) {
        const bool gated = shape.n == 3072;
        add.bench(named(gated ? "gate_residual" : "gelu", shape), [=](Context& c) {
          bench(c, operand, gated ? GemmEpilogue::kGateResidual : GemmEpilogue::kLinear,
                gated ? Activation::kNone : Activation::kGelu, shape);
        });
      }
    }
    for (const Shape& shape : kFluxShapes) {
      if (shape.n == 12288) {
        add.bench(named("gelu", shape),
                  [=](Context& c) { bench(c, operand, GemmEpilogue::kLinear, Activation::kGelu, shape); });
      } else if (shape.n == 3072) {
        add.bench(named("gate_residual", shape), [=](Context& c) {
          bench(c, operand, GemmEpilogue::kGateResidual, Activation::kNone, shape);
        });
      } else {
        add.bench(named("qkv", shape),
                  [=](Context& c) { bench(c, operand, GemmEpilogue::kQkv, Activation::kGelu, shape); });
      }
    }
  }
});

}  // namespace
}  // namespace flux::testing
