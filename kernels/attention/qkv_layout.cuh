// How 8-bit attention wants its operands, and the device functions that write them.
//
// This is the only description of the layout. Whoever produces q, k and v (the QKV GEMM's epilogue, or the pack kernel for
// callers that bring bf16) holds, for 64 tokens of one head, a wgmma accumulator of 64 × 128 f32 values in a warpgroup and
// calls `store_query_tile`, `store_key_tile` or `store_value_tile`; the epilogue has int8 q and k in f16 instead
// (head_pairs.cuh). The attention kernel reads the result.
//
//   T tokens, S = batch · heads slices (batch-major), T₁₆ = ⌈T/16⌉, Tₚ = T rounded up to 64.
//   q, k       [S][T][128] bytes, int8 or e4m3. Channel c = 8i + 2t + b (i < 16, t < 4, b < 2) lies at byte
//              64·(i / 8) + 16t + 2·(i % 8) + b of its row: a lane of the accumulator writes 16 contiguous bytes, and since
//              q and k agree, q·k is what it was.
//              For int8 both are rotated first, which leaves q·k as it was, too, and spreads an outlier channel over 16, all of them
//              one lane's: y[8i + j] = ¼ Σ_m (−1)^popcount(i & m) σ(m) x[8m + j]. The signs σ(m) = (−1)^(m₀m₁ + m₂m₃) are a bent function,
//              so that what all 16 channels have in common spreads evenly as well. e4m3 keeps outliers by itself, and is not rotated.
//   queryRows  [S][Tₚ] float2 a token: {scale, norm}. q = code · scale; norm = |q|₂ bounds what its scores can be.
//   v          [S][T₁₆][128][16] bytes, e4m3: blocks of 16 tokens, in them a row a channel, in it the tokens in the order
//              0 1 8 9 2 3 10 11 4 5 12 13 6 7 14 15. A block row is a 16-byte row of wgmma's core matrices, so any number of
//              blocks is one flat copy and a valid operand; and the order is that in which a softmax accumulator, packed to
//              e4m3 in place, holds P along k. Slots of tokens ≥ T are zero.
//   keyBlocks  [S][Tₚ/16] float4 a block of 16 tokens: {kScale, kNorm, vExponent, 2^-vExponent}.
//              k = code · kScale: 16 tokens are what one warp of the producer holds, and in the softmax a factor for 16 columns costs
//              nothing where one for each column costs a multiplication an element. kNorm is the largest |k|₂ of the block.
//              v = code · 2^vExponent, equal over each 64 tokens (a warpgroup). A power of two changes no rounding; it only keeps tiny
//              and huge v inside e4m3's range, and joins the exponent of the softmax.
//
// Finite |q|, |k| < 2^60 and |v| < 2^32 are kept in range; |v| below 2^-70 become zero.
#pragma once

#include <cuda_fp8.h>
#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "ptx/barrier.cuh"
#include "ptx/convert.cuh"

