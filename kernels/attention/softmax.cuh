// Online softmax of one warpgroup's tile of scores, in the registers where wgmma left them.
//
// With w = log2-scaled scores (for 8-bit operands: plus the exponent of v) and a row's reference r:
//     p = 2^(w − r + base)      sum = Σ p · 2^-vExponent      O = Σ p · vCode      result = O / sum
// Any reference near the maximum will do: sum and O share it. It moves (and sum and O are multiplied) only when a new maximum
// exceeds it by more than `kSlack`; up to 2^(base + kSlack) fits P's type: 448 for e4m3. Once the first tile has been seen that is
// rare, and the multiplications of O are skipped.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp8.h>
#include <cuda_runtime.h>

#include <cstdint>

#include "ptx/convert.cuh"

namespace flux::kernels::attention {

__device__ __forceinline__ float exp2_approx(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

__device__ __forceinline__ float log2_approx(float x) {
  float y;
  asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

__device__ __forceinline__ float quad_max(float x) {
  x = fmaxf(x, __shfl_xor_sync(0xffffffff, x, 1));
  return fmaxf(x, __shfl_xor_sync(0xffffffff, x, 2));
}

__device__ __forceinline__ float quad_sum(float x) {
  x += __shfl_xor_sync(0xffffffff, x, 1);
  return x + __shfl_xor_sync(0xffffffff, x, 2);
}

// How P is held: its type's offset of the exponent, the slack, and its packing into wgmma's A fragments.
template <typename Value>
struct Probabilities;

template <>
struct Probabilities<__nv_bfloat16> {
  static constexpr float kBase = 0.0f, kSlack = 8.0f;
  static constexpr int kKeys = 16;  // per fragment
};

template <>
struct Probabilities<__nv_fp8_e4m3> {
  static constexpr float kBase = 8.0f, kSlack = 0.8f;
  // Where maxima are not looked for (hopper_softmax.cuh): the first tile's maximum lies this far below the reference, and scores this
  // far above it do not overflow f32 even when a thread's columns are summed.
  static constexpr float kHeadroom = 4.0f, kLimit = 108.0f;
  static constexpr int kKeys = 32;
};

// Fragment f of P from the accumulator's probabilities (ptx/wgmma.cuh has the accumulator's layout).
template <typename Value>
__device__ __forceinline__ void pack_fragment(uint32_t (&fragment)[4], const float* p);

template <>
__device__ __forceinline__ void pack_fragment<__nv_bfloat16>(uint32_t (&fragment)[4], const float* p) {
#pragma unroll
  for (int j = 0; j < 4; ++j) fragment[j] = ptx::cvt_rn_bf16x2(p[2 * j], p[2 * j + 1]);
}

// The tokens' order within 16 that makes this packing right is qkv_layout.cuh's.
template <>
__device__ __forceinline__ void pack_fragment<__nv_fp8_e4m3>(uint32_t (&fragment)[4], const float* p) {
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    const float* q = p + 8 * (j / 2) + 2 * (j % 2);
    fragment[j] =
        ptx::cvt_rn_satfinite_e4m3x2(q[0], q[1]) | uint32_t(ptx::cvt_rn_satfinite_e4m3x2(q[4], q[5])) << 16;
  }
}

// A thread's two rows: lane / 4 and 8 below.
struct Rows {
  float reference[2] = {-INFINITY, -INFINITY};
  float sum[2] = {0.0f, 0.0f};  // of this thread's columns

  // Takes in the maxima of a new tile. Returns whether O must be multiplied by `factor` in this warp.
  template <typename Value>
  __device__ __forceinline__ bool raise(const float (&maximum)[2], float (&factor)[2]) {
    constexpr float kSlack = Probabilities<Value>::kSlack;
    const bool above = maximum[0] > reference[0] + kSlack || maximum[1] > reference[1] + kSlack;
    if (!__any_sync(0xffffffff, above)) return false;
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const float raised = fmaxf(reference[h], maximum[h]);
      factor[h] = raised == -INFINITY ? 1.0f : exp2_approx(reference[h] - raised);
      sum[h] *= factor[h];
      reference[h] = raised;
    }
    return true;
  }

  // What is subtracted in the exponent: finite also for a row that has seen no key yet.
  __device__ __forceinline__ float offset(int h, float base) const {
    return base - (reference[h] == -INFINITY ? 0.0f : reference[h]);
  }
};

}  // namespace flux::kernels::attention
