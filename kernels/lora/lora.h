// What low-rank adapters need beside the GEMM's own branch (gemm/gemm.h: low and up).
#pragma once

#include "gemm/gemm.h"
#include "status.h"

namespace flux::kernels {

struct DownGroup {
  int64_t batches = 1;
  int64_t rows = 0;              // of one batch
  GemmRows<const void> x;        // [batches, rows, K] of `operand`
  const void* down = nullptr;    // [ranks, K] of `operand`
  const float* scale = nullptr;  // [ranks]
  GemmRows<void> low;            // bf16 [batches, rows, ranks]
};

// low = (x·downᵀ)·scale, in an order of sums that depends on the shape alone. e4m3 codes are multiplied as numbers, without
// their rows' scales: x's come after the GEMM's branch, down's are a part of `scale`.
struct DownProjection {
  Element operand = Element::kE4M3;  // or kBF16
  int64_t k = 0;                     // a multiple of 16
  int64_t ranks = 0;                 // of all parts; a multiple of 16
  const DownGroup* groups = nullptr;
  int group_count = 0;  // at most kGemmMaxGroups
};

// Pointers to matrices and their strides are multiples of 16 bytes. By wgmma (many ranks by gemm_hopper) on compute capability 9.0, by mma.sync from 8.0 on.
Status down_project(const DownProjection& call, cudaStream_t stream);
// The form by mma.sync, on any device.
Status down_project_portable(const DownProjection& call, cudaStream_t stream);

// What an adapter adds to a linear's bounds (quantise/quantise.h, weight_bounds), down as codes or bf16; with parts as in the GEMM's branch,
// bounds[0] = base[0] + 448·√K·max over n of w_scale[n]·Σ_r |scale_r|·‖down_r‖₂·|up[n, r]|, bounds[1] = base[1].
struct BranchBounds {
  const void* down = nullptr;          // [parts·rank, K]
  Element down_type = Element::kBF16;  // or kE4M3
  const float* scale = nullptr;        // [parts·rank]
  const void* up = nullptr;            // bf16 [N, rank], divided by w_scale
  const float* w_scale = nullptr;      // [N]
  const float* base = nullptr;         // [2]
  int64_t n = 0, k = 0, rank = 0;      // K a multiple of 4
  int parts = 1;
  int64_t begin[kGemmMaxParts] = {};  // of parts among the N columns; the first is 0
  float* norms = nullptr;             // [parts·rank], for the kernel's own use
  float* bounds = nullptr;            // [2]
};
Status branch_bounds(const BranchBounds& call, cudaStream_t stream);

// Rows of 16-bit numbers, one after another in memory that the device can read (of the host, if pinned), to rows `stride` apart.
// With a divisor they are bf16, and row i is divided by divisor[i].
struct StoreRows {
  const void* source = nullptr;  // [rows, columns]
  int64_t rows = 0, columns = 0;
  void* target = nullptr;
  int64_t stride = 0;              // in elements
  const float* divisor = nullptr;  // [rows], or none
};
Status store_rows(const StoreRows& call, cudaStream_t stream);

}  // namespace flux::kernels
