// y = activation(x · Wᵀ + bias) for few rows of x: limited by reading the weight once.
#pragma once

#include "status.h"

namespace flux::kernels {

// x [m, k] and weight [n, k] in bf16, the weight contiguous. m 1 to 64; n and k multiples of 16. Accumulation is f32.
// x, its stride and the weight are aligned to 16 bytes. Works from sm_80 on.
struct SmallLinear {
  const void* x = nullptr;
  int64_t x_row_stride = 0;
  const void* weight = nullptr;
  const float* bias = nullptr;  // [n] or null
  void* y = nullptr;            // [m, n] at y_row_stride
  int64_t y_row_stride = 0;
  Element y_type = Element::kBF16;  // kBF16 or kF32
  int m = 0;
  int n = 0;
  int k = 0;
  Activation activation = Activation::kNone;
};

Status small_linear(const SmallLinear& linear, cudaStream_t stream);

}  // namespace flux::kernels
