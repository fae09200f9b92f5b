// The sampling loop's own ops: step counter, Euler update, noising, comparison.
#include <string>

#include "cpu/checks.h"
#include "cpu/kernels.h"
#include "cpu/rows.h"

namespace flux::cpu {

namespace {

// The step counter's value i, for which sigmas[i .. i + needed) must exist.
int64_t step_index(const OpCall& call, const TensorView& sigmas, int64_t needed) {
  const TensorView& step = operand(call, "step", {DType::kI32});
  expect_shape(call, "step", step, {1});
  expect_shape(call, "sigmas", sigmas, {-1});
  const int64_t index = step.as<const int32_t>()[0];
  if (index < 0 || index + needed > sigmas.shape[0]) {
    fail(call, "step " + std::to_string(index) + " is outside " + describe("sigmas", sigmas));
  }
  return index;
}

}  // namespace

void increment(const OpCall& call, ThreadPool&) {
  const TensorView& counter = operand(call, "counter", {DType::kI32});
  expect_shape(call, "counter", counter, {1});
  int32_t& value = counter.as<int32_t>()[0];
  if (value == INT32_MAX) fail(call, "counter is at its largest value");
  value += 1;
}

void euler_step(const OpCall& call, ThreadPool& pool) {
  const TensorView& latents = operand(call, "latents");
  const TensorView& velocity = operand(call, "velocity");
  const TensorView& sigmas = operand(call, "sigmas");
  const TensorView& y = operand(call, "y");
  expect_same_shape(call, "velocity", velocity, "latents", latents);
  expect_same_shape(call, "y", y, "latents", latents);
  const float* sigma = sigmas.as<const float>() + step_index(call, sigmas, 2);
  const float distance = sigma[1] - sigma[0];
  for_each_run<3>(pool, {&latents, &velocity, &y}, [&](const std::array<int64_t, 3>& at, int64_t n) {
    simd().add_scaled(latents.as<const float>() + at[0], velocity.as<const float>() + at[1], distance, n,
                      y.as<float>() + at[2]);
  });
}

void scale_noise(const OpCall& call, ThreadPool& pool) {
  const TensorView& x = operand(call, "x");
  const TensorView& noise = operand(call, "noise");
  const TensorView& sigmas = operand(call, "sigmas");
  const TensorView& y = operand(call, "y");
  expect_same_shape(call, "noise", noise, "x", x);
  expect_same_shape(call, "y", y, "x", x);
  const float sigma = sigmas.as<const float>()[step_index(call, sigmas, 1)];
  for_each_run<3>(pool, {&x, &noise, &y}, [&](const std::array<int64_t, 3>& at, int64_t n) {
    simd().combine(noise.as<const float>() + at[1], sigma, x.as<const float>() + at[0], 1.0f - sigma, n,
                   y.as<float>() + at[2]);
  });
}

void greater(const OpCall& call, ThreadPool&) {
  const TensorView& a = operand(call, "a");
  const TensorView& b = operand(call, "b");
  const TensorView& y = operand(call, "y", {DType::kI32});
  expect_shape(call, "a", a, {1});
  expect_shape(call, "b", b, {1});
  expect_shape(call, "y", y, {1});
  y.as<int32_t>()[0] = a.as<const float>()[0] > b.as<const float>()[0] ? 1 : 0;
}

}  // namespace flux::cpu
