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
  Element weight = Element::kBF16;
  Element output = Element::kBF16;
  Activation input_activation = Activation::kNone;
  Activation output_activation = Activation::kNone;
  bool bias = true;
  int gap = 0;  // between rows of x and of y
};

std::string name_of(const Shape& s) {
  std::string name = std::to_string(s.m) + "x" + std::to_string(s.n) + "x" + std::to_string(s.k) + "/" +
                     testing::name_of(s.weight) + "-to-" + testing::name_of(s.output);
  if (s.input_activation != Activation::kNone) name += "/silu-in";
  if (s.output_activation != Activation::kNone) name += "/act-out";
  if (!s.bias) name += "/no-bias";
  if (s.gap) name += "/gap" + std::to_string(s.gap);
  return name;
}

// y in double; `weight` are codes' values when it is quantised. An activated x is rounded to bf16, as the kernel does.
Matrix expected(const Shape& s, const Matrix& x, const Matrix& weight, const Matrix& scale,
                const Matrix& bias) {
  Matrix activated = x;
  if (s.input_activation != Activation::kNone) {
    for (float& value : activated.values) value = float(reference::activate(s.input_activation, value));
    activated = rounded_to(activated, Element::kBF16);
  }
  Matrix y(s.m, s.n);
  for (int64_t m = 0; m < s.m; ++m) {
    for (int64_t n = 0; n < s.n; ++n) {
      double sum = 0;
      for (int64_t k = 0; k < s.k; ++k) sum += double(activated.at(m, k)) * weight.at(n, k);
      if (s.weight == Element::kE4M3) sum *= scale.at(n, 0);
      if (s.bias) sum += bias.at(0, n);
      y.at(m, n) = float(reference::activate(s.output_activation, sum));
    }
  }
  return y;
}

void test(Context& c, const Shape& s, const Matrix& x_values, const Matrix& weight_values) {
  const bool codes = s.weight == Element::kE4M3;
  const Matrix x = rounded_to(x_values, Element::kBF16);
  const Matrix weight = rounded_to(weight_values, s.weight);
  const Matrix scale = uniform(s.n, 1, 43, 0.5f, 2.0f), bias = normal(1, s.n, 44);
  const Input x_in(x, Element::kBF16, s.k + s.gap), weight_in(weight, s.weight),
      scale_in(scale, Element::kF32), bias_in(bias, Element::kF32);
  Output y(s.m, s.n, s.output, s.n + s.gap);
  SmallLinear linear;
  linear.x = x_in.data();
  linear.x_row_stride = s.k + s.gap;
  linear.weight = weight_in.data();
  linear.weight_type = s.weight;
  linear.weight_scale = codes ? scale_in.data<float>() : nullptr;
  linear.bias = s.bias ? bias_in.data<float>() : nullptr;
  linear.y = y.data();
  linear.y_row_stride = s.n + s.gap;
  linear.y_type = s.output;
  linear.m = s.m;
  linear.n = s.n;
  linear.k = s.k;
  linear.input_activation = s.input_activation;
  linear.output_activation = s.output_activation;
  // With SiLU on the way in, x may fall to the other side of a rounding: a few values differ by 2^-9.
  const bool in = s.input_activation != Activation::kNone;
  const Tolerance exact{in ? 2e-4 : 1e-6, -1, in ? 4e-4 : 2e-6};
  if (c.run({&y}, [&] { return small_linear(linear, c.stream()); })) {
    c.expect_within("y", y.values(), expected(s, x, weight, scale, bias),
                    s.output == Element::kF32 ? exact : kAfterBf16);
  }
}

