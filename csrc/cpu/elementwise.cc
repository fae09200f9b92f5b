// Ops on elements at equal places: add, subtract, addScaled, multiply, activation, guide.
#include <algorithm>

#include "cpu/checks.h"
#include "cpu/kernels.h"
#include "cpu/rows.h"

namespace flux::cpu {

namespace {

// Two inputs and y of one shape; run(a, b, n, y) on each run of elements.
template <typename Run>
void binary(const OpCall& call, ThreadPool& pool, std::string_view a_name, std::string_view b_name,
            const Run& run) {
  const TensorView& a = operand(call, a_name);
  const TensorView& b = operand(call, b_name);
  const TensorView& y = operand(call, "y");
  expect_same_shape(call, b_name, b, a_name, a);
  expect_same_shape(call, "y", y, a_name, a);
  for_each_run<3>(pool, {&a, &b, &y}, [&](const std::array<int64_t, 3>& at, int64_t n) {
    run(a.as<const float>() + at[0], b.as<const float>() + at[1], n, y.as<float>() + at[2]);
  });
}

}  // namespace

void add(const OpCall& call, ThreadPool& pool) {
  binary(call, pool, "a", "b",
         [](const float* a, const float* b, int64_t n, float* y) { simd().add_scaled(a, b, 1.0f, n, y); });
}

void subtract(const OpCall& call, ThreadPool& pool) {
  binary(call, pool, "a", "b",
         [](const float* a, const float* b, int64_t n, float* y) { simd().add_scaled(a, b, -1.0f, n, y); });
}

void add_scaled(const OpCall& call, ThreadPool& pool) {
  const TensorView& scale = operand(call, "factor");
  expect_shape(call, "factor", scale, {1});
  const float factor = *scale.as<const float>();
  binary(call, pool, "x", "a", [factor](const float* x, const float* a, int64_t n, float* y) {
    if (factor != 0.0f) {
      simd().add_scaled(x, a, factor, n, y);
    } else if (y != x) {
      std::copy_n(x, n, y);
    }
  });
}

void multiply(const OpCall& call, ThreadPool& pool) {
  const Activation act = activation_attribute(call);
  binary(call, pool, "a", "b",
         [act](const float* a, const float* b, int64_t n, float* y) { simd().multiply(a, b, n, act, y); });
}

void guide(const OpCall& call, ThreadPool& pool) {
  const float scale = float_attribute(call, "scale");
  binary(call, pool, "uncond", "cond", [scale](const float* uncond, const float* cond, int64_t n, float* y) {
    simd().interpolate(uncond, cond, scale, n, y);
  });
}

void activation(const OpCall& call, ThreadPool& pool) {
  const TensorView& x = operand(call, "x");
  const TensorView& y = operand(call, "y");
  expect_same_shape(call, "y", y, "x", x);
  const Activation act = activation_attribute(call);
  for_each_run<2>(pool, {&x, &y}, [&](const std::array<int64_t, 2>& at, int64_t n) {
    simd().activate(x.as<const float>() + at[0], n, act, y.as<float>() + at[1]);
  });
}

}  // namespace flux::cpu
