// RMSNorm and RoPE of int8 q and k, in pairs of rows (attention/head_pairs.cuh).
#pragma once

#include "attention/head_pairs.cuh"
#include "ptx/convert.cuh"
#include "ptx/shared.cuh"

namespace flux::kernels::gemm {

// What a warp keeps of a head in shared memory while its products are summed: norm's weights and what k is to lose, in f16 and in the unit, the power
// of two that keeps weights under 2. Of both, lane % 4 finds the pairs of channels 8i + 2·(lane % 4) and the next 4·i bytes into its part.
class HeadVectors {
 public:
  static constexpr int kPartBytes =
      80;  // 16 pairs and a gap: what four lanes read at once lies in different banks
  static constexpr int kBytes = 8 * kPartBytes + 16;

  __device__ __forceinline__ HeadVectors(uint32_t shared, uint32_t lane) : shared_(shared), lane_(lane) {}

  // Lane l has channels 4l to 4l + 3. `offset` may be null.
  __device__ __forceinline__ void load(const float* norm, const float* offset) const {
    const float4 weight = __ldg(reinterpret_cast<const float4*>(norm) + lane_);
    float4 lost = {0.0f, 0.0f, 0.0f, 0.0f};
    if (offset != nullptr) lost = __ldcg(reinterpret_cast<const float4*>(offset) + lane_);
    const float largest =
        fmaxf(fmaxf(fabsf(weight.x), fabsf(weight.y)), fmaxf(fabsf(weight.z), fabsf(weight.w)));
    const float unit = qkv::power_below(qkv::warp_maximum(largest)), shrink = qkv::reciprocal_power(unit);
    const uint32_t at = shared_ + lane_ % 2 * (2 * kPartBytes) + lane_ / 2 * 4;
    store(at, weight, shrink);
    store(at + 4 * kPartBytes, lost, -shrink);
    if (lane_ == 0) ptx::st_shared_f32(shared_ + 8 * kPartBytes, unit);
    __syncwarp();
  }

  __device__ __forceinline__ float unit() const { return ptx::ld_shared_f32(shared_ + 8 * kPartBytes); }
  // Of i = 4·quarter to 4·quarter + 3.
  __device__ __forceinline__ void weights(__half2 (&pairs)[4], int quarter) const {
    read(pairs, 16 * quarter);
  }
  __device__ __forceinline__ void addends(__half2 (&pairs)[4], int quarter) const {
    read(pairs, 4 * kPartBytes + 16 * quarter);
  }

 private:
  static __device__ __forceinline__ void store(uint32_t at, const float4& x, float factor) {
    ptx::st_shared_b32(at, qkv::as_word(__floats2half2_rn(x.x * factor, x.y * factor)));
    ptx::st_shared_b32(at + kPartBytes, qkv::as_word(__floats2half2_rn(x.z * factor, x.w * factor)));
  }
  __device__ __forceinline__ void read(__half2 (&pairs)[4], uint32_t at) const {
    const uint4 words = ptx::ld_shared_v4_b32(shared_ + lane_ % 4 * kPartBytes + at);
    pairs[0] = qkv::as_half2(words.x), pairs[1] = qkv::as_half2(words.y);
    pairs[2] = qkv::as_half2(words.z), pairs[3] = qkv::as_half2(words.w);
  }

  uint32_t shared_, lane_;
};

// A head's columns divided by their root mean square, times norm's weights, in the unit: h · unit is meant.
//   x        [row block]: a lane's 64 values of the head, in wgmma's layout, and perhaps more
//   squares  of each of a lane's rows, summed over the head
template <int kBlocks, int kValues>
__device__ __forceinline__ void normalise_in_pairs(qkv::HeadPairs (&h)[kBlocks],
                                                   const float (&x)[kBlocks][kValues],
                                                   const float (&squares)[kBlocks][2],
                                                   const HeadVectors& vectors, float eps) {
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
  for (int quarter = 0; quarter < 4; ++quarter) {
    __half2 weight[4];
    vectors.weights(weight, quarter);
#pragma unroll
    for (int n = 0; n < 4; ++n) {
      const int i = 4 * quarter + n;
#pragma unroll
      for (int block = 0; block < kBlocks; ++block) {
        const float* row = x[block] + 4 * i;
        const __half2 left = __floats2half2_rn(row[0] * inverse[block][0], row[2] * inverse[block][1]);
        const __half2 right = __floats2half2_rn(row[1] * inverse[block][0], row[3] * inverse[block][1]);
        h[block][2 * i] = __hmul2(left, __low2half2(weight[n]));
        h[block][2 * i + 1] = __hmul2(right, __high2half2(weight[n]));
      }
    }
  }
}

// RoPE of a warp's 16 rows by their block of the table (attention/rope_pairs.cuh), less what the head is to lose.
__device__ __forceinline__ void turn(qkv::HeadPairs& h, const uint4* rope, uint32_t lane,
                                     const HeadVectors& vectors) {
#pragma unroll
  for (int quarter = 0; quarter < 4; ++quarter) {
    __half2 addend[4];
    vectors.addends(addend, quarter);
#pragma unroll
    for (int n = 0; n < 4; n += 2) {
      const int i = 4 * quarter + n;
      const qkv::RopeVector of = qkv::rope_vector(__ldg(rope + 16 * i + lane));
#pragma unroll
      for (int b = 0; b < 2; ++b) qkv::turn(h, i + b, of.cosine[b], of.sine[b], addend[n + b]);
    }
  }
}

}  // namespace flux::kernels::gemm