// Every finite code comes out as its exact value: column k of the weight holds code k, x picks one column.
void all_codes(Context& c) {
  Matrix weight(16, 256), x(64, 256);
  for (int64_t code = 0; code < 256; ++code) {
    const float value = e4m3_to_float(uint8_t(code));
    for (int64_t n = 0; n < 16; ++n) weight.at(n, code) = std::isnan(value) ? 0.0f : value;
  }
  for (int first = 0; first < 256; first += 64) {
    for (float& value : x.values) value = 0.0f;
    for (int64_t m = 0; m < 64; ++m) x.at(m, first + m) = 1.0f;
    Shape s{64, 16, 256, Element::kE4M3, Element::kF32};
    test(c, s, x, weight);
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
  changed.weight_type = Element::kE4M3;
  expect_refused("codes without scale", changed);
  changed = linear;
  changed.weight_type = Element::kF16;
  expect_refused("f16 weights", changed);
  changed = linear;
  changed.x = memory.data() + 2;
  expect_refused("x off by one element", changed);
  changed = linear;
  changed.input_activation = Activation::kGelu;
  expect_refused("GELU on the way in", changed);
}

const Cases kTests = [](Register& add) {
  constexpr Element kBF16 = Element::kBF16, kF32 = Element::kF32, kE4M3 = Element::kE4M3;
  constexpr Activation kNone = Activation::kNone, kSilu = Activation::kSilu;
  std::vector<Shape> shapes;
  for (const int m : {1, 2, 7, 8, 9, 16, 17, 28, 32, 33, 50, 63, 64}) {
    shapes.push_back({m, 3072, 256, kBF16, kF32});
    shapes.push_back({m, 528, 784, kE4M3, kF32});
  }
  for (const Shape& s : {
           Shape{1, 18432, 3072},
           Shape{28, 18432, 3072, kBF16, kBF16, kSilu},
           Shape{28, 9216, 3072, kE4M3, kF32},
           Shape{4, 3072, 768, kBF16, kBF16, kNone, kSilu},
           Shape{4, 3072, 3072, kE4M3, kBF16, kSilu, kSilu},
           Shape{3, 16, 16, kBF16, kF32},
           Shape{3, 16, 16, kE4M3, kF32},
           Shape{5, 32, 48, kBF16, kF32, kNone, kNone, false, 8},
           Shape{64, 2112, 400, kBF16, kF32, kSilu, Activation::kGelu, true, 16},
           Shape{2, 40016, 64, kBF16, kF32},
           Shape{1, 6144, 3072, kE4M3, kF32, kNone, kNone, false},
       }) {
    shapes.push_back(s);
  }
  for (const Shape& s : shapes) {
    add.test("gemv/" + name_of(s),
             [s](Context& c) { test(c, s, normal(s.m, s.k, 41), normal(s.n, s.k, 42)); });
  }
  // Whatever x is scaled by on its way into f16 must not show.
  for (const int exponent : {-100, -30, 100}) {
    add.test("gemv/x_times_2^" + std::to_string(exponent), [exponent](Context& c) {
      Matrix x = normal(28, 784, 48);
      for (float& value : x.values) value = std::ldexp(value, exponent);
      test(c, {28, 528, 784, kE4M3, kF32, kNone, kNone, false}, x, normal(528, 784, 49));
    });
  }
  const Shape layout{28, 2128, 528, kBF16, kF32};
  Shape layout_codes = layout;
  layout_codes.weight = kE4M3;
  for (const Shape& s : {layout, layout_codes}) {
    const std::string type = testing::name_of(s.weight);
    add.test("gemv/ramp/" + type,
             [s](Context& c) { test(c, s, index_ramp(s.m, s.k), index_ramp(s.n, s.k)); });
    add.test("gemv/one_hot/" + type, [s](Context& c) {
      test(c, s, one_hot(s.m, s.k, s.m - 1, s.k - 1), one_hot(s.n, s.k, s.n - 1, s.k - 1, 2.0f));
    });
    add.test("gemv/constant_rows/" + type,
             [s](Context& c) { test(c, s, constant_per_row(s.m, s.k), constant_per_row(s.n, s.k)); });
  }
  add.test("gemv/all_codes", all_codes);
  add.test("gemv/refusals", refusals);
};

void bench(Context& c, const Shape& s) {
  const int64_t elements = int64_t(s.n) * s.k, weight_bytes = elements * size_of(s.weight);
  const int sets = c.rotation(double(weight_bytes));
  std::vector<DeviceBytes> weights;
  for (int i = 0; i < sets; ++i) {
    weights.emplace_back(weight_bytes);
    fill_normal(weights.back().data(), elements, s.weight, uint64_t(i));
  }
  const Matrix x = rounded_to(normal(s.m, s.k, 45), Element::kBF16), scale = uniform(s.n, 1, 46, 0.5f, 2.0f);
  const Matrix bias = normal(1, s.n, 47);
  const Input x_in(x, Element::kBF16), scale_in(scale, Element::kF32), bias_in(bias, Element::kF32);
  Output y(s.m, s.n, s.output);
  SmallLinear linear;
  linear.x = x_in.data();
  linear.x_row_stride = s.k;
  linear.weight_type = s.weight;
  linear.weight_scale = s.weight == Element::kE4M3 ? scale_in.data<float>() : nullptr;
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
      double(weight_bytes) + double(s.m) * s.k * 2 + double(s.m) * s.n * size_of(s.output) + 8.0 * s.n;
  c.measure({bytes}, sets, launch);

  if (!c.run({&y}, [&] { return launch(0); })) return;
  std::vector<uint8_t> codes(static_cast<size_t>(weight_bytes));
  must(cudaMemcpy(codes.data(), weights[0].data(), codes.size(), cudaMemcpyDeviceToHost), "download");
  // The first and last 256 channels say enough of a result that tests have checked in full.
  for (const int64_t first : {int64_t(0), int64_t(s.n - 256)}) {
    Shape part = s;
    part.n = 256;
    Matrix weight(256, s.k), part_scale(256, 1), part_bias(1, 256), got(s.m, 256);
    weight.values = decode(codes.data() + first * s.k * size_of(s.weight), 256 * int64_t(s.k), s.weight);
    const Matrix all = y.values();
    for (int64_t n = 0; n < 256; ++n) {
      part_scale.at(n, 0) = scale.at(first + n, 0);
      part_bias.at(0, n) = bias.at(0, first + n);
      for (int64_t m = 0; m < s.m; ++m) got.at(m, n) = all.at(m, first + n);
    }
    c.expect_within("y", got, expected(part, x, weight, part_scale, part_bias), kAfterBf16);
  }
}

const Cases kBenches = [](Register& add) {
  for (const Element weight : {Element::kBF16, Element::kE4M3}) {
    for (const int m : {1, 8, 28, 50, 64}) {
      const Shape s{m, 18432, 3072, weight};
      add.bench("gemv/" + name_of(s), [s](Context& c) { bench(c, s); });
    }
  }
  for (const Shape& s : {Shape{28, 9216, 3072}, Shape{28, 3072, 3072}, Shape{1, 3072, 768}}) {
    add.bench("gemv/" + name_of(s), [s](Context& c) { bench(c, s); });
  }
};

}  // namespace
}  // namespace flux::testing
