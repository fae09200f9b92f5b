// int8 q and k for the QKV GEMM's epilogue, two rows to a word: what qkv_layout.cuh does to f32 values, in half the
// instructions. The epilogue runs beside another warpgroup's products and must not take longer than they do.
//
// Rows come in f16, divided by their root mean square and by a power of two, the `unit`, that keeps weights under 2, so |h| < 23, less an
// offset that is a mean of such rows 46, and rotated 181: nothing overflows, and f16's 2^-11 is small beside the codes' 2^-8. Only
// scales see the unit.
#pragma once

#include <cuda_fp16.h>

#include "attention/rope_pairs.cuh"

namespace flux::kernels::qkv {

// A lane's part of 16 tokens × 128 channels: [2i + b] is channel 8i + 2·(lane % 4) + b of token lane / 4 (low) and of the one 8
// further (high).
using HeadPairs = __half2[32];

// The largest power of two up to `largest`, within 2^±60; and 1 / power.
__device__ __forceinline__ float power_below(float largest) {
  return __uint_as_float(__float_as_uint(fminf(fmaxf(largest, 0x1p-60f), 0x1p60f)) & 0x7f800000u);
}
__device__ __forceinline__ float reciprocal_power(float power) {
  return __uint_as_float(0x7f000000u - __float_as_uint(power));
}

// RoPE of channels 8i + 2·(lane % 4) and the next, plus `addend` of them; cosine and sine are those of both rows.
__device__ __forceinline__ void turn(HeadPairs& h, int i, __half2 cosine, __half2 sine, __half2 addend) {
  const __half2 left = h[2 * i], right = h[2 * i + 1];
  h[2 * i] = __hfma2(left, cosine, __hfma2(__hneg2(right), sine, __low2half2(addend)));
  h[2 * i + 1] = __hfma2(right, cosine, __hfma2(left, sine, __high2half2(addend)));
}

// Four times the rotation of qkv_layout.cuh. Signs are not applied but decide between sum and difference: a block of rows that share their
// higher bits has the sign of its first.
__device__ __forceinline__ void rotate(HeadPairs& h) {
#pragma unroll
  for (int step = 1; step < 16; step *= 2) {
#pragma unroll
    for (int i = 0; i < 16; ++i) {
      if (i & step) continue;
      const int first = i & ~(step - 1);
      const bool opposed = negative_sign(first) != negative_sign(first + step);
#pragma unroll
      for (int b = 0; b < 2; ++b) {
        const __half2 left = h[2 * i + b], right = h[2 * (i + step) + b];
        h[2 * i + b] = opposed ? __hsub2(left, right) : __hadd2(left, right);
        h[2 * (i + step) + b] = opposed ? __hadd2(left, right) : __hsub2(left, right);
      }
    }
  }
}

// A lane's part of both rows' sum of squares, and their largest magnitudes.
__device__ __forceinline__ float2 squares_of(const HeadPairs& h) {
  __half2 sum[4];
#pragma unroll
  for (int i = 0; i < 32; ++i) sum[i % 4] = i < 4 ? __hmul2(h[i], h[i]) : __hfma2(h[i], h[i], sum[i % 4]);
  const float2 a = __half22float2(__hadd2(sum[0], sum[1])), b = __half22float2(__hadd2(sum[2], sum[3]));
  return {a.x + b.x, a.y + b.y};
}

__device__ __forceinline__ __half2 maxima_of(const HeadPairs& h) {
  __half2 maximum[4];
#pragma unroll
  for (int i = 0; i < 32; ++i)
    maximum[i % 4] = i < 4 ? __habs2(h[i]) : __hmax2(maximum[i % 4], __habs2(h[i]));
  return __hmax2(__hmax2(maximum[0], maximum[1]), __hmax2(maximum[2], maximum[3]));
}

// The largest of a warp's values, none of them negative.
__device__ __forceinline__ float warp_maximum(float value) {
  return __uint_as_float(__reduce_max_sync(0xffffffff, __float_as_uint(value)));
}

// Codes of h · inverse, 2 × 16 bytes of each row's 128; a row is stored if it is `present`.
__device__ __forceinline__ void store_rows(const HeadPairs& h, __half2 inverse, uint8_t* rows,
                                           const bool (&present)[2]) {
  const __half2 round =
      __float2half2_rn(1536.0f);  // 1.5 · 2^10: adding it leaves the rounded integer in the low byte
#pragma unroll
  for (int part = 0; part < 2; ++part) {
    uint32_t word[2][4];
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      uint32_t code[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) code[i] = as_word(__hfma2(h[2 * (8 * part + 2 * j) + i], inverse, round));
      const uint32_t low = __byte_perm(code[0], code[1], 0x6240),
                     high = __byte_perm(code[2], code[3], 0x6240);
      word[0][j] = __byte_perm(low, high, 0x5410);
      word[1][j] = __byte_perm(low, high, 0x7632);
    }
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      if (present[half]) {
        *reinterpret_cast<uint4*>(rows + half * 8 * kHeadDim + 64 * part + 16 * (threadIdx.x % 4)) =
            make_uint4(word[half][0], word[half][1], word[half][2], word[half][3]);
      }
    }
  }
}

