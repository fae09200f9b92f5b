// RMSNorm and RoPE of int8 q and k, in pairs of rows (attention/head_pairs.cuh).
#pragma once

#include "attention/head_pairs.cuh"
#include "ptx/convert.cuh"

namespace flux::kernels::gemm {

// A head's columns divided by their root mean square, times `norm`'s weights; the power of two that keeps weights under 2 is returned:
// h times that is meant.
//   x        [row block]: a lane's 64 values of the head, in wgmma's layout, and perhaps more
//   squares  of each of a lane's rows, summed over the head
template <int kBlocks, int kValues>
__device__ __forceinline__ float normalise_in_pairs(qkv::HeadPairs (&h)[kBlocks],
                                                    const float (&x)[kBlocks][kValues],
                                                    const float (&squares)[kBlocks][2], const float* norm,
                                                    float eps, uint32_t lane) {
  const float2* weights = reinterpret_cast<const float2*>(norm);
  const float2 some = __ldg(weights + lane), others = __ldg(weights + 32 + lane);
  const float largest =
      qkv::warp_maximum(fmaxf(fmaxf(fabsf(some.x), fabsf(some.y)), fmaxf(fabsf(others.x), fabsf(others.y))));
  const float unit = qkv::power_below(largest), shrink = qkv::reciprocal_power(unit);
  float inverse[kBlocks][2];
#pragma unroll
  for (int block = 0; block < kBlocks; ++block) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float mean = fmaf(squares[block][half], 1.0f / qkv::kHeadDim, eps);
      inverse[block][half] = ptx::rsqrt_approx(fmaxf(mean, 0x1p-100f));
    }
  }
#pragma unroll
  for (int i = 0; i < 16; ++i) {
    const float2 weight = __ldg(weights + 4 * i + lane % 4);
    const __half2 both = __floats2half2_rn(weight.x * shrink, weight.y * shrink);
#pragma unroll
    for (int block = 0; block < kBlocks; ++block) {
      const float* row = x[block] + 4 * i;
      const __half2 left = __floats2half2_rn(row[0] * inverse[block][0], row[2] * inverse[block][1]);
      const __half2 right = __floats2half2_rn(row[1] * inverse[block][0], row[3] * inverse[block][1]);
      h[block][2 * i] = __hmul2(left, __low2half2(both));
      h[block][2 * i + 1] = __hmul2(right, __high2half2(both));
    }
  }
  return unit;
}

// What a head is to lose, in its unit: the addends of channels 8i + 2·(lane % 4) and the next. Zeros without an offset.
__device__ __forceinline__ void load_addends(__half2 (&addend)[16], const float* offset, float unit,
                                             uint32_t lane) {
  if (offset == nullptr) {
#pragma unroll
    for (__half2& pair : addend) pair = __float2half2_rn(0.0f);
    return;
  }
  const float factor = -qkv::reciprocal_power(unit);
#pragma unroll
  for (int i = 0; i < 16; ++i) {
    const float2 pair = __ldg(reinterpret_cast<const float2*>(offset) + 4 * i + lane % 4);
    addend[i] = __floats2half2_rn(pair.x * factor, pair.y * factor);
  }
}

// RoPE of a warp's 16 rows by their block of the table (attention/rope_pairs.cuh), plus addends.
__device__ __forceinline__ void turn(qkv::HeadPairs& h, const uint4* rope, uint32_t lane,
                                     const __half2 (&addend)[16]) {
#pragma unroll
  for (int j = 0; j < 8; ++j) {
    const qkv::RopeVector of = qkv::rope_vector(__ldg(rope + 32 * j + lane));
#pragma unroll
    for (int b = 0; b < 2; ++b) qkv::turn(h, 2 * j + b, of.cosine[b], of.sine[b], addend[2 * j + b]);
  }
}

}  // namespace flux::kernels::gemm
