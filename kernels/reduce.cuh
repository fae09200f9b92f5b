// Reductions over the threads that share a row, in an order that never changes.
#pragma once

#include <cuda_runtime.h>

namespace flux::kernels {

struct Sum {
  __device__ __forceinline__ float operator()(float a, float b) const { return a + b; }
};

// NaN operands are passed over, as fmaxf does.
struct Maximum {
  __device__ __forceinline__ float operator()(float a, float b) const { return fmaxf(a, b); }
};

// Over groups of kLanes threads: a power of two up to 32 within a warp, else the whole block of kLanes threads.
// Every thread of the block calls it; all threads of a group get the result. `scratch` holds one float for each warp.
template <int kLanes, typename Operation>
__device__ __forceinline__ float reduce_row(float value, Operation operation, float* scratch) {
  constexpr int kWithin = kLanes < 32 ? kLanes : 32;
#pragma unroll
  for (int offset = kWithin / 2; offset > 0; offset /= 2) {
    value = operation(value, __shfl_xor_sync(0xffffffffu, value, offset));
  }
  if constexpr (kLanes > 32) {
    constexpr int kWarps = kLanes / 32;
    __syncthreads();  // the previous reduction's readers are done with `scratch`
    if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = value;
    __syncthreads();
    value = scratch[0];
#pragma unroll
    for (int warp = 1; warp < kWarps; ++warp) value = operation(value, scratch[warp]);
  }
  return value;
}

}  // namespace flux::kernels
