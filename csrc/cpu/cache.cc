// What a cache over a step's blocks decides with: how far a residual moved, and whether the step may reuse the last one.
#include <cmath>
#include <string>

#include "cpu/checks.h"
#include "cpu/kernels.h"
#include "cpu/rows.h"
#include "cpu/scratch.h"

namespace flux::cpu {

void relative_difference(const OpCall& call, ThreadPool& pool) {
  const TensorView& x = operand(call, "x");
  const TensorView& base = operand(call, "base");
  const TensorView& previous = operand(call, "previous");
  const TensorView& y = operand(call, "y");
  expect_same_shape(call, "base", base, "x", x);
  expect_same_shape(call, "previous", previous, "x", x);
  expect_shape(call, "y", y, {1});

  struct Sums {
    double change, size;
  };
  thread_local Scratch scratch;
  const int64_t rows = x.rows(), inner = x.inner();
  Sums* sums = scratch.reserve<Sums>(rows);
  const RowOffsets x_rows(x), base_rows(base), previous_rows(previous);
  pool.parallel_for(rows, rows_per_chunk(inner), [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const float* to = x.as<const float>() + x_rows[row];
      const float* from = base.as<const float>() + base_rows[row];
      const float* last = previous.as<const float>() + previous_rows[row];
      Sums sum{0.0, 0.0};
      for (int64_t i = 0; i < inner; ++i) {
        sum.change += std::abs(to[i] - from[i] - last[i]);
        sum.size += std::abs(last[i]);
      }
      sums[row] = sum;
    }
  });
  Sums total{0.0, 0.0};
  for (int64_t row = 0; row < rows; ++row) {
    total.change += sums[row].change;
    total.size += sums[row].size;
  }
  *y.as<float>() = static_cast<float>(total.change / total.size);
}

void cache_decision(const OpCall& call, ThreadPool&) {
  const TensorView& difference = operand(call, "difference");
  const TensorView& threshold = operand(call, "threshold");
  const TensorView& limits = operand(call, "limits", {DType::kI32});
  const TensorView& state_view = operand(call, "state", {DType::kI32});
  const TensorView& differences = operand(call, "differences");
  const TensorView& decisions = operand(call, "decisions", {DType::kI32});
  const TensorView& compute = operand(call, "compute", {DType::kI32});
  const TensorView& skip = operand(call, "skip", {DType::kI32});
  const TensorView& factor = operand(call, "factor");
  expect_shape(call, "difference", difference, {1});
  expect_shape(call, "threshold", threshold, {1});
  expect_shape(call, "limits", limits, {2});
  expect_shape(call, "state", state_view, {4});
  expect_shape(call, "differences", differences, {-1});
  expect_same_shape(call, "decisions", decisions, "differences", differences);
  expect_shape(call, "compute", compute, {1});
  expect_shape(call, "skip", skip, {1});
  expect_shape(call, "factor", factor, {1});

  auto* state = state_view.as<int32_t>();
  int32_t &step = state[0], &skipped = state[1], &computed = state[2], &distance = state[3];
  if (step < 0 || step >= differences.shape[0]) {
    fail(call, "step " + std::to_string(step) + " is outside " + describe("differences", differences));
  }
  const auto* limit = limits.as<const int32_t>();
  const float change = *difference.as<const float>();
  const bool skips =
      step > 0 && step >= limit[0] && skipped < limit[1] && change < *threshold.as<const float>();
  *compute.as<int32_t>() = skips ? 0 : 1;
  *skip.as<int32_t>() = skips ? 1 : 0;
  *factor.as<float>() =
      skips && distance > 0 ? static_cast<float>(step - computed) / static_cast<float>(distance) : 0.0f;
  differences.as<float>()[step] = step > 0 ? change : 0.0f;
  decisions.as<int32_t>()[step] = skips ? 0 : 1;
  if (skips) {
    ++skipped;
  } else {
    distance = step > 0 ? step - computed : 0;
    computed = step;
    skipped = 0;
  }
  ++step;
}

}  // namespace flux::cpu
