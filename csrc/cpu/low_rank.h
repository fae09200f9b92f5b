// The low-rank branch of linear and qkvLinear: a second, thin product beside the weight's own, tile by tile.
#pragma once

#include <memory>
#include <vector>

#include "cpu/checks.h"
#include "cpu/gemm.h"

namespace flux::cpu {

// The branch's sums for a tile: one row after another. Null data when the op has no branch.
struct LowTile {
  const float* sums = nullptr;
  int64_t ld = 0;

  // From this row and column of the tile on; null without a branch.
  const float* at(int64_t row, int64_t column) const {
    return sums == nullptr ? nullptr : sums + row * ld + column;
  }
};

// Checks low? [.., P·r], lowUp? [N, r] and the attributes part1 … part{P−1}.
class LowRank {
 public:
  LowRank(const OpCall& call, const TensorView& x, int64_t outputs);

  // In memory of the calling thread, good until its next call.
  LowTile tile(int64_t row, int64_t rows, int64_t column, int64_t columns) const;

 private:
  struct Part {
    TensorView low;  // its r columns
    std::unique_ptr<MatrixRows> rows;
    int64_t end;  // one past its last column of y
  };

  GemmSize size_{};
  std::vector<Part> parts_;
  std::unique_ptr<MatrixRows> up_;
};

}  // namespace flux::cpu
