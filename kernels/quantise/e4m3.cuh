// A row's e4m3 scale and codes. One definition for every kernel that quantises:
//
//   scale = max|x| / 448 in f32 (1 for a row of zeros), code = e4m3(x / scale), to nearest even, saturating at ±448.
//
// NaN values are passed over by the maximum and become code 0x7f. An infinity makes the scale infinite: finite values of
// that row become zeros and the infinity becomes NaN (0x7f), so that what is computed from the row is NaN and not a wrong
// number. A row so small that max|x| / 448 underflows to 0 in f32 (max|x| under 3.2e-43) counts as zeros.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "ptx/convert.cuh"

namespace flux::kernels {

inline constexpr float kE4m3Max = 448.0f;

// Two codes, the first value's in the low byte.
__device__ __forceinline__ uint32_t e4m3x2(float low, float high) {
#if __CUDA_ARCH__ >= 890
  return ptx::cvt_rn_satfinite_e4m3x2(low, high);
#else
  // Rounded in f32: adding 1.5·2^(23 + e) leaves multiples of the code's step 2^e, e = max(exponent, -6) - 3.
  const auto code = [](float value) -> uint32_t {
    if (isnan(value)) return 0x7fu;
    const uint32_t sign = (__float_as_uint(value) >> 24) & 0x80u;
    const float magnitude = fminf(fabsf(value), kE4m3Max);
    const int exponent = max(int(__float_as_uint(magnitude) >> 23) - 127, -6);
    const float step = __uint_as_float(uint32_t(exponent - 3 + 127) << 23);
    const uint32_t steps = uint32_t(__float2int_rn(magnitude / step));
    return sign | (uint32_t(exponent + 6) * 8u + steps);
  };
  return code(low) | (code(high) << 8);
#endif
}

struct RowQuantiser {
  float scale;
  float raised;   // 1, or 2^64 where 1 / scale would overflow
  float divisor;  // scale · raised
  float inverse;  // 1 / divisor

  __device__ __forceinline__ explicit RowQuantiser(float largest) {
    const float quotient = largest / kE4m3Max;
    scale = quotient > 0.0f ? quotient : 1.0f;
    raised = scale < 0x1p-100f ? 0x1p64f : 1.0f;
    divisor = scale * raised;
    inverse = 1.0f / divisor;
  }

  // Eight codes. kExact asks for the correctly rounded quotient, by correcting the product with its own remainder
  // (Markstein 1990); else the product alone, which can move a value that lies within an ulp of the middle between codes.
  template <bool kExact>
  __device__ __forceinline__ uint2 codes(const float (&x)[8]) const {
    const bool correct = kExact && divisor < 0x1p126f;  // against an infinity the product alone is right
    float q[8];
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const float value = x[i] * raised;
      q[i] = value * inverse;
      if (correct) q[i] = fmaf(fmaf(-q[i], divisor, value), inverse, q[i]);
    }
    return make_uint2(e4m3x2(q[0], q[1]) | (e4m3x2(q[2], q[3]) << 16),
                      e4m3x2(q[4], q[5]) | (e4m3x2(q[6], q[7]) << 16));
  }
};

// As RowQuantiser but for an ulp or two of the scale and of the quotients, in a third of the instructions: for rows whose
// values are themselves rounded results, where now and then a code moves by a step anyway.
struct QuickQuantiser {
  float scale;
  float inverse;  // of scale, or of scale · 2^64 where 1 / scale would overflow
  bool raised;    // the latter

  __device__ __forceinline__ explicit QuickQuantiser(float largest) {
    const float quotient = largest * (1.0f / kE4m3Max);
    scale = quotient > 0.0f ? quotient : 1.0f;
    raised = scale < 0x1p-100f;
    inverse = ptx::rcp_approx(raised ? scale * 0x1p64f : scale);
  }

  // Brings a row's values to where `inverse` is right; nothing to do for nearly every row.
  template <int kChunks>
  __device__ __forceinline__ void raise(float (&x)[kChunks][8]) const {
    if (!raised) return;
#pragma unroll
    for (int c = 0; c < kChunks; ++c) {
#pragma unroll
      for (int i = 0; i < 8; ++i) x[c][i] *= 0x1p64f;
    }
  }

  // Eight codes of raised values.
  __device__ __forceinline__ uint2 codes(const float (&x)[8]) const {
    return make_uint2(
        e4m3x2(x[0] * inverse, x[1] * inverse) | (e4m3x2(x[2] * inverse, x[3] * inverse) << 16),
        e4m3x2(x[4] * inverse, x[5] * inverse) | (e4m3x2(x[6] * inverse, x[7] * inverse) << 16));
  }
};

}  // namespace flux::kernels
