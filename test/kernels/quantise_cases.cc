// Per-token and per-channel quantisation to e4m3.
#include <algorithm>
#include <cmath>
#include <limits>

#include "harness/case.h"
#include "kernels.h"
#include "reference/norms.h"

namespace flux::testing {
namespace {

using namespace kernels;

struct Rows {
  int batch, rows, width;
  int gap = 0;
};

std::string name_of(const Rows& r) {
  return std::to_string(r.batch) + "x" + std::to_string(r.rows) + "x" + std::to_string(r.width) +
         (r.gap ? "/gap" + std::to_string(r.gap) : "");
}

// Codes equal those of IEEE division bit for bit, and so do the scales.
void expect_same(Context& c, const Output& codes, const Output& scale, const Matrix& x) {
  const reference::Codes want = reference::quantise(x);
  c.expect_within("scale", scale.values(), want.scale, {0, 0, 0});
  c.expect_codes("codes", codes.bytes(), want.codes, 0);
}

void test_rows(Context& c, const Rows& r, const Matrix& values) {
  const Matrix x = rounded_to(values, Element::kBF16);
  const int stride = r.width + r.gap;
  const Input input(x, Element::kBF16, stride);
  Output codes(x.rows, r.width, Element::kE4M3, stride), scale(x.rows, 1, Element::kF32);
  QuantiseRows q;
  q.x = input.data();
  q.codes = codes.data<uint8_t>();
  q.x_row_stride = q.codes_row_stride = stride;
  q.x_batch_stride = q.codes_batch_stride = int64_t(r.rows) * stride;
  q.scale = scale.data<float>();
  q.batch = r.batch;
  q.rows = r.rows;
  q.width = r.width;
  if (c.run({&codes, &scale}, [&] { return quantise_rows(q, c.stream()); })) expect_same(c, codes, scale, x);
}

void test_weight(Context& c, Element type, int channels, int width, int gap, const Matrix& values) {
  const Matrix x = rounded_to(values, type);
  const Input input(x, type, width + gap);
  Output codes(channels, width, Element::kE4M3), scale(channels, 1, Element::kF32);
  const bool ran = c.run({&codes, &scale}, [&] {
    return quantise_weight(input.data(), type, channels, width, width + gap, codes.data<uint8_t>(),
                           scale.data<float>(), c.stream());
  });
  if (ran) expect_same(c, codes, scale, x);
}

// Against f64: never under the bound, and not above it by more than its allowance.
void test_weight_bounds(Context& c) {
  constexpr int kChannels = 1000, kWidth = 3072;
  const reference::Codes weight = reference::quantise(heavy_tailed(kChannels, kWidth, 35));
  const std::vector<float> values = decode(weight.codes.data(), int64_t(weight.codes.size()), Element::kE4M3);
  Matrix code_values(kChannels, kWidth);
  code_values.values = values;
  const Matrix bias = normal(1, kChannels, 36);
  const Input codes(code_values, Element::kE4M3), scale(weight.scale, Element::kF32),
      add(bias, Element::kF32);
  Output bounds(1, 2, Element::kF32);
  if (!c.run({&bounds}, [&] {
        return weight_bounds(codes.data<uint8_t>(), scale.data<float>(), add.data<float>(), kChannels, kWidth,
                             bounds.data<float>(), c.stream());
      }))
    return;
  double product = 0, largest_bias = 0;
  for (int64_t n = 0; n < kChannels; ++n) {
    double squares = 0;
    for (int64_t k = 0; k < kWidth; ++k)
      squares += std::pow(double(code_values.at(n, k)) * weight.scale.at(n, 0), 2);
    product = std::max(product, 448 * std::sqrt(double(kWidth) * squares));
    largest_bias = std::max(largest_bias, std::abs(double(bias.at(0, n))));
  }
  const Matrix got = bounds.values();
  c.expect(got.at(0, 0) >= product && got.at(0, 0) <= 1.0001 * product, "the products' bound");
  c.expect(double(got.at(0, 1)) == largest_bias, "the bias's bound");
}

// Rows of zeros, tiny and huge values, infinities and NaN, by the definition in quantise/e4m3.cuh.
Matrix special_rows(int width) {
  const float inf = std::numeric_limits<float>::infinity(), nan = std::nanf("");
  Matrix x = normal(12, width, 33);
  const auto fill = [&](int row, float value) {
    for (int64_t i = 0; i < width; ++i) x.at(row, i) = value;
  };
  fill(0, 0.0f);
  fill(1, -0.0f);
  x.at(2, 5) = inf;
  x.at(3, width - 1) = -inf;
  x.at(4, 0) = nan;
  fill(5, nan);
  fill(6, 3.0e38f);
  fill(7, 1.0e-38f);
  for (int64_t i = 0; i < width; ++i) x.at(8, i) *= 1e-36f;  // below f32's range after / 448
  for (int64_t i = 0; i < width; ++i) x.at(9, i) *= 1e37f;
  fill(10, -7.0f);
  x.at(11, 3) = 1000.0f;
  return x;
}

void refusals(Context& c) {
  const DeviceBytes memory(1 << 16);
  QuantiseRows q;
  q.x = memory.data();
  q.codes = memory.data();
  q.scale = reinterpret_cast<float*>(memory.data());
  q.rows = 2;
  q.width = q.x_row_stride = q.codes_row_stride = 64;
  const auto expect_refused = [&](const char* what, const QuantiseRows& changed) {
    c.expect_refused(what, quantise_rows(changed, c.stream()), Status::Code::kBadArgument);
  };
  QuantiseRows changed = q;
  changed.width = 60;
  expect_refused("a width of 60", changed);
  changed = q;
  changed.width = 16392;
  expect_refused("a width beyond 16384", changed);
  changed = q;
  changed.x_row_stride = 66;
  expect_refused("a row stride of 132 bytes", changed);
  changed = q;
  changed.codes = memory.data() + 4;
  expect_refused("codes off by four bytes", changed);
  c.expect_refused(
      "an e4m3 weight",
      quantise_weight(memory.data(), Element::kE4M3, 2, 64, 64, memory.data(), q.scale, c.stream()),
      Status::Code::kBadArgument);
  c.expect_refused(
      "overlapping weight rows",
      quantise_weight(memory.data(), Element::kF32, 2, 64, 63, memory.data(), q.scale, c.stream()),
      Status::Code::kBadArgument);
}

void golden(Context& c) {
  const Golden file = c.golden();
  const Matrix a = file.matrix("fp8.a"), w = file.matrix("fp8.w");
  const Input activations(a, Element::kBF16), weights(w, Element::kBF16);
  Output codes(a.rows, a.cols, Element::kE4M3), scale(a.rows, 1, Element::kF32);
  QuantiseRows q;
  q.x = activations.data();
  q.codes = codes.data<uint8_t>();
  q.scale = scale.data<float>();
  q.x_row_stride = q.codes_row_stride = q.width = int(a.cols);
  q.rows = int(a.rows);
  const auto as_column = [](Matrix m) {
    m.rows = m.cols, m.cols = 1;
    return m;
  };
  if (c.run({&codes, &scale}, [&] { return quantise_rows(q, c.stream()); })) {
    c.expect_codes("fp8.a.row.codes", codes.bytes(), file.bytes("fp8.a.row.codes"), 0);
    c.expect_within("fp8.a.row.scale", scale.values(), as_column(file.matrix("fp8.a.row.scale")), {0, 0, 0});
  }
  Output w_codes(w.rows, w.cols, Element::kE4M3), w_scale(w.rows, 1, Element::kF32);
  const bool ran = c.run({&w_codes, &w_scale}, [&] {
    return quantise_weight(weights.data(), Element::kBF16, int(w.rows), int(w.cols), w.cols,
                           w_codes.data<uint8_t>(), w_scale.data<float>(), c.stream());
  });
  if (ran) {
    c.expect_codes("fp8.w.row.codes", w_codes.bytes(), file.bytes("fp8.w.row.codes"), 0);
    c.expect_within("fp8.w.row.scale", w_scale.values(), as_column(file.matrix("fp8.w.row.scale")),
                    {0, 0, 0});
  }
  // The edge values are codes' neighbourhoods: with 448 in the row the scale is 1.
  Matrix edge = file.matrix("fp8.edge.in");
  Output edge_codes(1, edge.cols, Element::kE4M3), edge_scale(1, 1, Element::kF32);
  const Input edges(edge, Element::kF32);
  const bool edge_ran = c.run({&edge_codes, &edge_scale}, [&] {
    return quantise_weight(edges.data(), Element::kF32, 1, int(edge.cols), edge.cols,
                           edge_codes.data<uint8_t>(), edge_scale.data<float>(), c.stream());
  });
  if (edge_ran) c.expect_codes("fp8.edge.codes", edge_codes.bytes(), file.bytes("fp8.edge.codes"), 0);
}

const Cases kTests = [](Register& add) {
  for (const Rows& r :
       {Rows{1, 1, 3072}, Rows{2, 65, 3072, 16}, Rows{1, 4609, 3072}, Rows{1, 63, 12288}, Rows{1, 9, 15360},
        Rows{2, 3, 16384}, Rows{3, 31, 256}, Rows{1, 5, 8}, Rows{1, 7, 1032, 8}, Rows{1, 64, 4096}}) {
    add.test("quantise/rows/" + name_of(r),
             [r](Context& c) { test_rows(c, r, heavy_tailed(int64_t(r.batch) * r.rows, r.width, 31)); });
  }
  add.test("quantise/rows/ramp", [](Context& c) { test_rows(c, {1, 130, 3072}, index_ramp(130, 3072)); });
  add.test("quantise/rows/one_hot",
           [](Context& c) { test_rows(c, {1, 66, 3072}, one_hot(66, 3072, 65, 3071)); });
  add.test("quantise/rows/constant_rows",
           [](Context& c) { test_rows(c, {1, 120, 12288}, constant_per_row(120, 12288)); });
  for (const int width : {256, 3072, 12288}) {
    add.test("quantise/rows/special/" + std::to_string(width),
             [width](Context& c) { test_rows(c, {1, 12, width}, special_rows(width)); });
  }
  for (const Element type : {Element::kF32, Element::kBF16, Element::kF16}) {
    const std::string name = std::string("quantise/weight/") + testing::name_of(type);
    add.test(name + "/96x3072",
             [type](Context& c) { test_weight(c, type, 96, 3072, 0, normal(96, 3072, 32, 0.02f)); });
    add.test(name + "/7x65/gap3",
             [type](Context& c) { test_weight(c, type, 7, 65, 3, heavy_tailed(7, 65, 34)); });
    add.test(name + "/special", [type](Context& c) { test_weight(c, type, 12, 100, 0, special_rows(100)); });
  }
  add.test("quantise/weight_bounds", test_weight_bounds);
  add.test("quantise/refusals", refusals);
  add.golden_test("quantise/golden", golden);
};

void bench(Context& c, const Rows& r) {
  const int64_t elements = int64_t(r.rows) * r.width;
  const double bytes = double(elements) * 3;
  const int sets = c.rotation(bytes);
  std::vector<DeviceBytes> in, out;
  for (int s = 0; s < sets; ++s) {
    in.emplace_back(elements * 2);
    out.emplace_back(elements);
    fill_normal(in.back().data(), elements, Element::kBF16, uint64_t(s), 2.0f);
  }
  DeviceBytes scales(int64_t(r.rows) * 4);
  const auto launch = [&](int set) {
    QuantiseRows q;
    q.x = in[size_t(set)].data();
    q.codes = out[size_t(set)].data();
    q.scale = reinterpret_cast<float*>(scales.data());
    q.x_row_stride = q.codes_row_stride = q.width = r.width;
    q.rows = r.rows;
    return quantise_rows(q, c.stream());
  };
  c.measure({bytes + 4.0 * r.rows}, sets, launch);

  c.expect(launch(0).ok(), "the launch that is checked");
  must(cudaDeviceSynchronize(), "the launch that is checked");
  // The first and last rows say enough of what tests have checked in full.
  const int checked = std::min(r.rows, 128);
  const int64_t values = int64_t(checked) * r.width;
  for (const int64_t first : {int64_t(0), int64_t(r.rows) - checked}) {
    std::vector<uint8_t> bytes_in(size_t(values) * 2), codes(static_cast<size_t>(values));
    must(cudaMemcpy(bytes_in.data(), in[0].data() + first * r.width * 2, bytes_in.size(),
                    cudaMemcpyDeviceToHost),
         "download");
    must(cudaMemcpy(codes.data(), out[0].data() + first * r.width, codes.size(), cudaMemcpyDeviceToHost),
         "download");
    Matrix x(checked, r.width);
    x.values = decode(bytes_in.data(), values, Element::kBF16);
    c.expect_codes("codes", codes, reference::quantise(x).codes, 0);
  }
}

const Cases kBenches = [](Register& add) {
  for (const Rows& r :
       {Rows{1, 4608, 3072}, Rows{1, 4608, 12288}, Rows{1, 4608, 15360}, Rows{1, 512, 3072}}) {
    add.bench("quantise/rows/" + name_of(r), [r](Context& c) { bench(c, r); });
  }
};

}  // namespace
}  // namespace flux::testing