namespace flux::kernels::qkv {

inline constexpr int kHeadDim = 128;
inline constexpr int kTokenBlock = 16;   // tokens in a block of v, and to a scale of k
inline constexpr int kScaleTokens = 64;  // tokens that share an exponent of v
inline constexpr int kMinExponent = -64, kMaxExponent = 24;

__host__ __device__ constexpr int padded_tokens(int tokens) { return (tokens + 63) / 64 * 64; }
__host__ __device__ constexpr int token_blocks(int tokens) { return (tokens + 15) / 16; }

// Bytes of one slice.
__host__ __device__ constexpr size_t scored_slice_bytes(int tokens) { return size_t(tokens) * kHeadDim; }
__host__ __device__ constexpr size_t value_slice_bytes(int tokens) {
  return size_t(token_blocks(tokens)) * 2048;
}

// Byte of channel c in a row of q or k.
__host__ __device__ constexpr int channel_position(int c) {
  const int i = c / 8, t = c / 2 % 4, b = c % 2;
  return 64 * (i / 8) + 16 * t + 2 * (i % 8) + b;
}

// Byte of a token (modulo 16) in a row of a block of v.
__host__ __device__ constexpr int token_slot(int token) {
  return token % 8 / 2 * 4 + token / 8 * 2 + token % 2;
}

// Byte of v[token][channel] in its slice.
__host__ __device__ constexpr size_t value_position(int token, int channel) {
  return size_t(token / kTokenBlock) * 2048 + channel * 16 + token_slot(token % kTokenBlock);
}

template <typename Code>
inline constexpr float kLargestCode = 127.0f;  // int8
template <>
inline constexpr float kLargestCode<__nv_fp8_e4m3> = 448.0f;

// Row scale for a row maximum: a code x / scale is at most the type's largest value.
template <typename Code>
__host__ __device__ constexpr float row_scale(float maximum) {
  return (maximum < 1e-30f ? 1e-30f : maximum > 0x1p60f ? 0x1p60f : maximum) / kLargestCode<Code>;
}

// The least e with maximum · 2^-e ≤ 448, within the limits; the lower limit for an all-zero group.
__device__ __forceinline__ int value_exponent(float maximum) {
  const int exponent = ((__float_as_int(maximum * (1.0f / 448.0f)) + 0x7fffff) >> 23) - 127;
  return min(max(exponent, kMinExponent), kMaxExponent);
}

template <typename Code>
inline constexpr bool kRotated = std::is_same_v<Code, int8_t>;
// What rotated values are multiplied with: `rotate` leaves out the ¼.
template <typename Code>
inline constexpr float kRotationUnit = kRotated<Code> ? 0.25f : 1.0f;

// Whether σ(m) is −1.
__device__ constexpr bool negative_sign(int m) { return ((m & m >> 1) ^ (m >> 2 & m >> 3)) & 1; }

// Both rows of a lane times 4: four steps of butterflies over i, the signs in the first.
__device__ __forceinline__ void rotate(float (&x)[64]) {
#pragma unroll
  for (int step = 1; step < 16; step *= 2) {
#pragma unroll
    for (int i = 0; i < 16; ++i) {
      if (i & step) continue;
      const bool negative = step == 1 && (i & 12) == 12, opposed = step == 1 && (i & 2);
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const float a = negative ? -x[4 * i + e] : x[4 * i + e];
        const float b = negative != opposed ? -x[4 * (i + step) + e] : x[4 * (i + step) + e];
        x[4 * i + e] = a + b;
        x[4 * (i + step) + e] = a - b;
      }
    }
  }
}

// From all rows of a lane: offset is the head's.
__device__ __forceinline__ void subtract_offset(float (&x)[64], const float* offset) {
  const float2* pairs = reinterpret_cast<const float2*>(offset) + threadIdx.x % 4;
#pragma unroll
  for (int i = 0; i < 16; ++i) {
    const float2 pair = __ldcg(pairs + 4 * i);
#pragma unroll
    for (int e = 0; e < 4; ++e) x[4 * i + e] -= e % 2 ? pair.y : pair.x;
  }
}

// Four codes of x · inverse, x[0] in the low byte.
template <typename Code>
__device__ __forceinline__ uint32_t pack_codes(float x0, float x1, float x2, float x3, float inverse);

template <>
__device__ __forceinline__ uint32_t pack_codes<int8_t>(float x0, float x1, float x2, float x3,
                                                       float inverse) {
  constexpr float kRound = 12582912.0f;  // 1.5 · 2^23: adding it leaves the rounded integer in the low bits
  const uint32_t b0 = __float_as_uint(fmaf(x0, inverse, kRound)),
                 b1 = __float_as_uint(fmaf(x1, inverse, kRound));
  const uint32_t b2 = __float_as_uint(fmaf(x2, inverse, kRound)),
                 b3 = __float_as_uint(fmaf(x3, inverse, kRound));
  return __byte_perm(__byte_perm(b0, b1, 0x0040), __byte_perm(b2, b3, 0x0040), 0x5410);
}

template <>
__device__ __forceinline__ uint32_t pack_codes<__nv_fp8_e4m3>(float x0, float x1, float x2, float x3,
                                                              float inverse) {
  return ptx::cvt_rn_satfinite_e4m3x2(x0 * inverse, x1 * inverse) |
         uint32_t(ptx::cvt_rn_satfinite_e4m3x2(x2 * inverse, x3 * inverse)) << 16;
}

