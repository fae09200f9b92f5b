// Launch functions of attention: softmax(scale · q·kᵀ + bias)·v for each batch and head. kernels.h includes this.
#pragma once

#include <cstddef>
#include <cstdint>

#include "status.h"

namespace flux::kernels {

// A [batch][tokens][heads][head_dim] tensor of bf16 whose channels are contiguous; the other strides are in elements. On sm_90
// the base must be 16-byte aligned and the strides multiples of 8.
struct AttentionTensor {
  void* data = nullptr;
  int64_t batch_stride = 0, token_stride = 0, head_stride = 0;
};

// An additive f32 bias: element (head, query, key) is at data + head · head_stride + query · row_stride + key. A bias that depends on
// key − query alone (T5) is a vector a head: data points at the element of distance 0 and row_stride is −1.
struct AttentionBias {
  const float* data = nullptr;
  int64_t head_stride = 0, row_stride = 0;
};

struct AttentionBf16 {
  AttentionTensor query, key, value, output;
  int batch = 1, heads = 1, queries = 0, keys = 0, head_dim = 128;  // head_dim 8, 16, … 128, or 512
  float scale = 1.0f;                                               // positive
  bool causal = false;           // key ≤ query; wants queries == keys, no bias
  AttentionBias bias;            // optional
  float* log_sum_exp = nullptr;  // [batch][heads][queries], natural logarithm of Σ exp(score); optional
  void* workspace =
      nullptr;  // attention_workspace_bytes(), zeroed once; optional, evens out the last wave of blocks
};

// Any of the kernels below may share one workspace as long as they run one after the other.
size_t attention_workspace_bytes();

// sm_90a uses wgmma and TMA (not for a bias or mask with head_dim 128 or 512), other devices mma.sync.
Status attention_bf16(const AttentionBf16& call, cudaStream_t stream);
Status attention_bf16_portable(const AttentionBf16& call, cudaStream_t stream);

// Element type of q and k in 8-bit attention; v and P are e4m3.
enum class ScoreType : uint8_t { kE4M3, kInt8 };

// 8-bit operands: attention/qkv_layout.cuh describes and writes them. Sizes from attention_packed_sizes; 16-byte aligned.
struct PackedQkv {
  uint8_t *query = nullptr, *key = nullptr, *value = nullptr;
  float *query_rows = nullptr, *key_blocks = nullptr;  // float2 and float4
};

struct PackedSizes {
  size_t query, key, value, query_rows, key_blocks;  // bytes
};

PackedSizes attention_packed_sizes(int batch, int heads, int queries, int keys);

struct AttentionPacked {
  PackedQkv operands;
  ScoreType type = ScoreType::kInt8;
  AttentionTensor output;  // bf16; with output_scale or own_scale e4m3 codes, strides then multiples of 16
  // [batch][queries], optional: the output is code · scale, saturating at 448. No result exceeds the largest |v| of its head.
  const float* output_scale = nullptr;
  // [batch][queries], optional, instead: written; the output is code · scale, the power of two by which no v of the batch entry exceeds 448.
  float* own_scale = nullptr;
  int batch = 1, heads = 1, queries = 0, keys = 0;  // head_dim is 128
  // Where only some of a sequence's tokens ask: query and query_rows point at the first of `queries` in a row, of so many. 0: queries.
  int query_tokens = 0;
  float scale = 1.0f;
  float* log_sum_exp = nullptr;
  void* workspace = nullptr;
  // [batch][heads][128], optional: what whoever packed k subtracted from it. What this attention's keys say of their mean is added, for the
  // next one over much the same keys (attention/key_offset.cuh). log_sum_exp is of k as packed: a row's is scale·q·offset less than of k
  // itself, so only parts that lost the same offset can be merged.
  float* key_offset = nullptr;
};

// sm_90a only.
Status attention_packed(const AttentionPacked& call, cudaStream_t stream);

// bf16 q, k, v → 8-bit operands, for callers whose q, k, v do not come from the QKV GEMM. key_offset [batch][heads][128] f32, optional, is
// subtracted from every k of its head: softmax does not change, and a mean that all k share no longer costs precision.
struct AttentionPack {
  AttentionTensor query, key, value;
  const float* key_offset = nullptr;
  PackedQkv operands;
  ScoreType type = ScoreType::kInt8;
  int batch = 1, heads = 1, queries = 0, keys = 0;
};

Status attention_pack(const AttentionPack& call, cudaStream_t stream);

// The mean of k over at most 512 evenly spaced tokens: offset [batch][heads][128] f32 for AttentionPack::key_offset.
Status attention_key_offset(const AttentionTensor& key, float* offset, int batch, int heads, int keys,
                            cudaStream_t stream);

// Joins attention over `parts` disjoint sets of keys: outputs [parts][rows][width] bf16 and log_sum_exps [parts][rows] f32 of the same
// queries → output [rows][width] bf16, and log_sum_exp [rows] (optional). width is a multiple of 8. Rows are (batch, head, query).
struct AttentionMerge {
  const void* outputs = nullptr;
  const float* log_sum_exps = nullptr;
  void* output = nullptr;
  float* log_sum_exp = nullptr;
  int parts = 0, width = 0;
  int64_t rows = 0;
};

Status attention_merge(const AttentionMerge& call, cudaStream_t stream);

}  // namespace flux::kernels
