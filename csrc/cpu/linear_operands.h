// What linear and qkvLinear have in common: activations, weight in three dtypes, scales, bias, low-rank branch.
#pragma once

#include <memory>

#include "cpu/checks.h"
#include "cpu/gemm.h"
#include "cpu/low_rank.h"

namespace flux::cpu {

// Checks x [.., K], weight [N, K], weightScale? [N], bias? [N] and the low-rank branch. With an e4m3 weight x is
// quantised row by row on construction, into memory of the calling thread that the next LinearOperands reuses.
class LinearOperands {
 public:
  LinearOperands(const OpCall& call, ThreadPool& pool);

  const TensorView& x() const { return x_; }
  GemmSize size() const { return {rows_, outputs_, depth_}; }
  const PanelSource& left() const { return *left_; }
  const PanelSource& right() const { return *right_; }
  // Scales and bias for a row, from this column on.
  Epilogue epilogue(int64_t row, int64_t column) const;
  const LowRank& low_rank() const { return *low_rank_; }

 private:
  void quantise(ThreadPool& pool);

  const TensorView& x_;
  const TensorView& weight_;
  int64_t rows_, outputs_, depth_;
  const float* bias_;
  const float* column_scale_ = nullptr;
  const float* row_scale_ = nullptr;
  TensorView codes_;
  std::unique_ptr<MatrixRows> left_, right_;
  std::unique_ptr<LowRank> low_rank_;
};

}  // namespace flux::cpu
