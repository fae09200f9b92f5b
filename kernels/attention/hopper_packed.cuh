// The consumers of 8-bit attention; hopper_attention.cuh has the rest. The loop over key tiles is unrolled over the stages, which leaves
// little of the arithmetic on addresses and parities: 320 instructions a warp and tile where there were 345.
#pragma once

#include "attention/hopper_attention.cuh"
#include "attention/qkv_layout.cuh"

namespace flux::kernels::attention {

// The exponent by which no v of a batch entry exceeds 448.
__device__ __forceinline__ int largest_exponent(const Parameters& p, int batch) {
  const float4* blocks = p.key_blocks + int64_t(batch) * p.heads * p.padded_keys / 16;
  const int groups = p.heads * (p.padded_keys / qkv::kScaleTokens);
  constexpr int kBlocks = qkv::kScaleTokens / qkv::kTokenBlock;  // of one exponent
  float exponent = -INFINITY;
#pragma unroll 8
  for (int group = threadIdx.x % 32; group < groups; group += 32)
    exponent = fmaxf(exponent, __ldg(&blocks[kBlocks * group].z));
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2)
    exponent = fmaxf(exponent, __shfl_xor_sync(0xffffffff, exponent, offset));
  return int(exponent);
}

// A warp beside the producer's works a query tile ahead of the consumers, since what their softmax and their way out want of each query hangs on reads of
// memory, one behind another, that would keep them waiting between tiles: a float4 {scale of the scores in log2 units, their bound |q|·max|k| + max
// vExponent with room for the rounding of the codes, 1 / output_scale, –} a query.
template <typename C>
__device__ void prepare_rows(const Parameters& p, const Shared<C>& shared) {
  const int lane = threadIdx.x % 32;
  Work work;
  for (int i = 0; p.schedule.get(i, work); ++i) {
    const int slice = work.slice, first_row = work.query_tile * C::kQueryTile;
    const float4* blocks = p.key_blocks + int64_t(slice) * p.padded_keys / 16;
    float norm = 0.0f, exponent = -INFINITY;
    for (int b = lane; b < (p.keys + 15) / 16; b += 32) {
      const float4 block = __ldg(blocks + b);
      norm = fmaxf(norm, block.y);
      exponent = fmaxf(exponent, block.z);
    }
#pragma unroll
    for (int offset = 16; offset > 0; offset /= 2) {
      norm = fmaxf(norm, __shfl_xor_sync(0xffffffff, norm, offset));
      exponent = fmaxf(exponent, __shfl_xor_sync(0xffffffff, exponent, offset));
    }
    const int slot = i % 2;
    ptx::mbarrier_wait(shared.rows_empty(slot), i / 2 % 2 ^ 1);
    for (int r = lane; r < C::kQueryTile; r += 32) {
      const int row = first_row + r;
      float scale = 0.0f, bound = 0.0f, inverse = 0.0f;
      if (row < p.queries) {
        const float2 query = __ldg(p.query_rows + int64_t(slice) * p.padded_queries + row);
        scale = p.scale_log2 * query.x;
        bound = p.scale_log2 * query.y;
        if (p.output_scale != nullptr) {
          inverse = __fdividef(1.0f, __ldg(p.output_scale + int64_t(slice / p.heads) * p.queries + row));
        }
      }
      ptx::st_shared_v4_f32(shared.rows(slot) + 16 * r,
                            {scale, 1.1f * bound * norm + exponent, inverse, 0.0f});
    }
    release(shared.rows_full(slot));
  }
}

// Another warp completes these by an own scale, which nothing waits for before a tile's end.
template <typename C>
__device__ void prepare_scales(const Parameters& p, const Shared<C>& shared) {
  const int lane = threadIdx.x % 32;
  int known = -1;  // batch entry
  int exponent = 0;
  Work work;
  for (int i = 0; p.schedule.get(i, work); ++i) {
    const int batch = work.slice / p.heads, slot = i % 2;
    if (batch != known) exponent = largest_exponent(p, batch);
    known = batch;
    ptx::mbarrier_wait(shared.rows_full(slot), i / 2 % 2);
    for (int r = lane; r < C::kQueryTile; r += 32) {
      ptx::st_shared_f32(shared.rows(slot) + 16 * r + 8, qkv::inverse_power(exponent));
      const int row = work.query_tile * C::kQueryTile + r;
      if (work.slice % p.heads == 0 && row < p.queries)
        p.own_scale[int64_t(batch) * p.queries + row] = qkv::inverse_power(-exponent);
    }
    release(shared.scales_full(slot));
  }
}

