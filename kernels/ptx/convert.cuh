// Packed conversions and approximate functions, one instruction each.
#pragma once

#include <cstdint>

namespace flux::ptx {

// Two f32 to bf16x2 by round to nearest even; `low` lands in the low half.
__device__ __forceinline__ uint32_t cvt_rn_bf16x2(float low, float high) {
  uint32_t packed;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
  return packed;
}

// bf16x2 to two f32; the low half is x.
__device__ __forceinline__ float2 unpack_bf16x2(uint32_t packed) {
  return {__uint_as_float(packed << 16), __uint_as_float(packed & 0xffff0000u)};
}

// Two f32 to e4m3x2 by round to nearest even, saturating at ±448; `low` lands in the low byte.
__device__ __forceinline__ uint16_t cvt_rn_satfinite_e4m3x2(float low, float high) {
  uint16_t packed;
  asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(packed) : "f"(high), "f"(low));
  return packed;
}

// Two e4m3 codes to f16x2, exactly (from sm_89 on); the low byte's value lands in the low half.
__device__ __forceinline__ uint32_t cvt_rn_f16x2_e4m3x2(uint16_t codes) {
  uint32_t packed;
  asm("cvt.rn.f16x2.e4m3x2 %0, %1;" : "=r"(packed) : "h"(codes));
  return packed;
}

// f16x2 to two f32; the low half is x.
__device__ __forceinline__ float2 unpack_f16x2(uint32_t packed) {
  float2 pair;
  asm("{.reg .f16 low, high; mov.b32 {low, high}, %2; cvt.f32.f16 %0, low; cvt.f32.f16 %1, high;}"
      : "=f"(pair.x), "=f"(pair.y)
      : "r"(packed));
  return pair;
}

// tanh with a relative error under 2^-11.
__device__ __forceinline__ float tanh_approx(float x) {
  float y;
  asm("tanh.approx.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// √x with a relative error under 2^-22; 0 of 0.
__device__ __forceinline__ float sqrt_approx(float x) {
  float y;
  asm("sqrt.approx.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// 1 / x with a relative error under 2^-22.
__device__ __forceinline__ float rcp_approx(float x) {
  float y;
  asm("rcp.approx.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// 1 / √x with a relative error under 2^-22.
__device__ __forceinline__ float rsqrt_approx(float x) {
  float y;
  asm("rsqrt.approx.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

}  // namespace flux::ptx
