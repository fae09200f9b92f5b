// y = activation(x · Wᵀ · scale + bias) for few rows of x: limited by reading the weight once.
#pragma once

#include "status.h"

namespace flux::kernels {

// x [m, k] bf16, weight [n, k] contiguous. m 1 to 64; n and k multiples of 16. Accumulation is f32.
// x, its stride and the weight are aligned to 16 bytes. Works from sm_80 on.
struct SmallLinear {
  const void* x = nullptr;  // bf16
  int64_t x_row_stride = 0;
  const void* weight = nullptr;
  Element weight_type = Element::kBF16;  // kBF16, or kE4M3 codes without NaN
  const float* weight_scale = nullptr;   // [n], with kE4M3
  const float* bias = nullptr;           // [n] or null
  void* y = nullptr;                     // [m, n] at y_row_stride
  int64_t y_row_stride = 0;
  Element y_type = Element::kBF16;  // kBF16 or kF32
  int m = 0;
  int n = 0;
  int k = 0;
  Activation input_activation =
      Activation::kNone;  // of x, kNone or kSilu: every multiprocessor computes it again
  Activation output_activation = Activation::kNone;
};

Status small_linear(const SmallLinear& linear, cudaStream_t stream);

}  // namespace flux::kernels
