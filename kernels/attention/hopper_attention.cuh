// Attention on sm_90a: softmax(scale · Q·Kᵀ + bias)·V without ever holding a T × S matrix.
//
// One producer warp feeds K and V tiles to shared memory through TMA; `kWarpgroups` warpgroups of 64 query rows each multiply
// (wgmma), do the softmax in registers and keep O there. Per key tile and warpgroup, in the order of issue:
//     S ← Q·Kᵀ(j)            wgmma from shared memory
//     O ← O + P·V(j − 1)     wgmma, P in registers; runs under the softmax of tile j
//     P ← softmax(S)         f32; the warpgroups take turns at issuing, so that one's softmax runs under the others' products
// Keys go from the last tile to the first: only the first tile handled can be ragged, so only it is masked.
//
// Shared memory: Q [warpgroup][panel][64][128 B], K [stage][panel][kKeyTile][128 B], V [stage] (bf16 like K; 8-bit: blocks of 16
// keys, qkv_layout.cuh), O [warpgroup][panel][64][128 B], and for 8-bit operands kScale, vExponent [stage][kKeyTile] f32.
// A panel is 128 bytes of the head dimension, swizzled. Barriers (all in shared memory):
//     query_full[w]   the producer's bytes                   waited for by warpgroup w
//     query_empty[w]  warpgroup w's four warps               waited for by the producer
//     key_full[s], value_full[s]    the producer's bytes     waited for by every warpgroup; kScale and vExponent come with K
//     key_empty[s], value_empty[s]  all consumer warps       waited for by the producer
// Registers: producer 40 or 32; consumers 232 with two warpgroups, 160 with three. With key tile N and head dimension D a
// consumer holds N/2 (S) + D/2 (O) + P: N/4 in bf16, N/8 in e4m3.
#pragma once

#include <cuda.h>
#include <cuda_bf16.h>
#include <cuda_fp8.h>

#include <cstdint>
#include <type_traits>

#include "attention/schedule.cuh"
#include "attention/softmax.cuh"
#include "launch.cuh"
#include "ptx/barrier.cuh"
#include "ptx/bulk.cuh"
#include "ptx/flag.cuh"
#include "ptx/matrix.cuh"
#include "ptx/mbarrier.cuh"
#include "ptx/shared.cuh"
#include "ptx/tma.cuh"
#include "ptx/wgmma.cuh"
#include "ptx/wgmma_attention.cuh"

namespace flux::kernels::attention {

// What is added to the scores.
enum class Extra { kNone, kBias, kCausal };

template <typename ScoreType, int kHeadDim_, int kWarpgroups_, int kKeyTile_, int kStages_, Extra kExtra_ = Extra::kNone>
struct Config {
  using Score = ScoreType;  // of q and k: __nv_bfloat16, __nv_fp8_e4m3 or int8_t
  static constexpr bool kPacked = sizeof(Score) == 1;  // 8-bit operands of qkv_layout.cuh
  using Value = std::conditional_t<kPacked, __nv_fp8_e4m3, __nv_bfloat16>;
  using Accumulator = std::conditional_t<std::is_same_v<Score, int8_t>, int32_t, float>;
  static constexpr int kHeadDim = kHeadDim_, kWarpgroups = kWarpgroups_, kKeyTile = kKeyTile_, kStages = kStages_;
  static constexpr Extra kExtra = kExtra_;
  static constexpr int kQueryTile = 64 * kWarpgroups;
  static constexpr int kThreads = 128 * (kWarpgroups + 1);
  static constexpr int kPanels = kHeadDim * int(sizeof(Score)) / 128;  // of Q and K
  static constexpr int kOutputPanels = kHeadDim * 2 / 128;
  static constexpr int kFragments = kKeyTile / Probabilities<Value>::kKeys;
  static constexpr int kSegment = kKeyTile % 64 == 0 ? 64 : 32;  // keys that share an exponent of v
  static constexpr int kSegments = kKeyTile / kSegment;

