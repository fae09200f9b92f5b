// The shape of an sm_90a attention kernel: tiles, shared memory, barriers, and what the host hands over.
#pragma once

#include <cuda.h>
#include <cuda_bf16.h>
#include <cuda_fp8.h>

#include <cstdint>
#include <type_traits>

#include "attention/attention.h"
#include "attention/schedule.cuh"
#include "attention/softmax.cuh"
#include "ptx/shared.cuh"

namespace flux::kernels::attention {

// What is added to the scores.
enum class Extra { kNone, kBias, kCausal };

// Positions in the pipeline: stage and parity, advanced together. Tiles of queries follow each other through the ring.
template <int kStages>
struct Cursor {
  int stage = 0;
  uint32_t phase = 0;
  __device__ __forceinline__ uint32_t parity() const { return phase; }
  __device__ __forceinline__ void start_tile() {}
  __device__ __forceinline__ void advance() {
    if (++stage == kStages) {
      stage = 0;
      phase ^= 1;
    }
  }
};

// The same where every tile of queries starts at stage 0, so that the consumers' loop can be unrolled over the stages. Stages are then not
// used equally often: each has a parity of its own, a bit of `phases`.
template <int kStages>
struct RestartingCursor {
  int stage = 0;
  uint32_t phases = 0;
  __device__ __forceinline__ uint32_t parity() const { return phases >> stage & 1; }
  __device__ __forceinline__ void start_tile() { stage = 0; }
  __device__ __forceinline__ void advance() {
    phases ^= 1u << stage;
    if (++stage == kStages) stage = 0;
  }
};

template <typename ScoreType, int kHeadDim_, int kWarpgroups_, int kKeyTile_, int kStages_,
          Extra kExtra_ = Extra::kNone>
struct Config {
  using Score = ScoreType;                             // of q and k: __nv_bfloat16, __nv_fp8_e4m3 or int8_t
  static constexpr bool kPacked = sizeof(Score) == 1;  // 8-bit operands of qkv_layout.cuh
  using Value = std::conditional_t<kPacked, __nv_fp8_e4m3, __nv_bfloat16>;
  using Accumulator = std::conditional_t<std::is_same_v<Score, int8_t>, int32_t, float>;
  static constexpr int kHeadDim = kHeadDim_, kWarpgroups = kWarpgroups_, kKeyTile = kKeyTile_,
                       kStages = kStages_;
  static constexpr Extra kExtra = kExtra_;
  using Ring = std::conditional_t<kPacked, RestartingCursor<kStages>, Cursor<kStages>>;
  static constexpr int kQueryTile = 64 * kWarpgroups;
  static constexpr int kThreads = 128 * (kWarpgroups + 1);
  static constexpr int kPanels = kHeadDim * int(sizeof(Score)) / 128;  // of Q and K
  static constexpr int kOutputPanels = kHeadDim * 2 / 128;
  static constexpr int kFragments = kKeyTile / Probabilities<Value>::kKeys;
  static constexpr int kSegment = !kPacked             ? kKeyTile
                                  : kKeyTile % 64 == 0 ? 64
                                                       : 32;  // keys that share an exponent of v
  static constexpr int kSegments = kKeyTile / kSegment;
  static constexpr int kBlocks = kPacked ? kKeyTile / 16 : 1;  // of keys that share a scale
  static constexpr int kPerBlock = kKeyTile / 2 / kBlocks;     // a thread's scores in one

  static constexpr int kQueryBytes = 64 * kHeadDim * int(sizeof(Score));  // per warpgroup
  static constexpr int kKeyBytes = kKeyTile * kHeadDim * int(sizeof(Score));
  static constexpr int kValueBytes = kKeyTile * kHeadDim * int(sizeof(Value));
  static constexpr int kOutputBytes = 64 * kHeadDim * 2;           // per warpgroup
  static constexpr int kBlockBytes = kPacked ? kKeyTile : 0;       // a float4 for 16 keys
  static constexpr int kRowBytes = kPacked ? 16 * kQueryTile : 0;  // a float4 for a query
  static constexpr int kKeyAt = kWarpgroups * kQueryBytes;
  static constexpr int kValueAt = kKeyAt + kStages * kKeyBytes;
  static constexpr int kOutputAt = kValueAt + kStages * kValueBytes;
  static constexpr int kBlocksAt = kOutputAt + kWarpgroups * kOutputBytes;
  static constexpr int kRowsAt = kBlocksAt + kStages * kBlockBytes;
  static constexpr int kBarrierAt = kRowsAt + 2 * kRowBytes;
  static constexpr int kBarriers = 2 * kWarpgroups + 4 * kStages + (kPacked ? 6 : 0);
  static constexpr int kSharedBytes = kBarrierAt + 8 * kBarriers + 1024;  // 1024: alignment

