// The low-rank branch, and what it adds to its linear's bounds.
#include "cpu/low_rank.h"

#include <algorithm>
#include <cmath>

#include "cpu/kernels.h"
#include "cpu/scratch.h"

namespace flux::cpu {

LowRank::LowRank(const OpCall& call, const TensorView& x, int64_t outputs) {
  const TensorView* low = optional_operand(call, "low");
  const TensorView* up = optional_operand(call, "lowUp", {DType::kF32, DType::kBF16});
  if ((low == nullptr) != (up == nullptr)) fail(call, "low and lowUp go together");
  if (low == nullptr) return;
  expect_same_rows(call, "low", *low, "x", x);
  expect_shape(call, "lowUp", *up, {outputs, -1});
  const int64_t rank = up->inner();
  if (rank < 1 || low->inner() < rank || low->inner() % rank != 0) {
    fail(call, describe("low", *low) + " must have a multiple of the columns of " + describe("lowUp", *up));
  }
  const int64_t count = low->inner() / rank;
  size_ = {x.rows(), outputs, rank};
  up_ = std::make_unique<MatrixRows>(*up);
  parts_.resize(static_cast<size_t>(count));
  int64_t begin = 0;
  for (int64_t p = 0; p < count; ++p) {
    Part& part = parts_[static_cast<size_t>(p)];
    const bool last = p + 1 == count;
    part.end = last ? outputs : integer_attribute(call, "part" + std::to_string(p + 1), begin, outputs);
    begin = part.end;
    part.low = *low;
    part.low.data = low->as<float>() + p * rank;
    part.low.shape[low->rank - 1] = rank;
    part.rows = std::make_unique<MatrixRows>(part.low);
  }
}

LowTile LowRank::tile(int64_t row, int64_t rows, int64_t column, int64_t columns) const {
  if (parts_.empty()) return {};
  thread_local Scratch scratch;
  const int64_t ld = columns + simd().tile_columns;
  float* sums = scratch.reserve<float>(rows * ld);
  // In ascending order: a part's last panel may reach into the columns of the next, which come after it.
  const auto holds = [](int64_t at, const Part& part) { return at < part.end; };
  auto part = std::upper_bound(parts_.begin(), parts_.end(), column, holds);
  for (int64_t at = column; at < column + columns; ++part) {
    const int64_t end = std::min(part->end, column + columns);
    if (end == at) continue;
    gemm_tile(size_, *part->rows, *up_, row, rows, at, end - at, sums + (at - column), ld);
    at = end;
  }
  return {sums, ld};
}

void branch_bounds(const OpCall& call, ThreadPool&) {
  const TensorView& down = operand(call, "down", {DType::kF32, DType::kBF16, DType::kF8E4M3});
  const TensorView& up = operand(call, "up", {DType::kF32, DType::kBF16});
  const TensorView& scale = operand(call, "scale");
  const TensorView& weight_scale = operand(call, "weightScale");
  const TensorView& base = operand(call, "base");
  const TensorView& y = operand(call, "y");
  const int64_t channels = up.rows(), rank = up.inner(), ranks = down.rows(), width = down.inner();
  if (ranks < rank || ranks % rank != 0)
    fail(call, describe("down", down) + " must have a multiple of the columns of " + describe("up", up));
  expect_shape(call, "scale", scale, {ranks});
  expect_shape(call, "weightScale", weight_scale, {channels});
  expect_shape(call, "base", base, {2});
  expect_shape(call, "y", y, {2});
  const auto value = [](const TensorView& view, int64_t row, int64_t column) {
    const int64_t at = row * view.stride[0] + column;
    if (view.dtype == DType::kF8E4M3) return double{e4m3_to_f32(view.as<const uint8_t>()[at])};
    return view.dtype == DType::kF32 ? double{view.as<const float>()[at]}
                                     : double{bf16_to_f32(view.as<const uint16_t>()[at])};
  };
  std::vector<double> norms;
  for (int64_t r = 0; r < ranks; ++r) {
    double squares = 0.0;
    for (int64_t k = 0; k < width; ++k) squares += value(down, r, k) * value(down, r, k);
    norms.push_back(std::abs(double{scale.as<const float>()[r]}) * std::sqrt(squares));
  }
  double most = 0.0;
  int64_t part = 0;
  for (int64_t n = 0; n < channels; ++n) {
    while (part + 1 < ranks / rank &&
           n >= integer_attribute(call, "part" + std::to_string(part + 1), 0, channels))
      ++part;
    double sum = 0.0;
    for (int64_t r = 0; r < rank; ++r)
      sum += norms[static_cast<size_t>(part * rank + r)] * std::abs(value(up, n, r));
    most = std::max(most, sum * weight_scale.as<const float>()[n]);
  }
  const float of_weight = base.as<const float>()[0];
  y.as<float>()[1] = base.as<const float>()[1];
  y.as<float>()[0] = static_cast<float>(of_weight + 448.0 * std::sqrt(static_cast<double>(width)) * most);
}

}  // namespace flux::cpu
