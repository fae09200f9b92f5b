// What a cache over a step's blocks decides with, on the device: how far a residual moved, and whether to reuse the last one.
#pragma once

#include "elementwise/elementwise.h"

namespace flux::kernels {

// y [1] f32 = Σ|x − base − previous| / Σ|previous| over views of one extent and one type, f32 or bf16. Sums in f32, in an order
// that depends on the extent alone. `workspace`: relative_difference_workspace_bytes(extent), 8-byte aligned.
struct RelativeDifference {
  ConstView x, base, previous;
  Extent extent;
  float* y = nullptr;
  void* workspace = nullptr;
};
int64_t relative_difference_workspace_bytes(const Extent& extent);
Status relative_difference(const RelativeDifference& difference, cudaStream_t stream);

// The decision of one step; csrc/cpu/ops.h has the rule. All pointers are to device memory. At steps from `steps` on nothing is
// written down.
struct CacheDecision {
  const float* difference = nullptr;
  const float* threshold = nullptr;
  const int32_t* limits = nullptr;  // [2]: steps that are computed first, steps skipped in a row at most
  int32_t* state =
      nullptr;  // [4]: steps so far, skips in a row, last computed step, its distance to the one before
  float* differences = nullptr;  // [steps]
  int32_t* decisions = nullptr;  // [steps]
  int steps = 0;
  int32_t* compute = nullptr;
  int32_t* skip = nullptr;
  float* factor = nullptr;
};
Status cache_decision(const CacheDecision& decision, cudaStream_t stream);

}  // namespace flux::kernels