  static_assert(kHeadDim * sizeof(Score) % 128 == 0, "a row of Q and K is whole 128-byte panels");
  static_assert(!kPacked || (kHeadDim == 128 && kKeyTile % 32 == 0), "8-bit P fragments take 32 keys");
  static_assert(kKeyTile % 16 == 0 && kSharedBytes <= 232448);
};

// Partial results handed from block to block (schedule.cuh): per block and warpgroup a flag, and 17 float4 for each thread.
inline constexpr int kPartialVectors = 17;

struct Parameters {
  CUtensorMap query, key, value, output;
  Schedule schedule;
  int heads, slices;  // slices: batch · heads
  int queries, keys, padded_queries, padded_keys;
  float scale, scale_log2;   // of the softmax, and times log2 e
  const float2* query_rows;  // 8-bit operands: qkv_layout.cuh
  const float4* key_blocks;
  const uint8_t* key_codes;
  float* key_offset;          // [B][H][128], updated, or null
  const float* output_scale;  // [B][queries]: O leaves as e4m3 codes of O / scale, to `codes`; or null
  float* own_scale;           // [B][queries], written: the same by the power of two that bounds v; or null
  AttentionTensor codes;
  float* log_sum_exp;  // [B][H][queries] or null
  const float* bias;
  int64_t bias_head_stride, bias_row_stride;
  float4* partials;
  uint32_t* flags;
};

template <typename C>
struct Shared {
  uint32_t base;
  __device__ __forceinline__ uint32_t query(int w) const { return base + w * C::kQueryBytes; }
  __device__ __forceinline__ uint32_t key(int s) const { return base + C::kKeyAt + s * C::kKeyBytes; }
  __device__ __forceinline__ uint32_t value(int s) const { return base + C::kValueAt + s * C::kValueBytes; }
  __device__ __forceinline__ uint32_t output(int w) const {
    return base + C::kOutputAt + w * C::kOutputBytes;
  }
  __device__ __forceinline__ uint32_t blocks(int s) const { return base + C::kBlocksAt + s * C::kBlockBytes; }
  __device__ __forceinline__ uint32_t rows(int slot) const { return base + C::kRowsAt + slot * C::kRowBytes; }
  __device__ __forceinline__ uint32_t barrier(int i) const { return base + C::kBarrierAt + 8 * i; }
  __device__ __forceinline__ uint32_t query_full(int w) const { return barrier(w); }
  __device__ __forceinline__ uint32_t query_empty(int w) const { return barrier(C::kWarpgroups + w); }
  __device__ __forceinline__ uint32_t key_full(int s) const { return barrier(2 * C::kWarpgroups + s); }
  __device__ __forceinline__ uint32_t key_empty(int s) const {
    return barrier(2 * C::kWarpgroups + C::kStages + s);
  }
  __device__ __forceinline__ uint32_t value_full(int s) const {
    return barrier(2 * C::kWarpgroups + 2 * C::kStages + s);
  }
  __device__ __forceinline__ uint32_t value_empty(int s) const {
    return barrier(2 * C::kWarpgroups + 3 * C::kStages + s);
  }
  __device__ __forceinline__ uint32_t rows_full(int slot) const {
    return barrier(2 * C::kWarpgroups + 4 * C::kStages + slot);
  }
  __device__ __forceinline__ uint32_t rows_empty(int slot) const { return rows_full(2 + slot); }
  __device__ __forceinline__ uint32_t scales_full(int slot) const { return rows_full(4 + slot); }
};

}  // namespace flux::kernels::attention