// Codes of one row of a lane: 2 × 16 bytes of the 128.
template <typename Code>
__device__ __forceinline__ void store_row(const float (&x)[64], int half, float inverse, uint8_t* row) {
#pragma unroll
  for (int part = 0; part < 2; ++part) {
    uint32_t word[4];
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const float* pair = x + 4 * (8 * part + 2 * j) + 2 * half;
      word[j] = pack_codes<Code>(pair[0], pair[1], pair[4], pair[5], inverse);
    }
    *reinterpret_cast<uint4*>(row + 64 * part + 16 * (threadIdx.x % 4)) =
        make_uint4(word[0], word[1], word[2], word[3]);
  }
}

// Largest magnitude and sum of squares of one row, over the four lanes that share it.
__device__ __forceinline__ float2 measure_row(const float (&x)[64], int half) {
  float maximum = 0.0f, squares = 0.0f;
#pragma unroll
  for (int i = 0; i < 16; ++i) {
    const float a = x[4 * i + 2 * half], b = x[4 * i + 2 * half + 1];
    maximum = fmaxf(maximum, fmaxf(fabsf(a), fabsf(b)));
    squares = fmaf(a, a, fmaf(b, b, squares));
  }
#pragma unroll
  for (int offset = 1; offset <= 2; offset *= 2) {
    maximum = fmaxf(maximum, __shfl_xor_sync(0xffffffff, maximum, offset));
    squares += __shfl_xor_sync(0xffffffff, squares, offset);
  }
  return {maximum, squares};
}

// Quantises and stores 64 tokens of q of one head. All 128 threads of the warpgroup call it.
//   x       the accumulator: x[4i + 2h + b] is token 16·warp + lane / 4 + 8h, channel 8i + 2·(lane % 4) + b; overwritten
//   rows, query_rows   of the slice
//   first_token        of the tile in its sequence; tokens from `tokens` on are not stored
template <typename Code>
__device__ __forceinline__ void store_query_tile(float (&x)[64], int first_token, int tokens, uint8_t* rows,
                                                 float2* query_rows) {
  if constexpr (kRotated<Code>) rotate(x);
  constexpr float kUnit = kRotationUnit<Code>;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32 % 4;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const float2 measure = measure_row(x, half);
    const float scale = row_scale<Code>(measure.x);
    const int token = first_token + 16 * warp + lane / 4 + 8 * half;
    if (token >= tokens) continue;
    if (lane % 4 == 0) query_rows[token] = make_float2(kUnit * scale, kUnit * sqrtf(measure.y));
    store_row<Code>(x, half, 1.0f / scale, rows + size_t(token) * kHeadDim);
  }
}

// The same for k; first_token is a multiple of 16, key_blocks of the slice.
template <typename Code>
__device__ __forceinline__ void store_key_tile(float (&x)[64], int first_token, int tokens, uint8_t* rows,
                                               float4* key_blocks) {
  if constexpr (kRotated<Code>) rotate(x);
  constexpr float kUnit = kRotationUnit<Code>;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32 % 4;
  const int token = first_token + 16 * warp + lane / 4;
  float2 measure = {0.0f, 0.0f};
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const float2 row = measure_row(x, half);
    if (token + 8 * half < tokens) measure = {fmaxf(measure.x, row.x), fmaxf(measure.y, row.y)};
  }
#pragma unroll
  for (int offset = 4; offset <= 16; offset *= 2) {
    measure.x = fmaxf(measure.x, __shfl_xor_sync(0xffffffff, measure.x, offset));
    measure.y = fmaxf(measure.y, __shfl_xor_sync(0xffffffff, measure.y, offset));
  }
  const float scale = row_scale<Code>(measure.x);
  float4* block = key_blocks + first_token / kTokenBlock + warp;
  if (lane == 0) *reinterpret_cast<float2*>(block) = make_float2(kUnit * scale, kUnit * sqrtf(measure.y));
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    if (token + 8 * half < tokens) {
      store_row<Code>(x, half, 1.0f / scale, rows + size_t(token + 8 * half) * kHeadDim);
    }
  }
}

