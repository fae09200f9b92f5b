// Activations on f32 values. With the hardware's tanh: an absolute error under 2.5e-4·|x|, an eighth of bf16's rounding.
#pragma once

#include "ptx/convert.cuh"
#include "status.h"

namespace flux::kernels::gemm {

// x·(1 + tanh(u)) / 2
__device__ __forceinline__ float half_tanh_gate(float x, float u) {
  const float half = 0.5f * x;
  return fmaf(half, ptx::tanh_approx(u), half);
}

template <Activation kActivation>
__device__ __forceinline__ float activate(float x) {
  if constexpr (kActivation == Activation::kGelu) {
    // √(2/π)·(x + 0.044715·x³)
    return half_tanh_gate(x, x * fmaf(0.035677408136f * x, x, 0.7978845608f));
  } else if constexpr (kActivation == Activation::kSilu) {
    return half_tanh_gate(x, 0.5f * x);  // σ(x) = (1 + tanh(x / 2)) / 2
  } else if constexpr (kActivation == Activation::kQuickGelu) {
    return half_tanh_gate(x, 0.851f * x);
  } else {
    return x;
  }
}

// The switch is uniform: it costs one branch a panel.
template <int kCount>
__device__ __forceinline__ void activate_all(float (&values)[kCount], Activation activation) {
  switch (activation) {
    case Activation::kNone:
      break;
    case Activation::kGelu:
#pragma unroll
      for (float& value : values) value = activate<Activation::kGelu>(value);
      break;
    case Activation::kSilu:
#pragma unroll
      for (float& value : values) value = activate<Activation::kSilu>(value);
      break;
    case Activation::kQuickGelu:
#pragma unroll
      for (float& value : values) value = activate<Activation::kQuickGelu>(value);
      break;
  }
}

}  // namespace flux::kernels::gemm
