// softmax(scale · q·kᵀ + bias)·v in bf16 for heads narrower than 128 that have no tensor-core kernel: the text encoders and the VAE of
// small models, where a head is 8 to 120 channels. Plain f32 arithmetic; nothing large ever comes here.
//
// A warp takes a query. 32 keys at a time: each lane's score of its own key, one maximum and one sum for the warp (online softmax), then each
// lane adds the 32 weighted rows of v into the channels lane, lane + 32, … that it keeps in registers. Shared memory: the query, per warp.
#include "attention/check.h"
#include "attention/narrow.h"
#include "attention/softmax.cuh"

namespace flux::kernels::attention {
namespace {

constexpr int kWarps = 4;
constexpr int kMostChannels = 128;
constexpr int kChannelsPerLane = kMostChannels / 32;
constexpr unsigned kAll = 0xffffffff;

__device__ __forceinline__ float warp_max(float x) {
  for (int lane = 16; lane > 0; lane /= 2) x = fmaxf(x, __shfl_xor_sync(kAll, x, lane));
  return x;
}

__device__ __forceinline__ float warp_sum(float x) {
  for (int lane = 16; lane > 0; lane /= 2) x += __shfl_xor_sync(kAll, x, lane);
  return x;
}

__device__ __forceinline__ __nv_bfloat16* row_of(const AttentionTensor& t, int batch, int token, int head) {
  return static_cast<__nv_bfloat16*>(t.data) + batch * t.batch_stride + token * t.token_stride +
         head * t.head_stride;
}

// q·k over head_dim channels, eight at a time.
__device__ __forceinline__ float dot(const float* query, const __nv_bfloat16* key, int head_dim) {
  float sum = 0.0f;
  for (int c = 0; c < head_dim; c += 8) {
    const uint4 eight = *reinterpret_cast<const uint4*>(key + c);
    const auto* pairs = reinterpret_cast<const __nv_bfloat162*>(&eight);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float2 k = __bfloat1622float2(pairs[i]);
      sum = fmaf(query[c + 2 * i], k.x, fmaf(query[c + 2 * i + 1], k.y, sum));
    }
  }
  return sum;
}

__global__ void __launch_bounds__(32 * kWarps, 4) narrow_kernel(AttentionBf16 p) {
  __shared__ float queries[kWarps][kMostChannels];
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int row = blockIdx.x * kWarps + warp;
  if (row >= p.queries) return;  // whole warps leave; the others only meet themselves
  const int batch = blockIdx.y / p.heads, head = blockIdx.y % p.heads;
  const __nv_bfloat16* from = row_of(p.query, batch, row, head);
  for (int c = lane; c < p.head_dim; c += 32) queries[warp][c] = __bfloat162float(from[c]) * p.scale;
  __syncwarp();

  float maximum = -INFINITY, sum = 0.0f, out[kChannelsPerLane] = {};
  const int keys = p.causal ? row + 1 : p.keys;
  for (int first = 0; first < keys; first += 32) {
    const int key = first + lane;
    float score = -INFINITY;
    if (key < keys) {
      score = dot(queries[warp], row_of(p.key, batch, key, head), p.head_dim);
      if (p.bias.data != nullptr) {
        score += p.bias.data[head * p.bias.head_stride + row * p.bias.row_stride + key];
      }
    }
    const float larger = fmaxf(maximum, warp_max(score));
    const float before = expf(maximum - larger), weight = expf(score - larger);
    maximum = larger;
    sum = sum * before + warp_sum(weight);
    for (float& x : out) x *= before;
    for (int j = 0; j < min(32, keys - first); ++j) {
      const float w = __shfl_sync(kAll, weight, j);
      const __nv_bfloat16* value = row_of(p.value, batch, first + j, head);
#pragma unroll
      for (int i = 0; i < kChannelsPerLane; ++i) {
        const int c = lane + 32 * i;
        if (c < p.head_dim) out[i] = fmaf(w, __bfloat162float(value[c]), out[i]);
      }
    }
  }

  __nv_bfloat16* to = row_of(p.output, batch, row, head);
#pragma unroll
  for (int i = 0; i < kChannelsPerLane; ++i) {
    const int c = lane + 32 * i;
    if (c < p.head_dim) to[c] = __float2bfloat16_rn(out[i] / sum);
  }
  if (p.log_sum_exp != nullptr && lane == 0) {
    p.log_sum_exp[int64_t(blockIdx.y) * p.queries + row] = maximum + logf(sum);
  }
}

}  // namespace

Status run_narrow(const AttentionBf16& call, cudaStream_t stream) {
  const dim3 grid((call.queries + kWarps - 1) / kWarps, call.batch * call.heads);
  narrow_kernel<<<grid, 32 * kWarps, 0, stream>>>(call);
  return Status::from_cuda(cudaGetLastError(), "attention_bf16");
}

}  // namespace flux::kernels::attention