  static constexpr int kQueryBytes = 64 * kHeadDim * int(sizeof(Score));  // per warpgroup
  static constexpr int kKeyBytes = kKeyTile * kHeadDim * int(sizeof(Score));
  static constexpr int kValueBytes = kKeyTile * kHeadDim * int(sizeof(Value));
  static constexpr int kOutputBytes = 64 * kHeadDim * 2;  // per warpgroup
  static constexpr int kScaleBytes = kPacked ? kKeyTile * 4 : 0;
  static constexpr int kKeyAt = kWarpgroups * kQueryBytes;
  static constexpr int kValueAt = kKeyAt + kStages * kKeyBytes;
  static constexpr int kOutputAt = kValueAt + kStages * kValueBytes;
  static constexpr int kKeyScaleAt = kOutputAt + kWarpgroups * kOutputBytes;
  static constexpr int kExponentAt = kKeyScaleAt + kStages * kScaleBytes;
  static constexpr int kBarrierAt = kExponentAt + kStages * kScaleBytes;
  static constexpr int kSharedBytes = kBarrierAt + 8 * (2 * kWarpgroups + 4 * kStages) + 1024;  // 1024: alignment

  static_assert(kHeadDim * sizeof(Score) % 128 == 0, "a row of Q and K is whole 128-byte panels");
  static_assert(!kPacked || (kHeadDim == 128 && kKeyTile % 32 == 0), "8-bit P fragments take 32 keys");
  static_assert(kKeyTile % 16 == 0 && kSharedBytes <= 232448);
};

// Partial results handed from block to block (schedule.cuh): per block and warpgroup a flag, and 17 float4 for each thread.
inline constexpr int kPartialVectors = 17;

struct Parameters {
  CUtensorMap query, key, value, output;
  Schedule schedule;
  int heads, query_tiles;  // per slice
  int queries, keys, padded_keys, padded_queries;
  float scale_log2;  // softmax scale · log2 e
  const float* query_scale;
  const float* key_scale;
  const float* value_exponent;
  float* log_sum_exp;  // [B][H][queries] or null
  const float* bias;
  int64_t bias_head_stride, bias_row_stride;
  float4* partials;
  uint32_t* flags;
};

// Positions in the pipeline: stage and parity, advanced together.
template <int kStages>
struct Cursor {
  int stage = 0;
  uint32_t parity = 0;
  __device__ __forceinline__ void advance() {
    if (++stage == kStages) {
      stage = 0;
      parity ^= 1;
    }
  }
};

template <typename C>
struct Shared {
  uint32_t base;
  __device__ __forceinline__ uint32_t query(int w) const { return base + w * C::kQueryBytes; }
  __device__ __forceinline__ uint32_t key(int s) const { return base + C::kKeyAt + s * C::kKeyBytes; }
  __device__ __forceinline__ uint32_t value(int s) const { return base + C::kValueAt + s * C::kValueBytes; }
  __device__ __forceinline__ uint32_t output(int w) const { return base + C::kOutputAt + w * C::kOutputBytes; }
  __device__ __forceinline__ uint32_t key_scale(int s) const { return base + C::kKeyScaleAt + s * C::kScaleBytes; }
  __device__ __forceinline__ uint32_t exponent(int s) const { return base + C::kExponentAt + s * C::kScaleBytes; }
  __device__ __forceinline__ uint32_t barrier(int i) const { return base + C::kBarrierAt + 8 * i; }
  __device__ __forceinline__ uint32_t query_full(int w) const { return barrier(w); }
  __device__ __forceinline__ uint32_t query_empty(int w) const { return barrier(C::kWarpgroups + w); }
  __device__ __forceinline__ uint32_t key_full(int s) const { return barrier(2 * C::kWarpgroups + s); }
  __device__ __forceinline__ uint32_t key_empty(int s) const { return barrier(2 * C::kWarpgroups + C::kStages + s); }
  __device__ __forceinline__ uint32_t value_full(int s) const { return barrier(2 * C::kWarpgroups + 2 * C::kStages + s); }
  __device__ __forceinline__ uint32_t value_empty(int s) const { return barrier(2 * C::kWarpgroups + 3 * C::kStages + s); }
};

__device__ __forceinline__ float2 load_shared_float2(uint32_t address) {
  float2 v;
  asm volatile("ld.shared.v2.f32 {%0, %1}, [%2];" : "=f"(v.x), "=f"(v.y) : "r"(address));
  return v;
}

__device__ __forceinline__ float load_shared_float(uint32_t address) {
  float v;
  asm volatile("ld.shared.f32 %0, [%1];" : "=f"(v) : "r"(address));
  return v;
}

// Causal attention needs no key beyond the tile's last query.
template <typename C>
__device__ __forceinline__ int last_key_tile(const Parameters& p, const Work& work, int query_tile) {
  if constexpr (C::kExtra == Extra::kCausal) {
    const int keys = min(p.keys, (query_tile + 1) * C::kQueryTile);
    return (keys + C::kKeyTile - 1) / C::kKeyTile;
  }
  return work.end;
}

// The producer's one thread.
template <typename C>
__device__ __forceinline__ void produce(const Parameters& p, const Shared<C>& shared) {
  ptx::prefetch_tensormap(&p.query);
  ptx::prefetch_tensormap(&p.key);
  ptx::prefetch_tensormap(&p.value);
  Cursor<C::kStages> at;
  uint32_t query_parity = 1;
  Work work;
  for (int i = 0; p.schedule.get(i, work); ++i) {
    const int slice = work.tile / p.query_tiles, query_tile = work.tile % p.query_tiles;
    const int head = slice % p.heads, batch = slice / p.heads;
    const int end = last_key_tile<C>(p, work, query_tile);
    for (int j = end - 1; j >= work.begin; --j) {
      const int token = j * C::kKeyTile;
      const uint32_t scale_bytes = C::kPacked ? 4 * min(C::kKeyTile, p.padded_keys - token) : 0;
      ptx::mbarrier_wait(shared.key_empty(at.stage), at.parity ^ 1);
      ptx::mbarrier_arrive_expect_tx(shared.key_full(at.stage), C::kKeyBytes + 2 * scale_bytes);
#pragma unroll
      for (int panel = 0; panel < C::kPanels; ++panel) {
        ptx::cp_async_bulk_tensor_4d_load(shared.key(at.stage) + panel * C::kKeyTile * 128, &p.key,
                                          shared.key_full(at.stage), panel * 128 / int(sizeof(typename C::Score)), token,
                                          head, batch);
      }
      if constexpr (C::kPacked) {
        ptx::cp_async_bulk_load(shared.key_scale(at.stage), p.key_scale + int64_t(slice) * p.padded_keys + token,
                                scale_bytes, shared.key_full(at.stage));
        ptx::cp_async_bulk_load(shared.exponent(at.stage), p.value_exponent + int64_t(slice) * p.padded_keys + token,
                                scale_bytes, shared.key_full(at.stage));
      }
      if (j == end - 1) {
        for (int w = 0; w < C::kWarpgroups; ++w) {
          ptx::mbarrier_wait(shared.query_empty(w), query_parity);
          ptx::mbarrier_arrive_expect_tx(shared.query_full(w), C::kQueryBytes);
          for (int panel = 0; panel < C::kPanels; ++panel) {
            ptx::cp_async_bulk_tensor_4d_load(shared.query(w) + panel * 64 * 128, &p.query, shared.query_full(w),
                                              panel * 128 / int(sizeof(typename C::Score)),
                                              query_tile * C::kQueryTile + 64 * w, head, batch);
          }
        }
        query_parity ^= 1;
      }
      ptx::mbarrier_wait(shared.value_empty(at.stage), at.parity ^ 1);
      ptx::mbarrier_arrive_expect_tx(shared.value_full(at.stage), C::kValueBytes);
      if constexpr (C::kPacked) {
        ptx::cp_async_bulk_tensor_4d_load(shared.value(at.stage), &p.value, shared.value_full(at.stage), 0, 0, token / 16,
                                          slice);
      } else {
#pragma unroll
        for (int panel = 0; panel < C::kPanels; ++panel) {
          ptx::cp_async_bulk_tensor_4d_load(shared.value(at.stage) + panel * C::kKeyTile * 128, &p.value,
                                            shared.value_full(at.stage), panel * 64, token, head, batch);
        }
      }
      at.advance();
    }
  }
}

template <typename C>
__device__ __forceinline__ void multiply_scores(typename C::Accumulator (&s)[C::kKeyTile / 2], uint32_t query, uint32_t key) {
  using ptx::OperandLayout;
#pragma unroll
  for (int k = 0; k < 4 * C::kPanels; ++k) {
    const uint32_t in_panel = k % 4 * 32;
    ptx::WgmmaScores<typename C::Score, C::kKeyTile>::mma_async(
        s, ptx::wgmma_operand<OperandLayout::kSwizzle128>(query + k / 4 * (64 * 128) + in_panel, 16, 1024),
        ptx::wgmma_operand<OperandLayout::kSwizzle128>(key + k / 4 * (C::kKeyTile * 128) + in_panel, 16, 1024), k != 0);
  }
}

template <typename C>
__device__ __forceinline__ void multiply_values(float (&o)[C::kHeadDim / 2], const uint32_t (&p)[C::kFragments][4],
                                                uint32_t value) {
  using ptx::OperandLayout;
#pragma unroll
  for (int f = 0; f < C::kFragments; ++f) {
    const uint64_t descriptor =
        C::kPacked ? ptx::wgmma_operand<OperandLayout::kCoreMatrices>(value + f * 4096, 2048, 128)
                   : ptx::wgmma_operand<OperandLayout::kSwizzle128>(value + f * 2048, C::kKeyTile * 128, 1024);
    ptx::WgmmaValues<typename C::Value, C::kHeadDim>::mma_async(o, p[f], descriptor);
  }
}

// What a thread knows of its two rows throughout a query tile.
template <typename C>
struct RowContext {
  float scale[2];        // of the integer or e4m3 products, or the common softmax scale; times log2 e
  int row[2];            // in the sequence
  const float* bias[2];  // of the row
};

// Scores in log2 units up to the row's scale: dequantised, biased and masked. `first_key` is the tile's first key.
template <typename C, bool kRagged>
__device__ __forceinline__ void read_scores(float (&y)[C::kKeyTile / 2], const typename C::Accumulator (&s)[C::kKeyTile / 2],
                                            const Parameters& p, const RowContext<C>& rows, uint32_t key_scale, int first_key) {
  const int column = 2 * (threadIdx.x % 4);
#pragma unroll
  for (int i = 0; i < C::kKeyTile / 8; ++i) {
    float2 scale = {1.0f, 1.0f};
    if constexpr (C::kPacked) scale = load_shared_float2(key_scale + 4 * (8 * i + column));
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      const int h = e / 2, key = first_key + 8 * i + column + e % 2;
      float v = float(s[4 * i + e]);
      if constexpr (C::kPacked) v *= e % 2 ? scale.y : scale.x;
      if constexpr (C::kExtra == Extra::kBias) {
        const bool present = key < p.keys && rows.row[h] < p.queries;
        v = fmaf(v, p.scale_log2, present ? __ldg(rows.bias[h] + key) * 1.4426950408889634f : -INFINITY);
      }
      if constexpr (C::kExtra == Extra::kCausal) v = key <= rows.row[h] ? v : -INFINITY;
      if constexpr (kRagged && C::kExtra != Extra::kBias) v = key < p.keys ? v : -INFINITY;
      y[4 * i + e] = v;
    }
  }
}