// A thread's two rows of what `prepare_rows` left.
template <typename C>
__device__ __forceinline__ RowContext<C> prepared_rows(uint32_t values, int first_row) {
  RowContext<C> context;
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const int row = 16 * (threadIdx.x / 32 % 4) + threadIdx.x % 32 / 4 + 8 * h;
    const float4 value = ptx::ld_shared_v4_f32(values + 16 * row);
    context.scale[h] = value.x;
    context.bound[h] = value.y;
    context.row[h] = first_row + row;
  }
  return context;
}

// Low words of the descriptors of Q, and of K and V in stage 0. Any other stage is a constant further.
struct Descriptors {
  uint32_t query, key, value;

  template <typename C>
  static __device__ __forceinline__ Descriptors make(const Shared<C>& shared, int w) {
    using Scored = ptx::WgmmaOperand<ptx::OperandLayout::kSwizzle128>;
    using Values = ptx::WgmmaOperand<ptx::OperandLayout::kCoreMatrices>;
    return {Scored(shared.query(w), 16, 1024).low, Scored(shared.key(0), 16, 1024).low,
            Values(shared.value(0), 2048, 128).low};
  }
};

template <typename C>
__device__ __forceinline__ void start_scores(typename C::Accumulator (&s)[C::kKeyTile / 2],
                                             const Descriptors& from, int stage) {
  constexpr uint64_t kHigh = (uint64_t(ptx::OperandLayout::kSwizzle128) << 30 | 1024 >> 4)
                             << 32;  // 1024 between groups of 8 rows
  ptx::wgmma_fence();
#pragma unroll
  for (int k = 0; k < 4; ++k) {  // 32 bytes of the channels each
    ptx::WgmmaScores<typename C::Score, C::kKeyTile>::mma_async(
        s, kHigh | (from.query + 2 * k), kHigh | (from.key + stage * (C::kKeyBytes >> 4) + 2 * k), k != 0);
  }
  ptx::wgmma_commit_group();
}

template <typename C>
__device__ __forceinline__ void start_values(float (&o)[C::kHeadDim / 2],
                                             const uint32_t (&p)[C::kFragments][4], const Descriptors& from,
                                             int stage) {
  constexpr uint64_t kHigh = uint64_t(128 >> 4) << 32;
  ptx::wgmma_fence();
#pragma unroll
  for (int f = 0; f < C::kFragments; ++f) {  // 32 keys each
    ptx::WgmmaValues<typename C::Value, C::kHeadDim>::mma_async(
        o, p[f], kHigh | (from.value + stage * (C::kValueBytes >> 4) + f * (4096 >> 4)));
  }
  ptx::wgmma_commit_group();
}

// A warpgroup's state over a tile of queries.
template <typename C>
struct Attended {
  float o[C::kHeadDim / 2];
  uint32_t p[C::kFragments][4];
  Rows rows;
  RowContext<C> context;
  uint32_t phases = 0;  // parities of the stages, a bit each; flipped once V has been waited for
};

// The tile of keys in `stage`, after the one in `before`: its scores, O of the tile before, its probabilities.
template <typename C, bool kBounded>
__device__ __forceinline__ void step(const Parameters& p, const Shared<C>& shared, const Descriptors& from,
                                     Attended<C>& a, int stage, int before, int first_key) {
  typename C::Accumulator s[C::kKeyTile / 2];
  float y[C::kKeyTile / 2], factor[2];
  ptx::mbarrier_wait(shared.key_full(stage), a.phases >> stage & 1);
  start_scores<C>(s, from, stage);
  ptx::mbarrier_wait(shared.value_full(before), a.phases >> before & 1);
  a.phases ^= 1u << before;
  start_values<C>(a.o, a.p, from, before);
  ptx::wgmma_wait_group<1>();
  bool rescale;
  if constexpr (kBounded) {
    rescale = softmax_bounded<C>(y, a.rows, factor, s, a.context, shared.blocks(stage));
  } else {
    rescale = softmax_exact<C, false>(y, a.rows, factor, s, p, a.context, shared.blocks(stage), first_key);
  }
  release_after(shared.key_empty(stage), a.rows);
  ptx::wgmma_wait_group<0>();
  release(shared.value_empty(before));
  if (rescale) {
#pragma unroll
    for (int e = 0; e < C::kHeadDim / 2; ++e) a.o[e] *= factor[e / 2 % 2];
  }
  pack<C>(a.p, y);
}

