// The linear for 1 to 64 rows.
#include <cmath>

#include "harness/case.h"
#include "kernels.h"
#include "reference/norms.h"

namespace flux::testing {
namespace {

using namespace kernels;

struct Shape {
  int m, n, k;
  Element output = Element::kBF16;
  Activation activation = Activation::kNone;
  bool bias = true;
  int gap = 0;  // between rows of x and of y
};

std::string name_of(const Shape& s) {
  std::string name = std::to_string(s.m) + "x" + std::to_string(s.n) + "x" + std::to_string(s.k) +
                     "/bf16-to-" + testing::name_of(s.output);
  if (s.activation != Activation::kNone) name += "/act";
  if (!s.bias) name += "/no-bias";
  if (s.gap) name += "/gap" + std::to_string(s.gap);
  return name;
}

Matrix expected(const Shape& s, const Matrix& x, const Matrix& weight, const Matrix& bias) {
  Matrix y(s.m, s.n);
  for (int64_t m = 0; m < s.m; ++m) {
    for (int64_t n = 0; n < s.n; ++n) {
      double sum = 0;
      for (int64_t k = 0; k < s.k; ++k) sum += double(x.at(m, k)) * weight.at(n, k);
      if (s.bias) sum += bias.at(0, n);
      y.at(m, n) = float(reference::activate(s.activation, sum));
    }
  }
  return y;
}

void test(Context& c, const Shape& s, const Matrix& x_values, const Matrix& weight_values) {
  const Matrix x = rounded_to(x_values, Element::kBF16), weight = rounded_to(weight_values, Element::kBF16);
  const Matrix bias = normal(1, s.n, 44);
  const Input x_in(x, Element::kBF16, s.k + s.gap), weight_in(weight, Element::kBF16),
      bias_in(bias, Element::kF32);
  Output y(s.m, s.n, s.output, s.n + s.gap);
  SmallLinear linear;
  linear.x = x_in.data();
  linear.x_row_stride = s.k + s.gap;
  linear.weight = weight_in.data();
  linear.bias = s.bias ? bias_in.data<float>() : nullptr;
  linear.y = y.data();
  linear.y_row_stride = s.n + s.gap;
  linear.y_type = s.output;
  linear.m = s.m;
  linear.n = s.n;
  linear.k = s.k;
  linear.activation = s.activation;
  if (c.run({&y}, [&] { return small_linear(linear, c.stream()); })) {
    c.expect_within("y", y.values(), expected(s, x, weight, bias),
                    s.output == Element::kF32 ? Tolerance{1e-6, -1, 2e-6} : kAfterBf16);
  }
}

void refusals(Context& c) {
  const DeviceBytes memory(1 << 20);
  SmallLinear linear;
  linear.x = linear.weight = memory.data();
  linear.y = memory.data();
  linear.m = 4, linear.n = linear.k = 64;
  linear.x_row_stride = linear.y_row_stride = 64;
  const auto expect_refused = [&](const char* what, const SmallLinear& changed) {
    c.expect_refused(what, small_linear(changed, c.stream()), Status::Code::kBadArgument);
  };
  SmallLinear changed = linear;
  changed.m = 65;
  expect_refused("65 rows", changed);
  changed = linear;
  changed.m = 0;
  expect_refused("no rows", changed);
  changed = linear;
  changed.k = 72;
  expect_refused("k of 72", changed);
  changed = linear;
  changed.n = 40;
  expect_refused("n of 40", changed);
  changed = linear;
  changed.y_type = Element::kE4M3;
  expect_refused("codes as output", changed);
  changed = linear;
  changed.x = memory.data() + 2;
  expect_refused("x off by one element", changed);
}

const Cases kTests = [](Register& add) {
  constexpr Element kBF16 = Element::kBF16, kF32 = Element::kF32;
  std::vector<Shape> shapes;
  for (const int m : {1, 2, 7, 8, 9, 16, 17, 28, 32, 33, 50, 63, 64}) shapes.push_back({m, 3072, 256, kF32});
  for (const Shape& s : {
           Shape{1, 18432, 3072},
           Shape{28, 18432, 3072},
           Shape{4, 3072, 768, kBF16, Activation::kSilu},
           Shape{3, 16, 16, kF32},
           Shape{5, 32, 48, kF32, Activation::kNone, false, 8},
           Shape{64, 2112, 400, kF32, Activation::kGelu, true, 16},
           Shape{2, 40016, 64, kF32},
           Shape{20, 12816, 400, kF32},
       }) {
    shapes.push_back(s);
  }
  for (const Shape& s : shapes) {
    add.test("gemv/" + name_of(s),
             [s](Context& c) { test(c, s, normal(s.m, s.k, 41), normal(s.n, s.k, 42)); });
  }
  const Shape s{28, 2128, 528, kF32};
  add.test("gemv/ramp", [s](Context& c) { test(c, s, index_ramp(s.m, s.k), index_ramp(s.n, s.k)); });
  add.test("gemv/one_hot", [s](Context& c) {
    test(c, s, one_hot(s.m, s.k, s.m - 1, s.k - 1), one_hot(s.n, s.k, s.n - 1, s.k - 1, 2.0f));
  });
  add.test("gemv/constant_rows",
           [s](Context& c) { test(c, s, constant_per_row(s.m, s.k), constant_per_row(s.n, s.k)); });
  add.test("gemv/refusals", refusals);
};

void bench(Context& c, const Shape& s) {
  const int64_t elements = int64_t(s.n) * s.k, weight_bytes = 2 * elements;
  const int sets = c.rotation(double(weight_bytes));
  std::vector<DeviceBytes> weights;
  for (int i = 0; i < sets; ++i) {
    weights.emplace_back(weight_bytes);
    fill_normal(weights.back().data(), elements, Element::kBF16, uint64_t(i));
  }
  const Matrix x = rounded_to(normal(s.m, s.k, 45), Element::kBF16), bias = normal(1, s.n, 47);
  const Input x_in(x, Element::kBF16), bias_in(bias, Element::kF32);
  Output y(s.m, s.n, s.output);
  SmallLinear linear;
  linear.x = x_in.data();
  linear.x_row_stride = s.k;
  linear.bias = bias_in.data<float>();
  linear.y = y.data();
  linear.y_row_stride = s.n;
  linear.y_type = s.output;
  linear.m = s.m, linear.n = s.n, linear.k = s.k;
  const auto launch = [&](int set) {
    linear.weight = weights[size_t(set)].data();
    return small_linear(linear, c.stream());
  };
  const double bytes =
      double(weight_bytes) + double(s.m) * s.k * 2 + double(s.m) * s.n * size_of(s.output) + 4.0 * s.n;
  c.measure({bytes}, sets, launch);

  if (!c.run({&y}, [&] { return launch(0); })) return;
  std::vector<uint8_t> bits(static_cast<size_t>(weight_bytes));
  must(cudaMemcpy(bits.data(), weights[0].data(), bits.size(), cudaMemcpyDeviceToHost), "download");
  // The first and last 256 channels say enough of a result that tests have checked in full.
  for (const int64_t first : {int64_t(0), int64_t(s.n - 256)}) {
    Shape part = s;
    part.n = 256;
    Matrix weight(256, s.k), part_bias(1, 256), got(s.m, 256);
    weight.values = decode(bits.data() + first * s.k * 2, 256 * int64_t(s.k), Element::kBF16);
    const Matrix all = y.values();
    for (int64_t n = 0; n < 256; ++n) {
      part_bias.at(0, n) = bias.at(0, first + n);
      for (int64_t m = 0; m < s.m; ++m) got.at(m, n) = all.at(m, first + n);
    }
    c.expect_within("y", got, expected(part, x, weight, part_bias), kAfterBf16);
  }
}

const Cases kBenches = [](Register& add) {
  for (const Shape& s : {Shape{1, 18432, 3072}, Shape{28, 18432, 3072}, Shape{64, 18432, 3072}}) {
    add.bench("gemv/" + name_of(s), [s](Context& c) { bench(c, s); });
  }
};

}  // namespace
}  // namespace flux::testing