// Of a lane's two rows, before and after the rotation: h · unit is meant.
struct PairMeasure {
  float2 squares;
  float2 maximum;
};

// Rotates, and measures over the four lanes that share a row, all blocks of 16 tokens at once, since a shuffle takes long.
template <int kBlocks>
__device__ __forceinline__ void rotate_and_measure(HeadPairs (&h)[kBlocks], PairMeasure (&measure)[kBlocks]) {
  __half2 maximum[kBlocks];
#pragma unroll
  for (int n = 0; n < kBlocks; ++n) {
    measure[n].squares = squares_of(h[n]);
    rotate(h[n]);
    maximum[n] = maxima_of(h[n]);
  }
#pragma unroll
  for (int offset = 1; offset <= 2; offset *= 2) {
#pragma unroll
    for (int n = 0; n < kBlocks; ++n) {
      measure[n].squares.x += __shfl_xor_sync(0xffffffff, measure[n].squares.x, offset);
      measure[n].squares.y += __shfl_xor_sync(0xffffffff, measure[n].squares.y, offset);
      maximum[n] = __hmax2(maximum[n], __shfl_xor_sync(0xffffffff, maximum[n], offset));
    }
  }
#pragma unroll
  for (int n = 0; n < kBlocks; ++n) measure[n].maximum = __half22float2(maximum[n]);
}

// Writes the scales and norms of a lane's two tokens of q, as far as they are present; gives what codes are h times of.
__device__ __forceinline__ __half2 store_query_scales(const PairMeasure& measure, float unit,
                                                      const bool (&present)[2], float2* query_rows) {
  // The scale is of the inverse as it is rounded, so that its rounding is no error. The inverse must stay finite.
  const __half2 inverse = __floats2half2_rn(__fdividef(127.0f, fmaxf(measure.maximum.x, 0x1p-8f)),
                                            __fdividef(127.0f, fmaxf(measure.maximum.y, 0x1p-8f)));
  if (threadIdx.x % 4 == 0) {
    const float2 rounded = __half22float2(inverse);
    const float scale = kRotationUnit<int8_t> * unit;
    if (present[0])
      query_rows[0] = {__fdividef(scale, rounded.x), unit * ptx::sqrt_approx(measure.squares.x)};
    if (present[1])
      query_rows[8] = {__fdividef(scale, rounded.y), unit * ptx::sqrt_approx(measure.squares.y)};
  }
  return inverse;
}

// The same of a warp's 16 tokens of k, which share them, if `write`.
__device__ __forceinline__ __half2 store_key_scales(const PairMeasure& measure, float unit,
                                                    const bool (&present)[2], float4* key_block, bool write) {
  const auto largest = [&](float2 rows) {
    return warp_maximum(fmaxf(present[0] ? rows.x : 0.0f, present[1] ? rows.y : 0.0f));
  };
  const float scale = row_scale<int8_t>(unit * largest(measure.maximum));
  const float norm = largest(measure.squares);
  if (write && threadIdx.x % 32 == 0) {
    *reinterpret_cast<float2*>(key_block) =
        make_float2(kRotationUnit<int8_t> * scale, unit * ptx::sqrt_approx(norm));
  }
  return __float2half2_rn(fminf(__fdividef(unit, scale), 65504.0f));
}

}  // namespace flux::kernels::qkv