// A query tile without queries for this warpgroup.
template <typename C>
__device__ __forceinline__ void pass_over(const Shared<C>& shared, uint32_t& phases, int key_tiles, int w) {
  release(shared.query_empty(w));
  for (int j = 0; j < key_tiles; ++j) {
    const int stage = j % C::kStages;
    ptx::mbarrier_wait(shared.key_full(stage), phases >> stage & 1);
    release(shared.key_empty(stage));
    ptx::mbarrier_wait(shared.value_full(stage), phases >> stage & 1);
    release(shared.value_empty(stage));
    phases ^= 1u << stage;
  }
}

template <typename C>
__device__ void consume_packed(const Parameters& p, const Shared<C>& shared, int w) {
  static_assert(C::kStages == 4 && C::kPanels == 1);
  const Descriptors from = Descriptors::make(shared, w);
  Attended<C> a;
  uint32_t query_parity = 0;
  Work work;
  for (int i = 0; p.schedule.get(i, work); ++i) {
    const int first_row = work.query_tile * C::kQueryTile + 64 * w;
    a.rows = Rows{};
#pragma unroll
    for (float& v : a.o) v = 0.0f;

    ptx::mbarrier_wait(shared.query_full(w), query_parity);
    query_parity ^= 1;
    if (first_row >= p.queries) {  // the others have the multiprocessor to themselves
      ptx::mbarrier_wait(shared.rows_full(i % 2), i / 2 % 2);
      pass_over<C>(shared, a.phases, work.end - work.begin, w);
      if (p.own_scale != nullptr) ptx::mbarrier_wait(shared.scales_full(i % 2), i / 2 % 2);
      release(shared.rows_empty(i % 2));
      continue;
    }
    bool bounded;
    {
      typename C::Accumulator s[C::kKeyTile / 2];
      float y[C::kKeyTile / 2], factor[2];
      ptx::mbarrier_wait(shared.key_full(0), a.phases & 1);
      start_scores<C>(s, from, 0);
      ptx::mbarrier_wait(shared.rows_full(i % 2), i / 2 % 2);
      a.context = prepared_rows<C>(shared.rows(i % 2) + 16 * 64 * w, first_row);
      ptx::wgmma_wait_group<0>();
      softmax_exact<C, true>(y, a.rows, factor, s, p, a.context, shared.blocks(0),
                             (work.end - 1) * C::kKeyTile, &bounded);
      release(shared.key_empty(0));
      pack<C>(a.p, y);
    }
    int left = work.end - 1 - work.begin, last = 0;
    if (bounded) {
      for (; left > 0; left -= 4) {
        step<C, true>(p, shared, from, a, 1, 0, 0);
        last = 1;
        if (left == 1) break;
        step<C, true>(p, shared, from, a, 2, 1, 0);
        last = 2;
        if (left == 2) break;
        step<C, true>(p, shared, from, a, 3, 2, 0);
        last = 3;
        if (left == 3) break;
        step<C, true>(p, shared, from, a, 0, 3, 0);
        last = 0;
      }
    } else {
      for (int j = work.end - 2; j >= work.begin; --j) {
        const int stage = (last + 1) % C::kStages;
        step<C, false>(p, shared, from, a, stage, last, j * C::kKeyTile);
        last = stage;
      }
    }
    release(shared.query_empty(w));
    ptx::mbarrier_wait(shared.value_full(last), a.phases >> last & 1);
    a.phases ^= 1u << last;
    start_values<C>(a.o, a.p, from, last);
    ptx::wgmma_wait_group<0>();
    release(shared.value_empty(last));
    if (p.own_scale != nullptr) ptx::mbarrier_wait(shared.scales_full(i % 2), i / 2 % 2);
    finish<C>(p, shared, w, a.o, a.rows, a.context, work, work.slice, first_row,
              shared.rows(i % 2) + 16 * 64 * w);
    release(shared.rows_empty(i % 2));
  }
  if (threadIdx.x % 128 == 0) ptx::cp_async_bulk_wait_group_read<0>();  // shared memory outlives the copies
}

}  // namespace flux::kernels::attention
