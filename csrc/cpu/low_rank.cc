#include "cpu/low_rank.h"

#include <algorithm>

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

}  // namespace flux::cpu