// Scores of a tile to probabilities y. Returns whether O must be multiplied by `factor` first.
template <typename C, bool kRagged>
__device__ __forceinline__ bool softmax(float (&y)[C::kKeyTile / 2], Rows& rows, float (&factor)[2], const typename C::Accumulator (&s)[C::kKeyTile / 2], const Parameters& parameters, const RowContext<C>& context, uint32_t key_scale, uint32_t exponents, int first_key) {
  constexpr int kPerSegment = C::kSegment / 2;  // registers: both rows
  read_scores<C, kRagged>(y, s, parameters, context, key_scale, first_key);
  float exponent[C::kSegments];
  float maximum[2] = {-INFINITY, -INFINITY};
#pragma unroll
  for (int g = 0; g < C::kSegments; ++g) {
    exponent[g] = 0.0f;
    if constexpr (C::kPacked) {
      if (!kRagged || first_key + g * C::kSegment < parameters.keys) {
        exponent[g] = load_shared_float(exponents + 4 * g * C::kSegment);
      }
    }
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      float m = y[g * kPerSegment + 2 * h];
#pragma unroll
      for (int i = 0; i < kPerSegment; i += 4) {
        m = fmaxf(m, fmaxf(y[g * kPerSegment + i + 2 * h], y[g * kPerSegment + i + 2 * h + 1]));
      }
      // Rounded up, so that no exponent below is positive because of a large score's rounding.
      maximum[h] = fmaxf(maximum[h], __fmaf_ru(m, context.scale[h], exponent[g]));
    }
  }
  maximum[0] = quad_max(maximum[0]);
  maximum[1] = quad_max(maximum[1]);
  const bool rescale = rows.raise<typename C::Value>(maximum, factor);

