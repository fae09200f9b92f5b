// The offset that centres k for the next attention over much the same keys: of a diffusion model's next step, say.
//
// softmax does not change when all k of a head lose one vector, and codes of k without their mean are finer. Whoever packs k cannot know its mean
// in time; who attends has all of k before it. So attention adds to the offset, which its k have lost already, the mean of a sample of
// what is left of them:
//     offset ← offset + Σ k[token(n)] / N        N = min(keys, 128), token(n) one of each of N equal runs of tokens
// A hundred tell the mean to a tenth of a deviation, which is nothing beside what codes leave. Places within runs follow a quadratic
// sequence: with a fixed stride a picture's rows are often met in a few columns alone, of which RoPE gives any mean.
//
// One warp takes a slice: a lane four bytes of every row, which are channels 8i + 2t + b of i = 8·(lane / 16) + 2·(lane % 4) + {0, 1},
// t = lane / 4 % 4, b = {0, 1} (qkv_layout.cuh). Sums are taken in one order, so results repeat bit for bit.
#pragma once

#include "attention/qkv_layout.cuh"

namespace flux::kernels::qkv {

inline constexpr uint32_t kSampledKeys = 128;

// The n-th of them.
__device__ __forceinline__ uint32_t sampled_key(uint32_t n, uint32_t keys) {
  if (keys <= kSampledKeys) return n;
  const uint32_t first = n * keys / kSampledKeys, run = (n + 1) * keys / kSampledKeys - first;
  return first + __umulhi(n * n * 0x9e3779b9u, run);
}

template <typename Code>
__device__ __forceinline__ void add_codes(float (&sum)[4], uint32_t codes, float scale);

template <>
__device__ __forceinline__ void add_codes<int8_t>(float (&sum)[4], uint32_t codes, float scale) {
#pragma unroll
  for (int e = 0; e < 4; ++e) sum[e] = fmaf(float(int8_t(codes >> 8 * e)), scale, sum[e]);
}

template <>
__device__ __forceinline__ void add_codes<__nv_fp8_e4m3>(float (&sum)[4], uint32_t codes, float scale) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const float2 pair = ptx::unpack_f16x2(ptx::cvt_rn_f16x2_e4m3x2(uint16_t(codes >> 16 * half)));
    sum[2 * half] = fmaf(pair.x, scale, sum[2 * half]);
    sum[2 * half + 1] = fmaf(pair.y, scale, sum[2 * half + 1]);
  }
}

// Volatile, so that what follows from it is found slice by slice and not kept: this runs in 32 registers.
__device__ __forceinline__ uint32_t lane_index() {
  uint32_t lane;
  asm volatile("mov.u32 %0, %%laneid;" : "=r"(lane));
  return lane;
}

// `rotate` backwards, of what lanes hold: its matrix is orthogonal, and symmetric but for the signs.
__device__ __forceinline__ void rotate_back(float (&x)[4], uint32_t lane) {
#pragma unroll
  for (int b = 0; b < 2; ++b) {
    const float even = x[b], odd = x[2 + b];
    x[b] = even + odd;
    x[2 + b] = even - odd;
  }
#pragma unroll
  for (const int bit : {1, 2, 16}) {
#pragma unroll
    for (float& v : x) {
      const float other = __shfl_xor_sync(0xffffffff, v, bit);
      v = lane & bit ? other - v : other + v;
    }
  }
#pragma unroll
  for (int e = 0; e < 4; ++e) {
    const int i = 8 * (lane / 16) + 2 * (lane % 4) + e / 2;
    x[e] *= negative_sign(i) ? -0.25f : 0.25f;
  }
}

// By a warp. rows, key_blocks, offset: of the slice.
template <typename Code>
__device__ __forceinline__ void update_key_offset(const uint8_t* rows, const float4* key_blocks, int keys,
                                                  float* offset) {
  const uint32_t lane = lane_index(), count = min(uint32_t(keys), kSampledKeys);
  float sum[4] = {};
#pragma unroll 1
  for (uint32_t first = 0; first < count; first += 32) {
    // A lane finds the place and the scale of one row, then all read the 32 rows.
    const bool sampled = first + lane < count;
    const uint32_t token = sampled ? sampled_key(first + lane, keys) : 0;
    const float scale = sampled ? __ldg(&key_blocks[token / kTokenBlock].x) : 0.0f;
#pragma unroll 4  // what 32 registers hold
    for (int i = 0; i < 32; ++i) {
      const uint32_t at = __shfl_sync(0xffffffff, token * kHeadDim, i) + 4 * lane;
      const uint32_t codes = __ldg(reinterpret_cast<const uint32_t*>(rows + at));
      add_codes<Code>(sum, codes, __shfl_sync(0xffffffff, scale, i));
    }
  }
  if constexpr (kRotated<Code>) rotate_back(sum, lane_index());
  float2* to = reinterpret_cast<float2*>(offset) + 4 * (8 * (lane / 16) + 2 * (lane % 4)) + lane / 4 % 4;
#pragma unroll
  for (int pair = 0; pair < 2; ++pair) {
    const float2 before = to[4 * pair];
    to[4 * pair] = {before.x + sum[2 * pair] / float(count), before.y + sum[2 * pair + 1] / float(count)};
  }
}

}  // namespace flux::kernels::qkv
