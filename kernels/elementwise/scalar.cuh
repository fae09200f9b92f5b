// Single elements of a type known at run time.
#pragma once

#include <cuda_fp16.h>

#include "status.h"
#include "vector.cuh"

namespace flux::kernels {

__device__ __forceinline__ float load_scalar(const void* data, Element type, int64_t index) {
  switch (type) {
    case Element::kBF16:
      return __bfloat162float(static_cast<const bf16*>(data)[index]);
    case Element::kF16:
      return __half2float(static_cast<const __half*>(data)[index]);
    case Element::kU8:
      return float(static_cast<const uint8_t*>(data)[index]);
    default:
      return static_cast<const float*>(data)[index];
  }
}

__device__ __forceinline__ uint8_t saturated_u8(float value) {
  return uint8_t(__float2int_rn(fminf(fmaxf(value, 0.0f), 255.0f)));
}

__device__ __forceinline__ void store_scalar(void* data, Element type, int64_t index, float value) {
  switch (type) {
    case Element::kBF16:
      static_cast<bf16*>(data)[index] = __float2bfloat16_rn(value);
      break;
    case Element::kF16:
      static_cast<__half*>(data)[index] = __float2half_rn(value);
      break;
    case Element::kU8:
      static_cast<uint8_t*>(data)[index] = saturated_u8(value);
      break;
    default:
      static_cast<float*>(data)[index] = value;
  }
}

inline bool is_float(Element type) { return type == Element::kF32 || type == Element::kBF16; }

inline int size_of(Element type) {
  switch (type) {
    case Element::kF32:
    case Element::kI32:
      return 4;
    case Element::kBF16:
    case Element::kF16:
      return 2;
    default:
      return 1;
  }
}

}  // namespace flux::kernels