#pragma unroll
  for (int g = 0; g < C::kSegments; ++g) {
    float sum[2] = {0.0f, 0.0f};
    float offset[2];
#pragma unroll
    for (int h = 0; h < 2; ++h) offset[h] = rows.offset(h, Probabilities<typename C::Value>::kBase) + exponent[g];
#pragma unroll
    for (int i = 0; i < kPerSegment; ++i) {
      const int h = i / 2 % 2;
      float& v = y[g * kPerSegment + i];
      v = exp2_approx(fmaf(v, context.scale[h], offset[h]));
      sum[h] += v;
    }
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      rows.sum[h] = C::kPacked ? fmaf(sum[h], exp2_approx(-exponent[g]), rows.sum[h]) : rows.sum[h] + sum[h];
    }
  }
  return rescale;
}

// Probabilities to wgmma's A fragments: after the products that read the old ones have finished.
template <typename C>
__device__ __forceinline__ void pack(uint32_t (&p)[C::kFragments][4], const float (&y)[C::kKeyTile / 2]) {
  constexpr int kPerFragment = Probabilities<typename C::Value>::kKeys / 2;
#pragma unroll
  for (int f = 0; f < C::kFragments; ++f) pack_fragment<typename C::Value>(p[f], y + f * kPerFragment);
}

