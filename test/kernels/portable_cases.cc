// gemm_portable, and its expansion of e4m3 to bf16, against products in double precision of what they read.
#include <cmath>

#include "gemm_operands.h"
#include "portable/portable.h"

namespace flux::testing {
namespace {

using kernels::Activation;
using kernels::Gemm;
using kernels::GemmEpilogue;
using kernels::GemmGroup;

// bf16 products are exact in f32; each of the K / 16 sums in turn is cut off, not rounded: up to K / 16 · 2^-24 one way,
// 1.5e-5 at the largest K here. The tensor core's e4m3 sums keep fewer bits.
constexpr Tolerance kExact{1.5e-5, -1, 1.5e-5};
constexpr Tolerance kFastSum{5e-4, -1, 1e-3};

struct Path {
  const char* name;
  Element operand;
  bool expanded;

  Status run(const Gemm& call, cudaStream_t stream) const {
    return expanded ? kernels::gemm_portable_expanded(call, stream) : kernels::gemm_portable(call, stream);
  }
  Tolerance f32() const { return operand == Element::kE4M3 && !expanded ? kFastSum : kExact; }
};

constexpr Path kPaths[] = {
    {"bf16", Element::kBF16, false}, {"fp8", Element::kE4M3, false}, {"fp8-expanded", Element::kE4M3, true}};

Gemm call_of(const Path& path, const GemmShape& shape, const std::vector<GemmGroup>& groups) {
  Gemm call;
  call.operand = path.operand;
  call.n = shape.n;
  call.k = shape.k;
  call.groups = groups.data();
  call.group_count = int(groups.size());
  return call;
}

void linear(Context& c, const Path& path, const ProductCase& product, Element output, Activation activation,
            int64_t gap = 0) {
  const GemmShape shape{product.x.rows, product.x.cols, product.a.seen.cols};
  Output y(shape.m, shape.n, output, shape.n + gap);
  std::vector<GemmGroup> groups{product.group()};
  groups[0].c = {y.data(), shape.n + gap, 0};
  Gemm call = call_of(path, shape, groups);
  call.output = output;
  call.activation = activation;
  if (!c.run({&y}, [&] { return path.run(call, c.stream()); })) return;
  c.expect_within("y", y.values(), reference::activated(product.x, activation),
                  output == Element::kF32 ? path.f32() : kAfterBf16);
}

// Small integers, exact in every type; every row's largest is 7 in A and 1 in W, so scales are exact too.
void layout(Context& c, const Path& path, const GemmShape& shape) {
  Matrix a(shape.m, shape.k), w(shape.n, shape.k), bias(1, shape.n);
  for (int64_t m = 0; m < shape.m; ++m) {
    for (int64_t k = 0; k < shape.k; ++k) a.at(m, k) = float((m * 7 + k * 4 + m * k % 11) % 15) - 7;
    a.at(m, m % shape.k) = 7;
  }
  for (int64_t n = 0; n < shape.n; ++n) {
    w.at(n, n * 5 % shape.k) = 1;
    bias.at(0, n) = float(n % 17);
  }
  const ProductCase product(a, w, bias, path.operand);
  Output y(shape.m, shape.n, Element::kF32);
  std::vector<GemmGroup> groups{product.group()};
  groups[0].c = {y.data(), shape.n, 0};
  Gemm call = call_of(path, shape, groups);
  call.output = Element::kF32;
  if (c.run({&y}, [&] { return path.run(call, c.stream()); }))
    c.expect_within("y", y.values(), product.x, {1e-6, 1e-5, 2e-6});
}

// Image and text of a joint residual, two batches, two weights, in place.
void gate_residual(Context& c, const Path& path, bool gated) {
  constexpr int64_t kBatches = 2, kN = 272, kK = 528, kRows[] = {150, 70}, kTokens = 220;
  const Matrix residual = rounded_to(normal(kBatches * kTokens, kN, 71), Element::kBF16),
               gate = gated ? normal(2 * kBatches, kN, 72) : uniform(2 * kBatches, kN, 0, 1.0f, 1.0f);
  const Input device_gate(gate, Element::kF32);
  Output y(kBatches * kTokens, kN, Element::kBF16);
  y.starts_as(residual);
  Matrix want = residual;
  std::vector<ProductCase> products;
  std::vector<GemmGroup> groups;
  for (int part = 0; part < 2; ++part) {
    products.push_back(
        random_product({kBatches * kRows[part], kN, kK}, path.operand, uint64_t(73 + 4 * part)));
    const int64_t first = part == 0 ? kRows[1] : 0;
    GemmGroup group = products.back().group(kBatches);
    uint16_t* begin = y.data<uint16_t>() + first * kN;
    group.c = {begin, kN, kTokens * kN};
    group.residual = {begin, kN, kTokens * kN};
    if (gated) {
      group.gate = device_gate.data<float>() + part * kBatches * kN;
      group.gate_batch_stride = kN;
    }
    groups.push_back(group);
    for (int64_t r = 0; r < kBatches * kRows[part]; ++r) {
      const int64_t batch = r / kRows[part], row = batch * kTokens + first + r % kRows[part];
      for (int64_t n = 0; n < kN; ++n)
        want.at(row, n) += gate.at(part * kBatches + batch, n) * products.back().x.at(r, n);
    }
  }
  Gemm call = call_of(path, {0, kN, kK}, groups);
  call.epilogue = GemmEpilogue::kGateResidual;
  if (c.run({&y}, [&] { return path.run(call, c.stream()); }))
    c.expect_within("y", y.values(), want, kAfterBf16);
}

void qkv(Context& c, const Path& path, int heads, int64_t mlp, int64_t batches, int64_t tokens) {
  const int64_t hidden = heads * 128;
  const GemmShape shape{batches * tokens, 3 * hidden + mlp, 400};
  const ProductCase product = random_product(shape, path.operand, 81);
  const Matrix norm_q = normal(1, 128, 82, 0.1f, 1.0f), norm_k = normal(1, 128, 83, 0.1f, 1.0f);
  const Matrix angle = uniform(tokens, 64, 84, -40.0f, 40.0f);
  Matrix rope(tokens, 128);
  for (int64_t t = 0; t < tokens; ++t) {
    for (int64_t i = 0; i < 64; ++i) {
      rope.at(t, 2 * i) = std::cos(angle.at(t, i));
      rope.at(t, 2 * i + 1) = std::sin(angle.at(t, i));
    }
  }
  const Input q_in(norm_q, Element::kF32), k_in(norm_k, Element::kF32), rope_in(rope, Element::kF32);
  Output heads_out(shape.m, 3 * hidden, Element::kBF16, 3 * hidden + 64);
  Output up(shape.m, mlp ? mlp : 16, Element::kBF16, mlp + 32);
  std::vector<GemmGroup> groups{product.group(batches)};
  groups[0].norm_q = q_in.data<float>();
  groups[0].norm_k = k_in.data<float>();
  groups[0].rope = rope_in.data<float>();
  groups[0].c = {heads_out.data(), 3 * hidden + 64, tokens * (3 * hidden + 64)};
  groups[0].mlp = {up.data(), mlp + 32, tokens * (mlp + 32)};
  Gemm call = call_of(path, shape, groups);
  call.epilogue = GemmEpilogue::kQkv;
  call.activation = Activation::kGelu;
  call.heads = heads;
  const auto columns = [&](int64_t first, int64_t count) {
    Matrix part(shape.m, count);
    for (int64_t r = 0; r < shape.m; ++r) {
      for (int64_t n = 0; n < count; ++n) part.at(r, n) = product.x.at(r, first + n);
    }
    return part;
  };
  Matrix want = columns(0, 3 * hidden);
  reference::normalise_and_rotate(want, heads, norm_q.values, norm_k.values, rope.values, call.eps);
  const auto launch = [&] { return path.run(call, c.stream()); };
  if (!(mlp ? c.run({&heads_out, &up}, launch) : c.run({&heads_out}, launch))) return;
  c.expect_within("q, k, v", heads_out.values(), want, kAfterBf16);
  if (mlp)
    c.expect_within("mlp", up.values(), reference::activated(columns(3 * hidden, mlp), Activation::kGelu),
                    kAfterBf16);
}

// Codes with the scale of the row's bound: within 5 % of the error of quantising by the row's maximum.
void codes_out(Context& c, const Path& path) {
  const GemmShape shape{150, 400, 1024};
  const ProductCase product = random_product(shape, Element::kE4M3, 91);
  const Matrix want = reference::activated(product.x, Activation::kGelu);
  Output codes(shape.m, shape.n, Element::kE4M3), scale(shape.m, 1, Element::kF32);
  std::vector<GemmGroup> groups{product.group()};
  groups[0].c = {codes.data(), shape.n, 0};
  groups[0].c_scale = scale.data<float>();
  Matrix limits(1, 2, 6.0f);
  limits.at(0, 0) =
      448.0f * 32.0f * 0.9f;  // √1024 · an upper bound of the channels' norms (0.02 · √1024 = 0.64)
  const Input bounds(limits, Element::kF32);
  groups[0].bounds = bounds.data<float>();
  Gemm call = call_of(path, shape, groups);
  call.output = Element::kE4M3;
  call.activation = Activation::kGelu;
  if (!c.run({&codes, &scale}, [&] { return path.run(call, c.stream()); })) return;
  Matrix got = codes.values(), by_maximum = want;
  const Matrix scales = scale.values();
  const reference::Codes best = reference::quantise(want);
  const std::vector<float> best_values =
      decode(best.codes.data(), int64_t(best.codes.size()), Element::kE4M3);
  for (int64_t i = 0; i < shape.m * shape.n; ++i) {
    got.values[size_t(i)] *= scales.at(i / shape.n, 0);
    by_maximum.values[size_t(i)] = best_values[size_t(i)] * best.scale.at(i / shape.n, 0);
  }
  const double dynamic = difference(by_maximum, want).relative_l2;
  c.expect_within("by the bound", got, want, {1.05 * dynamic, -1, 2.1 * dynamic});
}

void refusals(Context& c) {
  const GemmShape shape{8, 32, 64};
  const ProductCase product = random_product(shape, Element::kE4M3, 95);
  Output y(shape.m, shape.n, Element::kBF16);
  std::vector<GemmGroup> groups{product.group()};
  groups[0].c = {y.data(), shape.n, 0};
  const auto refused = [&](const char* what, const auto& change,
                           Status::Code code = Status::Code::kBadArgument) {
    std::vector<GemmGroup> changed_groups = groups;
    Gemm changed = call_of(kPaths[1], shape, changed_groups);
    change(changed, changed_groups[0]);
    c.expect_refused(what, kernels::gemm_portable(changed, c.stream()), code);
  };
  refused("K = 40", [](Gemm& call, GemmGroup&) { call.k = 40; });
  refused("N = 24", [](Gemm& call, GemmGroup&) { call.n = 24; });
  refused("no groups", [](Gemm& call, GemmGroup&) { call.group_count = 0; });
  refused("five groups", [](Gemm& call, GemmGroup&) { call.group_count = 5; });
  refused("no rows", [](Gemm&, GemmGroup& group) { group.rows = 0; });
  refused("no scale", [](Gemm&, GemmGroup& group) { group.w_scale = nullptr; });
  refused("an odd pointer",
          [](Gemm&, GemmGroup& group) { group.w = static_cast<const uint8_t*>(group.w) + 1; });
  refused("a stride off 16 bytes", [](Gemm&, GemmGroup& group) { group.a.row_stride = 72; });
  refused("no residual", [](Gemm& call, GemmGroup&) { call.epilogue = GemmEpilogue::kGateResidual; });
  refused("heads beyond N", [](Gemm& call, GemmGroup&) {
    call.epilogue = GemmEpilogue::kQkv;
    call.heads = 1;
  });
  refused(
      "f16 operands", [](Gemm& call, GemmGroup&) { call.operand = Element::kF16; },
      Status::Code::kUnsupported);
  refused(
      "packed heads",
      [](Gemm& call, GemmGroup&) {
        call.epilogue = GemmEpilogue::kQkv;
        call.heads_as = kernels::QkvHeads::kInt8;
      },
      Status::Code::kUnsupported);
}

const Cases kTests = [](Register& add) {
  for (const Path& path : kPaths) {
    const std::string name = std::string("portable/") + path.name;
    for (const GemmShape& shape :
         {GemmShape{1, 16, 16}, GemmShape{63, 272, 144}, GemmShape{64, 128, 128}, GemmShape{65, 256, 512},
          GemmShape{127, 384, 64}, GemmShape{128, 128, 4112}, GemmShape{129, 528, 1040},
          GemmShape{1200, 1040, 208}}) {
      add.test(name + "/linear/" + text(shape), [=](Context& c) {
        const ProductCase product = random_product(shape, path.operand, 61);
        linear(c, path, product, Element::kBF16, Activation::kNone);
        linear(c, path, product, Element::kF32, Activation::kNone, 16);
      });
    }
    add.test(name + "/activations", [=](Context& c) {
      const ProductCase product = random_product({130, 272, 528}, path.operand, 65, 1040);
      for (const Activation activation : {Activation::kGelu, Activation::kSilu, Activation::kQuickGelu}) {
        linear(c, path, product, Element::kBF16, activation, 32);
      }
    });
    add.test(name + "/layout", [=](Context& c) { layout(c, path, {259, 400, 528}); });
    add.test(name + "/gate_residual", [=](Context& c) { gate_residual(c, path, true); });
    add.test(name + "/residual", [=](Context& c) { gate_residual(c, path, false); });
    add.test(name + "/qkv/h2+mlp", [=](Context& c) { qkv(c, path, 2, 528, 1, 200); });
    add.test(name + "/qkv/h3", [=](Context& c) { qkv(c, path, 3, 0, 2, 129); });
    if (path.operand == Element::kE4M3)
      add.test(name + "/codes_out", [=](Context& c) { codes_out(c, path); });
  }
  add.test("portable/refusals", refusals);
};

void bench(Context& c, const Path& path, const GemmShape& shape) {
  const int element = size_of(path.operand);
  const double bytes =
      double(shape.m + shape.n) * double(shape.k) * element + 2.0 * double(shape.m) * double(shape.n);
  const int sets = c.rotation(bytes);
  std::vector<DeviceBytes> a, w, y;
  for (int s = 0; s < sets; ++s) {
    a.emplace_back(shape.m * shape.k * element);
    w.emplace_back(shape.n * shape.k * element);
    y.emplace_back(shape.m * shape.n * 2);
    fill_normal(a.back().data(), shape.m * shape.k, path.operand, uint64_t(2 * s));
    fill_normal(w.back().data(), shape.n * shape.k, path.operand, uint64_t(2 * s + 1));
  }
  const Matrix ones(1, shape.m > shape.n ? shape.m : shape.n, 1.0f);
  const Input scale(ones, Element::kF32);
  const auto launch = [&](int set) {
    GemmGroup group;
    group.rows = shape.m;
    group.a = {a[size_t(set)].data(), shape.k, 0};
    group.w = w[size_t(set)].data();
    group.w_row_stride = shape.k;
    group.a_scale = group.w_scale = path.operand == Element::kE4M3 ? scale.data<float>() : nullptr;
    group.c = {y[size_t(set)].data(), shape.n, 0};
    return path.run(call_of(path, shape, {group}), c.stream());
  };
  c.measure({bytes, 2.0 * double(shape.m) * double(shape.n) * double(shape.k)}, sets, launch);

  c.expect(launch(0).ok(), "the launch that is checked");
  must(cudaDeviceSynchronize(), "the launch that is checked");
  // Some rows against all columns.
  const auto download = [&](const DeviceBytes& memory, int64_t row, int64_t rows, int64_t cols,
                            Element type) {
    std::vector<uint8_t> copy(size_t(rows * cols * size_of(type)));
    must(cudaMemcpy(copy.data(), memory.data() + row * cols * size_of(type), copy.size(),
                    cudaMemcpyDeviceToHost),
         "download");
    Matrix matrix(rows, cols);
    matrix.values = decode(copy.data(), rows * cols, type);
    return matrix;
  };
  const Matrix weight = download(w[0], 0, shape.n, shape.k, path.operand);
  for (const int64_t row : {int64_t(0), shape.m - 2}) {
    const Matrix want =
        reference::product({download(a[0], row, 2, shape.k, path.operand), weight, {}, {}, {}});
    c.expect_within("y", download(y[0], row, 2, shape.n, Element::kBF16), want, kAfterBf16);
  }
}

const Cases kBenches = [](Register& add) {
  for (const Path& path : kPaths) {
    const GemmShape shape{4608, 3072, 3072};
    add.bench(std::string("portable/") + path.name + "/" + text(shape),
              [=](Context& c) { bench(c, path, shape); });
  }
};

}  // namespace
}  // namespace flux::testing
