// Activations in f32. Each is x·σ(t) for some t, so that none cancels where it is small:
// SiLU t = x; GELU (tanh form) t = 2·√(2/π)·(x + 0.044715·x³), since (1 + tanh u) / 2 = σ(2u); quick GELU t = 1.702·x.
#pragma once

#include "status.h"

namespace flux::kernels {

// Relative error about 2^-21: one ex2 and one reciprocal.
__device__ __forceinline__ float x_times_sigmoid(float x, float t) {
  return __fdividef(x, 1.0f + __expf(-t));
}

__device__ __forceinline__ float silu(float x) { return x_times_sigmoid(x, x); }
__device__ __forceinline__ float gelu_tanh(float x) {
  return x_times_sigmoid(x, 1.5957691216057308f * x * fmaf(0.044715f * x, x, 1.0f));
}
__device__ __forceinline__ float quick_gelu(float x) { return x_times_sigmoid(x, 1.702f * x); }

__device__ __forceinline__ float activate(Activation activation, float x) {
  switch (activation) {
    case Activation::kGelu:
      return gelu_tanh(x);
    case Activation::kSilu:
      return silu(x);
    case Activation::kQuickGelu:
      return quick_gelu(x);
    default:
      return x;
  }
}

}  // namespace flux::kernels