// One arrival a warp, once all its lanes are done with what the barrier guards.
__device__ __forceinline__ void release(uint32_t barrier) {
  __syncwarp();
  if (threadIdx.x % 32 == 0) ptx::mbarrier_arrive(barrier);
}

// Named barriers: kTurn + w is warpgroup w's turn to issue, kGroup + w synchronises warpgroup w.
inline constexpr int kTurn = 1, kGroup = 5;

template <typename C>
__device__ __forceinline__ void take_turn(int w) {
  ptx::bar_sync(kTurn + w, 256);
}

template <typename C>
__device__ __forceinline__ void pass_turn(int w) {
  ptx::bar_arrive(kTurn + (w + 1) % C::kWarpgroups, 256);
}

// Hands this warpgroup's unfinished accumulator to the block before (schedule.cuh).
template <int kAccumulators>
__device__ __forceinline__ void publish(const Parameters& p, int index, int w, const float (&o)[kAccumulators],
                                        const Rows& rows) {
  const int thread = threadIdx.x % 128;
  float4* partial = p.partials + int64_t(index) * kPartialVectors * 128 + thread;
#pragma unroll
  for (int i = 0; i < kAccumulators / 4; ++i) {
    __stcg(partial + i * 128, make_float4(o[4 * i], o[4 * i + 1], o[4 * i + 2], o[4 * i + 3]));
  }
  __stcg(partial + 16 * 128, make_float4(rows.reference[0], rows.reference[1], rows.sum[0], rows.sum[1]));
  __threadfence();
  ptx::bar_sync(kGroup + w, 128);
  if (thread == 0) ptx::st_release_gpu(p.flags + index, 1);
}

// Takes in the accumulator that the next block published, and lowers its flag for the next launch.
template <int kAccumulators>
__device__ __forceinline__ void merge(const Parameters& p, int index, int w, float (&o)[kAccumulators], Rows& rows) {
  const int thread = threadIdx.x % 128;
  if (thread == 0) {
    while (ptx::ld_acquire_gpu(p.flags + index) == 0) __nanosleep(64);
    ptx::st_release_gpu(p.flags + index, 0);
  }
  ptx::bar_sync(kGroup + w, 128);
  const float4* partial = p.partials + int64_t(index) * kPartialVectors * 128 + thread;
  const float4 other = __ldcg(partial + 16 * 128);
  const float reference[2] = {other.x, other.y}, sum[2] = {other.z, other.w};
  float mine[2], theirs[2];
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const float common = fmaxf(rows.reference[h], reference[h]);
    mine[h] = exp2_approx(rows.reference[h] - common);
    theirs[h] = exp2_approx(reference[h] - common);
    rows.reference[h] = common;
    rows.sum[h] = rows.sum[h] * mine[h] + sum[h] * theirs[h];
  }
#pragma unroll
  for (int i = 0; i < kAccumulators / 4; ++i) {
    const float4 v = __ldcg(partial + i * 128);
    o[4 * i] = o[4 * i] * mine[0] + v.x * theirs[0];
    o[4 * i + 1] = o[4 * i + 1] * mine[0] + v.y * theirs[0];
    o[4 * i + 2] = o[4 * i + 2] * mine[1] + v.z * theirs[1];
    o[4 * i + 3] = o[4 * i + 3] * mine[1] + v.w * theirs[1];
  }
}

