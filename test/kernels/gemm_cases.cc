// gemm_hopper against products in double precision of the very codes that it reads.
#include "gemm_operands.h"
#include "head_operands.h"

#include <cmath>

namespace flux::testing {
namespace {

using kernels::Activation;
using kernels::Gemm;
using kernels::gemm_hopper;
using kernels::GemmEpilogue;
using kernels::GemmGroup;

// f32 output leaves the accumulator's own error. fp8 products are summed by the tensor core's fast accumulation, which keeps
// about 13 bits: over all of K alone that is 1.1e-3 at K = 3072 and 3.0e-3 at K = 15360 on unit-normal data. For f32 output its
// sums are promoted every few k-blocks.
constexpr Tolerance kF32{5e-4, -1, 1e-3};

Gemm call_of(Element operand, const GemmShape& shape, const std::vector<GemmGroup>& groups) {
  Gemm call;
  call.operand = operand;
  call.n = shape.n;
  call.k = shape.k;
  call.groups = groups.data();
  call.group_count = int(groups.size());
  return call;
}

// Halves are for last waves of few tiles: a case of them must have one, which the shapes here have on 132 multiprocessors.
enum class LastWave { kAny, kHalves };

void expect_wave(Context& c, const Gemm& call, LastWave wave) {
  int multiprocessors = 0;
  must(cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, 0), "multiprocessors");
  if (wave == LastWave::kAny || multiprocessors != 132) return;
  const std::string tile = gemm_hopper_tile(call);
  c.expect(tile.find("last wave in halves") != std::string::npos, "no halves: " + tile);
}

void test_linear(Context& c, Element operand, Element output, Activation activation, const GemmShape& shape,
                 const ProductCase& product, const Tolerance& tolerance, int64_t c_stride = 0,
                 LastWave wave = LastWave::kAny) {
  Output y(shape.m, shape.n, output, c_stride);
  std::vector<GemmGroup> groups{product.group()};
  groups[0].c = {y.data(), c_stride ? c_stride : shape.n, 0};
  Gemm call = call_of(operand, shape, groups);
  call.output = output;
  call.activation = activation;
  expect_wave(c, call, wave);
  if (!c.run({&y}, [&] { return gemm_hopper(call, c.stream()); })) return;
  c.expect_within(gemm_hopper_tile(call), y.values(), reference::activated(product.x, activation), tolerance);
}

// Each column picks one element of the row, and small integers are exact in every type here: any misplaced element shows.
void test_layout(Context& c, Element operand, const GemmShape& shape) {
  Matrix a(shape.m, shape.k), w(shape.n, shape.k), bias(1, shape.n);
  for (int64_t m = 0; m < shape.m; ++m) {
    for (int64_t k = 0; k < shape.k; ++k) a.at(m, k) = float((m * 7 + k * 4 + m * k % 11) % 15) - 7;
    a.at(m, m % shape.k) = 7;  // every row's scale is a power of two
  }
  for (int64_t n = 0; n < shape.n; ++n) {
    w.at(n, n * 5 % shape.k) = 1;
    bias.at(0, n) = float(n % 17);
  }
  test_linear(c, operand, Element::kF32, Activation::kNone, shape, ProductCase(a, w, bias, operand),
              {1e-6, 1e-5, 2e-6});
}

void test_strides(Context& c, Element operand) {
  const GemmShape shape{200, 384, 512};
  test_linear(c, operand, Element::kBF16, Activation::kNone, shape, random_product(shape, operand, 11, 1536),
              kAfterBf16, 960);
}

// Image and text parts of a joint residual, two batches, in place.
void test_gate_residual(Context& c, Element operand, const GemmShape& image, int64_t text_rows,
                        bool gated = true, LastWave wave = LastWave::kAny) {
  constexpr int64_t kBatches = 2;
  const int64_t tokens = text_rows + image.m;
  const Matrix residual = rounded_to(normal(kBatches * tokens, image.n, 21), Element::kBF16);
  const Matrix gate =
      gated ? normal(2 * kBatches, image.n, 22) : uniform(2 * kBatches, image.n, 0, 1.0f, 1.0f);
  const Input device_gate(gate, Element::kF32);
  Output y(kBatches * tokens, image.n, Element::kBF16);
  y.starts_as(residual);
  Matrix want = residual;
  std::vector<ProductCase> products;
  products.push_back(random_product({kBatches * image.m, image.n, image.k}, operand, 23));
  products.push_back(random_product({kBatches * text_rows, image.n, image.k}, operand, 27));
  std::vector<GemmGroup> groups;
  for (int part = 0; part < 2; ++part) {
    const int64_t first = part == 0 ? text_rows : 0, rows = part == 0 ? image.m : text_rows;
    GemmGroup group = products[size_t(part)].group(kBatches);
    uint16_t* begin = y.data<uint16_t>() + first * image.n;
    group.c = {begin, image.n, tokens * image.n};
    group.residual = {begin, image.n, tokens * image.n};
    if (gated) {
      group.gate = device_gate.data<float>() + part * kBatches * image.n;
      group.gate_batch_stride = image.n;
    }
    groups.push_back(group);
    for (int64_t batch = 0; batch < kBatches; ++batch) {
      for (int64_t row = 0; row < rows; ++row) {
        for (int64_t n = 0; n < image.n; ++n) {
          want.at(batch * tokens + first + row, n) +=
              gate.at(part * kBatches + batch, n) * products[size_t(part)].x.at(batch * rows + row, n);
        }
      }
    }
  }
  Gemm call = call_of(operand, image, groups);
  call.epilogue = GemmEpilogue::kGateResidual;
  expect_wave(c, call, wave);
  if (!c.run({&y}, [&] { return gemm_hopper(call, c.stream()); })) return;
  c.expect_within(gemm_hopper_tile(call), y.values(), want, kAfterBf16);
}

void test_qkv(Context& c, Element operand, int heads, int64_t mlp, int64_t batches, int64_t tokens,
              LastWave wave = LastWave::kAny) {
  const int64_t hidden = heads * 128;
  const GemmShape shape{batches * tokens, 3 * hidden + mlp, 400};
  const ProductCase product = random_product(shape, operand, 31);
  const HeadOperands operands(tokens, 35);
  Output qkv(shape.m, 3 * hidden, Element::kBF16, 3 * hidden + 64);
  Output up(shape.m, std::max<int64_t>(mlp, 16), Element::kBF16, mlp + 32);
  std::vector<GemmGroup> groups{product.group(batches)};
  operands.bind(groups[0]);
  groups[0].c = {qkv.data(), 3 * hidden + 64, tokens * (3 * hidden + 64)};
  groups[0].mlp = {up.data(), mlp + 32, tokens * (mlp + 32)};
  Gemm call = call_of(operand, shape, groups);
  call.epilogue = GemmEpilogue::kQkv;
  call.activation = Activation::kGelu;
  call.heads = heads;
  expect_wave(c, call, wave);
  Matrix want = columns_of(product.x, 0, 3 * hidden);
  reference::normalise_and_rotate(want, heads, operands.norm_q.values, operands.norm_k.values,
                                  operands.rope.values, call.eps);
  const auto launch = [&] { return gemm_hopper(call, c.stream()); };
  if (mlp == 0) {
    if (c.run({&qkv}, launch)) c.expect_within("q, k, v", qkv.values(), want, kAfterBf16);
    return;
  }
  if (!c.run({&qkv, &up}, launch)) return;
  c.expect_within("q, k, v", qkv.values(), want, kAfterBf16);
  c.expect_within("mlp", up.values(),
                  reference::activated(columns_of(product.x, 3 * hidden, mlp), Activation::kGelu),
                  kAfterBf16);
}

// e4m3 with a scale from the row's bound: its error against exact values stays that of quantising by the row's maximum.
void test_e4m3_output(Context& c) {
  const GemmShape shape{333, 1040, 3072};
  const ProductCase product = random_product(shape, Element::kE4M3, 41);
  const Matrix want = reference::activated(product.x, Activation::kGelu);
  double largest_norm = 0;
  for (int64_t n = 0; n < shape.n; ++n) {
    double squares = 0;
    for (int64_t k = 0; k < shape.k; ++k)
      squares += std::pow(product.w.seen.at(n, k) * double(product.w.scale[size_t(n)]), 2);
    largest_norm = std::max(largest_norm, std::sqrt(squares));
  }
  Output codes(shape.m, shape.n, Element::kE4M3), scale(shape.m, 1, Element::kF32);
  std::vector<GemmGroup> groups{product.group()};
  groups[0].c = {codes.data(), shape.n, 0};
  groups[0].c_scale = scale.data<float>();
  Matrix limits(1, 2, 6.0f);
  limits.at(0, 0) = float(448 * std::sqrt(double(shape.k)) * largest_norm);
  const Input bounds(limits, Element::kF32);
  groups[0].bounds = bounds.data<float>();
  Gemm call = call_of(Element::kE4M3, shape, groups);
  call.output = Element::kE4M3;
  call.activation = Activation::kGelu;
  if (!c.run({&codes, &scale}, [&] { return gemm_hopper(call, c.stream()); })) return;
  Matrix got = codes.values(), by_maximum = want;
  const reference::Codes best = reference::quantise(want);
  const std::vector<float> best_values =
      decode(best.codes.data(), int64_t(best.codes.size()), Element::kE4M3);
  for (int64_t m = 0; m < shape.m; ++m) {
    for (int64_t n = 0; n < shape.n; ++n) {
      got.at(m, n) *= scale.values().at(m, 0);
      by_maximum.at(m, n) = best_values[size_t(m * shape.n + n)] * best.scale.at(m, 0);
    }
  }
  const double dynamic = difference(by_maximum, want).relative_l2;
  c.expect_within("by the bound", got, want, {1.05 * dynamic, -1, 2.1 * dynamic});
}

// Published codes, scales and products: against the sums of the codes, and against the products of the unquantised
// operands, from which quantising itself is the distance.
void test_golden(Context& c) {
  const Golden golden = c.golden();
  const Matrix want = golden.matrix("fp8.mm.row.bias"), exact = golden.matrix("mm.exact");
  const GemmShape shape{want.rows, want.cols, golden.matrix("fp8.a").cols};
  const Input a(golden.bytes("fp8.a.row.codes")), w(golden.bytes("fp8.w.row.codes"));
  const Input a_scale(golden.matrix("fp8.a.row.scale"), Element::kF32),
      w_scale(golden.matrix("fp8.w.row.scale"), Element::kF32);
  const Input bias(golden.matrix("fp8.bias"), Element::kF32);
  Output y(shape.m, shape.n, Element::kF32);
  std::vector<GemmGroup> groups(1);
  groups[0].rows = shape.m;
  groups[0].a = {a.data(), shape.k, 0};
  groups[0].a_scale = a_scale.data<float>();
  groups[0].w = w.data();
  groups[0].w_row_stride = shape.k;
  groups[0].w_scale = w_scale.data<float>();
  groups[0].bias = bias.data<float>();
  groups[0].c = {y.data(), shape.n, 0};
  Gemm call = call_of(Element::kE4M3, shape, groups);
  call.output = Element::kF32;
  if (!c.run({&y}, [&] { return gemm_hopper(call, c.stream()); })) return;
  c.expect_within("of the codes", y.values(), want, kF32);
  c.expect_within("unquantised", y.values(), exact, {1.02 * difference(want, exact).relative_l2, -1, -1});
}

void test_refusals(Context& c) {
  const GemmShape shape{8, 32, 64};
  const ProductCase product = random_product(shape, Element::kE4M3, 51);
  Output y(shape.m, shape.n, Element::kBF16);
  std::vector<GemmGroup> groups{product.group()};
  groups[0].c = {y.data(), shape.n, 0};
  const Gemm good = call_of(Element::kE4M3, shape, groups);
  const auto refused = [&](const char* what, const auto& change,
                           Status::Code code = Status::Code::kBadArgument) {
    std::vector<GemmGroup> changed_groups = groups;
    Gemm changed = good;
    changed.groups = changed_groups.data();
    change(changed, changed_groups[0]);
    c.expect_refused(what, gemm_hopper(changed, c.stream()), code);
  };
  refused("K = 40", [](Gemm& call, GemmGroup&) { call.k = 40; });
  refused("N = 24", [](Gemm& call, GemmGroup&) { call.n = 24; });
  refused("no groups", [](Gemm& call, GemmGroup&) { call.group_count = 0; });
  refused("five groups", [](Gemm& call, GemmGroup&) { call.group_count = 5; });
  refused("no rows", [](Gemm&, GemmGroup& group) { group.rows = 0; });
  refused("no scale", [](Gemm&, GemmGroup& group) { group.w_scale = nullptr; });
  refused("an odd pointer",
          [](Gemm&, GemmGroup& group) { group.a.data = static_cast<const uint8_t*>(group.a.data) + 1; });
  refused("a stride off 16 bytes", [](Gemm&, GemmGroup& group) { group.a.row_stride = 72; });
  refused("a stride under the row", [](Gemm&, GemmGroup& group) { group.c.row_stride = 16; });
  refused("heads beyond N", [](Gemm& call, GemmGroup&) {
    call.epilogue = GemmEpilogue::kQkv;
    call.heads = 1;
  });
  refused("no residual", [](Gemm& call, GemmGroup&) { call.epilogue = GemmEpilogue::kGateResidual; });
  refused(
      "f16 operands", [](Gemm& call, GemmGroup&) { call.operand = Element::kF16; },
      Status::Code::kUnsupported);
}

const Cases kCases([](Register& add) {
  for (const Element operand : {Element::kE4M3, Element::kBF16}) {
    const std::string name = std::string("gemm/") + short_name(operand);
    for (const GemmShape& shape :
         {GemmShape{1, 16, 16}, GemmShape{63, 272, 144}, GemmShape{64, 128, 128}, GemmShape{65, 256, 512},
          GemmShape{127, 3072, 256}, GemmShape{129, 528, 1040}, GemmShape{300, 1552, 4112}}) {
      add.test(name + "/linear/" + text(shape), [=](Context& c) {
        const ProductCase product = random_product(shape, operand, 1);
        test_linear(c, operand, Element::kBF16, Activation::kNone, shape, product, kAfterBf16);
        test_linear(c, operand, Element::kF32, Activation::kNone, shape, product, kF32);
      });
    }
    add.test(name + "/f32/40x272x15360", [=](Context& c) {
      const GemmShape shape{40, 272, 15360};
      test_linear(c, operand, Element::kF32, Activation::kNone, shape, random_product(shape, operand, 1),
                  kF32);
    });
    for (const Activation activation : {Activation::kGelu, Activation::kSilu, Activation::kQuickGelu}) {
      add.test(name + "/activation/" + std::to_string(int(activation)), [=](Context& c) {
        const GemmShape shape{257, 528, 1040};
        test_linear(c, operand, Element::kBF16, activation, shape, random_product(shape, operand, 3),
                    kAfterBf16);
      });
    }
    for (const GemmShape& shape : {GemmShape{131, 400, 528}, GemmShape{513, 1040, 1536}}) {
      add.test(name + "/layout/" + text(shape), [=](Context& c) { test_layout(c, operand, shape); });
    }
    add.test(name + "/strides", [=](Context& c) { test_strides(c, operand); });
    add.test(name + "/gate_residual/groups",
             [=](Context& c) { test_gate_residual(c, operand, {333, 768, 1040}, 70); });
    add.test(name + "/gate_residual/no_gate",
             [=](Context& c) { test_gate_residual(c, operand, {70, 272, 400}, 64, false); });
    add.test(name + "/gate_residual/wide",
             [=](Context& c) { test_gate_residual(c, operand, {1100, 3072, 272}, 200); });
    add.test(name + "/linear/halves", [=](Context& c) {
      const GemmShape shape{1100, 6144, 144};
      test_linear(c, operand, Element::kBF16, Activation::kGelu, shape, random_product(shape, operand, 5),
                  kAfterBf16, 0, LastWave::kHalves);
    });
    add.test(name + "/gate_residual/halves", [=](Context& c) {
      test_gate_residual(c, operand, {1100, 3072, 272}, 300, true, LastWave::kHalves);
    });
    add.test(name + "/qkv/halves",
             [=](Context& c) { test_qkv(c, operand, 4, 0, 2, 1100, LastWave::kHalves); });
    add.test(name + "/qkv/h2+mlp", [=](Context& c) { test_qkv(c, operand, 2, 512, 1, 200); });
    add.test(name + "/qkv/h3", [=](Context& c) { test_qkv(c, operand, 3, 0, 2, 129); });
    add.test(name + "/qkv/h1+mlp", [=](Context& c) { test_qkv(c, operand, 1, 144, 1, 64); });
  }
  add.test("gemm/fp8/e4m3_output", test_e4m3_output);
  add.golden_test("gemm/fp8/golden", test_golden);
  add.test("gemm/refusals", test_refusals);
});

}  // namespace
}  // namespace flux::testing
