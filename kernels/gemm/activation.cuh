// Activations on f32 values. With the hardware's tanh: an absolute error under 2.5e-4·|x|, an eighth of bf16's rounding.
#pragma once

#include "ptx/convert.cuh"
#include "status.h"

namespace flux::kernels::gemm {

// half·(1 + tanh(u))
__device__ __forceinline__ float tanh_gate(float half, float u) {
  return fmaf(half, ptx::tanh_approx(u), half);
}

// unit · activation(x)
template <Activation kActivation>
__device__ __forceinline__ float activate(float x, float unit = 1.0f) {
  const float half = 0.5f * unit * x;  // unit is one of few: the compiler halves it once
  if constexpr (kActivation == Activation::kGelu) {
    // √(2/π)·(x + 0.044715·x³)
    return tanh_gate(half, x * fmaf(0.035677408136f * x, x, 0.7978845608f));
  } else if constexpr (kActivation == Activation::kSilu) {
    return tanh_gate(half, 0.5f * x);  // σ(x) = (1 + tanh(x / 2)) / 2
  } else if constexpr (kActivation == Activation::kQuickGelu) {
    return tanh_gate(half, 0.851f * x);
  } else {
    return unit * x;
  }
}

template <Activation kActivation, int kCount>
__device__ __forceinline__ void activate_each(float (&values)[kCount], const float (&units)[2]) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) values[i] = activate<kActivation>(values[i], units[i / 2 % 2]);
}

// Of a thread's two rows in wgmma's layout, each with its unit. The switch is uniform: it costs one branch a panel.
template <int kCount>
__device__ __forceinline__ void activate_all(float (&values)[kCount], Activation activation,
                                             const float (&units)[2]) {
  switch (activation) {
    case Activation::kNone:
      return activate_each<Activation::kNone>(values, units);
    case Activation::kGelu:
      return activate_each<Activation::kGelu>(values, units);
    case Activation::kSilu:
      return activate_each<Activation::kSilu>(values, units);
    case Activation::kQuickGelu:
      return activate_each<Activation::kQuickGelu>(values, units);
  }
}

}  // namespace flux::kernels::gemm