// O / sum → bf16 → shared memory (swizzled as the output map wants) → global by TMA, which drops rows beyond the sequence.
template <typename C>
__device__ __forceinline__ void store_output(const Parameters& p, const Shared<C>& shared, int w, const float (&o)[C::kHeadDim / 2],
                                             const Rows& rows, const RowContext<C>& context, int slice, int first_row) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32 % 4, thread = threadIdx.x % 128;
  float inverse[2];
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const float sum = quad_sum(rows.sum[h]);
    inverse[h] = sum > 0.0f ? __frcp_rn(sum) : 0.0f;
    if (p.log_sum_exp != nullptr && lane % 4 == 0 && context.row[h] < p.queries) {
      const float log2 = rows.reference[h] - Probabilities<typename C::Value>::kBase + log2_approx(sum);
      p.log_sum_exp[int64_t(slice) * p.queries + context.row[h]] = sum > 0.0f ? log2 * 0.6931471805599453f : -INFINITY;
    }
  }
  if (thread == 0) ptx::cp_async_bulk_wait_group_read<0>();  // the previous tile has left
  ptx::bar_sync(kGroup + w, 128);
  const int row = 16 * warp + lane % 16;
#pragma unroll
  for (int i = 0; i < C::kHeadDim / 8; i += 2) {
    uint32_t matrices[4];
#pragma unroll
    for (int m = 0; m < 4; ++m) {
      const float* v = o + 4 * (i + m / 2) + 2 * (m % 2);
      matrices[m] = ptx::cvt_rn_bf16x2(v[0] * inverse[m % 2], v[1] * inverse[m % 2]);
    }
    const int chunk = i + lane / 16;  // of 8 columns
    ptx::stmatrix_x4(shared.output(w) + chunk / 8 * (64 * 128) + row * 128 + ((chunk % 8 ^ row % 8) << 4), matrices);
  }
  ptx::fence_proxy_async();
  ptx::bar_sync(kGroup + w, 128);
  if (thread == 0) {
#pragma unroll
    for (int panel = 0; panel < C::kOutputPanels; ++panel) {
      ptx::cp_async_bulk_tensor_4d_store(&p.output, shared.output(w) + panel * 64 * 128, panel * 64, first_row,
                                         slice % p.heads, slice / p.heads);
    }
    ptx::cp_async_bulk_commit_group();
  }
}

template <typename C>
__device__ __forceinline__ RowContext<C> row_context(const Parameters& p, int slice, int first_row) {
  RowContext<C> context;
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const int row = first_row + 16 * (threadIdx.x / 32 % 4) + threadIdx.x % 32 / 4 + 8 * h;
    context.row[h] = row;
    context.scale[h] = p.scale_log2;
    if constexpr (C::kPacked) {
      context.scale[h] *= row < p.queries ? __ldg(p.query_scale + int64_t(slice) * p.padded_queries + row) : 0.0f;
    }
    if constexpr (C::kExtra == Extra::kBias) {
      context.scale[h] = 1.0f;
      context.bias[h] = p.bias + slice % p.heads * p.bias_head_stride + row * p.bias_row_stride;
    }
  }
  return context;
}

