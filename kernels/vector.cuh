// Eight values at a time: one 16-byte access of bf16, two of f32, one 8-byte access of e4m3 codes.
#pragma once

#include <cuda_bf16.h>

#include <cstdint>

#include "ptx/convert.cuh"

namespace flux::kernels {

using bf16 = __nv_bfloat16;

// The two halves of a word of packed bf16, the first element in the low half.
__device__ __forceinline__ float low_of(uint32_t packed) { return __uint_as_float(packed << 16); }
__device__ __forceinline__ float high_of(uint32_t packed) { return __uint_as_float(packed & 0xffff0000u); }

__device__ __forceinline__ void unpack8(const uint4& packed, float (&values)[8]) {
  values[0] = low_of(packed.x), values[1] = high_of(packed.x);
  values[2] = low_of(packed.y), values[3] = high_of(packed.y);
  values[4] = low_of(packed.z), values[5] = high_of(packed.z);
  values[6] = low_of(packed.w), values[7] = high_of(packed.w);
}

__device__ __forceinline__ void load8(const bf16* from, float (&values)[8]) {
  unpack8(*reinterpret_cast<const uint4*>(from), values);
}

__device__ __forceinline__ void load8(const float* from, float (&values)[8]) {
  const float4 a = reinterpret_cast<const float4*>(from)[0];
  const float4 b = reinterpret_cast<const float4*>(from)[1];
  values[0] = a.x, values[1] = a.y, values[2] = a.z, values[3] = a.w;
  values[4] = b.x, values[5] = b.y, values[6] = b.z, values[7] = b.w;
}

__device__ __forceinline__ void store8(bf16* to, const float (&values)[8]) {
  uint4 packed;
  packed.x = ptx::cvt_rn_bf16x2(values[0], values[1]);
  packed.y = ptx::cvt_rn_bf16x2(values[2], values[3]);
  packed.z = ptx::cvt_rn_bf16x2(values[4], values[5]);
  packed.w = ptx::cvt_rn_bf16x2(values[6], values[7]);
  *reinterpret_cast<uint4*>(to) = packed;
}

__device__ __forceinline__ void store8(float* to, const float (&values)[8]) {
  reinterpret_cast<float4*>(to)[0] = make_float4(values[0], values[1], values[2], values[3]);
  reinterpret_cast<float4*>(to)[1] = make_float4(values[4], values[5], values[6], values[7]);
}

// True when 16-byte accesses at `pointer` and at multiples of `stride` elements of `bytes` from it are aligned.
inline bool aligned16(const void* pointer, int64_t stride, int bytes) {
  return reinterpret_cast<uintptr_t>(pointer) % 16 == 0 && (stride * bytes) % 16 == 0;
}

}  // namespace flux::kernels
