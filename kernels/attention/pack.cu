// bf16 q, k, v → the operands of 8-bit attention (qkv_layout.cuh). One warpgroup takes 64 tokens of one head of one of the three; it
// holds them as the QKV GEMM's epilogue would and calls the same functions. Limited by memory: 6 bytes read and 3 written a channel.
#include <cuda_bf16.h>

#include "attention/attention.h"
#include "attention/check.h"
#include "attention/qkv_layout.cuh"
#include "launch.cuh"

namespace flux::kernels {

namespace {

struct PackParameters {
  AttentionTensor tensor[3];
  PackedQkv operands;
  const float* key_offset;
  int heads, queries, keys;
};

// Grid: (64-token tiles, batch · heads, 3); block: 128.
template <typename Code>
__global__ void __launch_bounds__(128) pack_kernel(const __grid_constant__ PackParameters p) {
#if __CUDA_ARCH__ >= 890  // conversions to e4m3; the host refuses older devices
  __shared__ float scratch[4];
  wait_for_predecessors();
  let_successor_start();
  const int which = blockIdx.z, slice = blockIdx.y, head = slice % p.heads, batch = slice / p.heads;
  const int tokens = which == 0 ? p.queries : p.keys, first_token = blockIdx.x * 64;
  if (first_token >= tokens) return;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, column = 2 * (lane % 4);
  const AttentionTensor& tensor = p.tensor[which];
  const __nv_bfloat16* source = static_cast<const __nv_bfloat16*>(tensor.data) + batch * tensor.batch_stride +
                                head * tensor.head_stride + column;
  float x[64];
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const int token = first_token + 16 * warp + lane / 4 + 8 * h;
    const __nv_bfloat16* row = source + int64_t(min(token, tokens - 1)) * tensor.token_stride;
#pragma unroll
    for (int i = 0; i < 16; ++i) {
      const float2 v = __bfloat1622float2(*reinterpret_cast<const __nv_bfloat162*>(row + 8 * i));
      x[4 * i + 2 * h] = v.x;
      x[4 * i + 2 * h + 1] = v.y;
    }
  }
  if (which == 1 && p.key_offset != nullptr)
    qkv::subtract_offset(x, p.key_offset + int64_t(slice) * qkv::kHeadDim);
  const PackedQkv& to = p.operands;
  const size_t codes = size_t(slice) * qkv::scored_slice_bytes(tokens),
               padded = size_t(slice) * qkv::padded_tokens(tokens);
  float4* key_blocks = reinterpret_cast<float4*>(to.key_blocks) + padded / qkv::kTokenBlock;
  if (which == 0) {
    qkv::store_query_tile<Code>(x, first_token, tokens, to.query + codes,
                                reinterpret_cast<float2*>(to.query_rows) + padded);
  } else if (which == 1) {
    qkv::store_key_tile<Code>(x, first_token, tokens, to.key + codes, key_blocks);
  } else {
    qkv::store_value_tile(x, first_token, tokens, to.value + slice * qkv::value_slice_bytes(tokens),
                          key_blocks, scratch, 1);
  }
#endif
}

// One block a slice: 16 groups of 64 threads take tokens in turn, two channels a thread.
__global__ void __launch_bounds__(1024)
    key_offset_kernel(AttentionTensor key, float* offset, int heads, int keys) {
  __shared__ float2 partial[16][64];
  wait_for_predecessors();
  let_successor_start();
  const int slice = blockIdx.x, group = threadIdx.x / 64, pair = threadIdx.x % 64;
  const __nv_bfloat16* source = static_cast<const __nv_bfloat16*>(key.data) +
                                slice / heads * key.batch_stride + slice % heads * key.head_stride + 2 * pair;
  const int samples = min(keys, 512);
  float2 sum = {0.0f, 0.0f};
  for (int i = group; i < samples; i += 16) {
    const int64_t token = int64_t(i) * keys / samples;
    const float2 v =
        __bfloat1622float2(*reinterpret_cast<const __nv_bfloat162*>(source + token * key.token_stride));
    sum.x += v.x;
    sum.y += v.y;
  }
  partial[group][pair] = sum;
  __syncthreads();
  if (group > 0) return;
  for (int g = 1; g < 16; ++g) {
    sum.x += partial[g][pair].x;
    sum.y += partial[g][pair].y;
  }
  const float2 mean = {sum.x / float(samples), sum.y / float(samples)};
  *reinterpret_cast<float2*>(offset + int64_t(slice) * qkv::kHeadDim + 2 * pair) = mean;
}

bool pairs_aligned(const AttentionTensor& t) {
  return reinterpret_cast<uintptr_t>(t.data) % 4 == 0 && t.batch_stride % 2 == 0 && t.token_stride % 2 == 0 &&
         t.head_stride % 2 == 0;
}

}  // namespace

Status attention_pack(const AttentionPack& call, cudaStream_t stream) {
  if (Status s =
          attention::check_shape("attention_pack", call.batch, call.heads, call.queries, call.keys, 1.0f);
      !s.ok()) {
    return s;
  }
  if (!pairs_aligned(call.query) || !pairs_aligned(call.key) || !pairs_aligned(call.value)) {
    return Status::bad_argument("attention_pack: q, k and v must be 4-byte aligned and their strides even");
  }
  if (device_architecture() < 89)
    return Status::unsupported("attention_pack: e4m3 needs compute capability 8.9");
  const PackParameters p{{call.query, call.key, call.value},
                         call.operands,
                         call.key_offset,
                         call.heads,
                         call.queries,
                         call.keys};
  const int tokens = call.queries > call.keys ? call.queries : call.keys;
  const dim3 grid((tokens + 63) / 64, call.batch * call.heads, 3);
  const auto kernel = call.type == ScoreType::kInt8 ? pack_kernel<int8_t> : pack_kernel<__nv_fp8_e4m3>;
  return launch("attention_pack", kernel, grid, dim3(128), 0, stream, p);
}

Status attention_key_offset(const AttentionTensor& key, float* offset, int batch, int heads, int keys,
                            cudaStream_t stream) {
  if (batch < 1 || heads < 1 || keys < 1 || !pairs_aligned(key)) {
    return Status::bad_argument(
        "attention_key_offset: batch, heads and keys must be positive, k 4-byte aligned and its strides "
        "even");
  }
  return launch("attention_key_offset", key_offset_kernel, dim3(batch * heads), dim3(1024), 0, stream, key,
                offset, heads, keys);
}

}  // namespace flux::kernels