// Warpgroup w of the consumers.
template <typename C>
__device__ __forceinline__ void consume(const Parameters& p, const Shared<C>& shared, int w) {
  Cursor<C::kStages> at;
  uint32_t query_parity = 0;
  if (w == C::kWarpgroups - 1) pass_turn<C>(w);
  Work work;
  for (int i = 0; p.schedule.get(i, work); ++i) {
    const int slice = work.tile / p.query_tiles, query_tile = work.tile % p.query_tiles;
    const int end = last_key_tile<C>(p, work, query_tile);
    const int first_row = query_tile * C::kQueryTile + 64 * w;
    const RowContext<C> context = row_context<C>(p, slice, first_row);
    float o[C::kHeadDim / 2];
#pragma unroll
    for (float& v : o) v = 0.0f;
    Rows rows;
    typename C::Accumulator s[C::kKeyTile / 2];
    uint32_t probabilities[C::kFragments][4];
    float factor[2];

    ptx::mbarrier_wait(shared.query_full(w), query_parity);
    query_parity ^= 1;
    ptx::mbarrier_wait(shared.key_full(at.stage), at.parity);
    take_turn<C>(w);
    ptx::wgmma_fence();
    multiply_scores<C>(s, shared.query(w), shared.key(at.stage));
    ptx::wgmma_commit_group();
    pass_turn<C>(w);
    ptx::wgmma_wait_group<0>();
    float y[C::kKeyTile / 2];
    softmax<C, true>(y, rows, factor, s, p, context, shared.key_scale(at.stage), shared.exponent(at.stage),
                     (end - 1) * C::kKeyTile);
    release(shared.key_empty(at.stage));
    pack<C>(probabilities, y);
    Cursor<C::kStages> value_at = at;
    at.advance();

    for (int j = end - 2; j >= work.begin; --j) {
      ptx::mbarrier_wait(shared.key_full(at.stage), at.parity);
      take_turn<C>(w);
      ptx::wgmma_fence();
      multiply_scores<C>(s, shared.query(w), shared.key(at.stage));
      ptx::wgmma_commit_group();
      ptx::mbarrier_wait(shared.value_full(value_at.stage), value_at.parity);
      ptx::wgmma_fence();
      multiply_values<C>(o, probabilities, shared.value(value_at.stage));
      ptx::wgmma_commit_group();
      pass_turn<C>(w);
      ptx::wgmma_wait_group<1>();
      const bool rescale = softmax<C, false>(y, rows, factor, s, p, context, shared.key_scale(at.stage),
                                             shared.exponent(at.stage), j * C::kKeyTile);
      release(shared.key_empty(at.stage));
      at.advance();
      ptx::wgmma_wait_group<0>();
      release(shared.value_empty(value_at.stage));
      value_at.advance();
      if (rescale) {
#pragma unroll
        for (int e = 0; e < C::kHeadDim / 2; ++e) o[e] *= factor[e / 2 % 2];
      }
      pack<C>(probabilities, y);
    }
    release(shared.query_empty(w));
    ptx::mbarrier_wait(shared.value_full(value_at.stage), value_at.parity);
    ptx::wgmma_fence();
    multiply_values<C>(o, probabilities, shared.value(value_at.stage));
    ptx::wgmma_commit_group();
    ptx::wgmma_wait_group<0>();
    release(shared.value_empty(value_at.stage));

    const int partial = int(blockIdx.x) * C::kWarpgroups + w;
    if (work.begin > 0) {
      publish(p, partial, w, o, rows);
      continue;
    }
    if (work.end < p.schedule.key_tiles) merge(p, partial + C::kWarpgroups, w, o, rows);
    store_output<C>(p, shared, w, o, rows, context, slice, first_row);
  }
  if (threadIdx.x % 128 == 0) ptx::cp_async_bulk_wait_group_read<0>();  // shared memory outlives the copies
}

template <typename C>
__global__ void __launch_bounds__(C::kThreads, 1) attention_kernel(const __grid_constant__ Parameters p) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  extern __shared__ uint8_t raw[];
  const Shared<C> shared{(ptx::shared_address(raw) + 1023) & ~1023u};
  if (threadIdx.x == 0) {
    for (int w = 0; w < C::kWarpgroups; ++w) {
      ptx::mbarrier_init(shared.query_full(w), 1);
      ptx::mbarrier_init(shared.query_empty(w), 4);
    }
    for (int s = 0; s < C::kStages; ++s) {
      ptx::mbarrier_init(shared.key_full(s), 1);
      ptx::mbarrier_init(shared.value_full(s), 1);
      ptx::mbarrier_init(shared.key_empty(s), 4 * C::kWarpgroups);
      ptx::mbarrier_init(shared.value_empty(s), 4 * C::kWarpgroups);
    }
    ptx::fence_mbarrier_init();
  }
  __syncthreads();
  wait_for_predecessors();
  const int warpgroup = __shfl_sync(0xffffffff, threadIdx.x / 128, 0);
  if (warpgroup == C::kWarpgroups) {
    ptx::setmaxnreg_dec<C::kWarpgroups == 2 ? 40 : 32>();
    if (threadIdx.x == 128 * C::kWarpgroups) produce<C>(p, shared);
  } else {
    ptx::setmaxnreg_inc<C::kWarpgroups == 2 ? 232 : 160>();
    consume<C>(p, shared, warpgroup);
  }
  let_successor_start();
#endif
}

}  // namespace flux::kernels::attention