// Largest magnitude of a warp's 16 tokens of v, over whichever channels x holds: 4 values for 8 of them.
template <int kCount>
__device__ __forceinline__ float value_maximum(const float (&x)[kCount], const bool (&present)[2]) {
  float maximum[2] = {0.0f, 0.0f};
#pragma unroll
  for (int i = 0; i < kCount; ++i) maximum[i / 2 % 2] = fmaxf(maximum[i / 2 % 2], fabsf(x[i]));
  const float both = fmaxf(present[0] ? maximum[0] : 0.0f, present[1] ? maximum[1] : 0.0f);
  return __uint_as_float(__reduce_max_sync(0xffffffff, __float_as_uint(both)));
}

// Stores a warp's 16 tokens of v, from `channel` on, at `block` of the slice. inverse is 2^-exponent.
template <int kCount>
__device__ __forceinline__ void store_value_block(const float (&x)[kCount], const bool (&present)[2],
                                                  float inverse, int channel, uint8_t* block) {
  // Lanes 4 apart (tokens r and r + 1) trade: the even one takes channel c of both, the odd one channel c + 1, with the tokens 8
  // further that is the four tokens of one 32-bit slot, and the warp writes 128 contiguous bytes.
  const int lane = threadIdx.x % 32;
  const bool odd = lane / 4 % 2 != 0;
  const uint32_t mask = (present[0] ? 0x0000ffffu : 0u) | (present[1] ? 0xffff0000u : 0u);
  uint8_t* destination = block + (channel + 2 * (lane % 4) + odd) * 16 + lane / 8 * 4;
#pragma unroll
  for (int i = 0; i < kCount / 4; ++i) {
    const float* v = x + 4 * i;
    const uint32_t low = ptx::cvt_rn_satfinite_e4m3x2(v[0] * inverse, v[1] * inverse);
    const uint32_t high = ptx::cvt_rn_satfinite_e4m3x2(v[2] * inverse, v[3] * inverse);
    const uint32_t mine = (low | high << 16) & mask;  // bytes: (r, c) (r, c+1) (r+8, c) (r+8, c+1)
    const uint32_t theirs = __shfl_xor_sync(0xffffffff, mine, 4);
    const uint32_t word = odd ? __byte_perm(theirs, mine, 0x7351) : __byte_perm(mine, theirs, 0x6240);
    *reinterpret_cast<uint32_t*>(destination + i * 128) = word;
  }
}

// Writes the exponent of v of a block of 16 tokens. By one lane.
__device__ __forceinline__ void store_value_exponent(float4* key_block, int exponent, float inverse) {
  reinterpret_cast<float2*>(key_block)[1] = make_float2(float(exponent), inverse);
}

__device__ __forceinline__ float inverse_power(int exponent) {
  return __int_as_float((127 - exponent) << 23);
}

// Quantises and stores 64 tokens of v of one head. All 128 threads of the warpgroup call it.
//   x, first_token, tokens   as above; first_token is a multiple of 64
//   values, key_blocks       of the slice
//   scratch                  four floats of shared memory that are the warpgroup's own during the call
//   barrier                  a named barrier of the warpgroup's own
__device__ __forceinline__ void store_value_tile(const float (&x)[64], int first_token, int tokens,
                                                 uint8_t* values, float4* key_blocks, float* scratch,
                                                 int barrier) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32 % 4;
  const int token = first_token + 16 * warp + lane / 4;  // and the one 8 further
  const bool present[2] = {token < tokens, token + 8 < tokens};
  const float maximum = value_maximum(x, present);
  if (lane == 0) scratch[warp] = maximum;
  ptx::bar_sync(barrier, 128);
  const int exponent = value_exponent(fmaxf(fmaxf(scratch[0], scratch[1]), fmaxf(scratch[2], scratch[3])));
  const float inverse = inverse_power(exponent);
  const int block = first_token / kTokenBlock + warp;
  if (lane == 0) store_value_exponent(key_blocks + block, exponent, inverse);
  ptx::bar_sync(barrier, 128);  // scratch may be reused
  if (block >= token_blocks(tokens)) return;
  store_value_block(x, present, inverse, 0, values + size_t(block) * 2048);
}

}  // namespace flux::kernels::qkv
