// Attention on sm_90a: softmax(scale · Q·Kᵀ + bias)·V without ever holding a T × S matrix.
//
// One producer warp feeds K and V tiles to shared memory through TMA; `kWarpgroups` warpgroups of 64 query rows each multiply
// (wgmma), do the softmax in registers and keep O there. Per key tile and warpgroup, in the order of issue:
//     S ← Q·Kᵀ(j)            wgmma from shared memory
//     O ← O + P·V(j − 1)     wgmma, P in registers; runs under the softmax of tile j
//     P ← softmax(S)         f32; runs under the other warpgroups' products
// In bf16 warpgroups issue in turn: left alone they may fall into step, all multiplying and then all in their softmax. The loop of 8-bit
// operands is in hopper_packed.cuh.
// With 8-bit operands another warp of the producer's finds the next offset of k (key_offset.cuh), which nothing in this kernel waits for.
// Keys go from the last tile to the first: only the first tile handled can be ragged, so only it is masked.
//
// Shared memory: Q [warpgroup][panel][64][128 B], K [stage][panel][kKeyTile][128 B], V [stage] (bf16 like K; 8-bit: blocks of 16
// keys, qkv_layout.cuh), O [warpgroup][panel][64][128 B], and for 8-bit operands their keyBlocks [stage][kKeyTile / 16].
// and what their softmax wants of each query [2][kQueryTile].
// A panel is 128 bytes of the head dimension, swizzled. Barriers (all in shared memory):
//     query_full[w]   the producer's bytes                   waited for by warpgroup w
//     query_empty[w]  warpgroup w's four warps               waited for by the producer
//     key_full[s], value_full[s]    the producer's bytes     waited for by every warpgroup; keyBlocks come with K
//     key_empty[s], value_empty[s]  all consumer warps       waited for by the producer
//     rows_full[2]    the warp beside the producer's         waited for by every warpgroup, once a query tile
//     rows_empty[2]   all consumer warps                     waited for by that warp
// Registers: producer 40 or 32; consumers 232 with two warpgroups, 160 with three. With key tile N and head dimension D a
// consumer holds N/2 (S) + D/2 (O) + P: N/4 in bf16, N/8 in e4m3.
#pragma once

#include "attention/hopper_config.cuh"
#include "attention/hopper_softmax.cuh"
#include "attention/key_offset.cuh"
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
  typename C::Ring at;
  uint32_t query_parity = 1;
  Work work;
  for (int i = 0; p.schedule.get(i, work); ++i) {
    const int slice = work.slice, query_tile = work.query_tile;
    const int head = slice % p.heads, batch = slice / p.heads;
    const int end = last_key_tile<C>(p, work, query_tile);
    at.start_tile();
    for (int j = end - 1; j >= work.begin; --j) {
      const int token = j * C::kKeyTile;
      const uint32_t block_bytes = C::kPacked ? min(C::kKeyTile, p.padded_keys - token) : 0;
      ptx::mbarrier_wait(shared.key_empty(at.stage), at.parity() ^ 1);
      ptx::mbarrier_arrive_expect_tx(shared.key_full(at.stage), C::kKeyBytes + block_bytes);
#pragma unroll
      for (int panel = 0; panel < C::kPanels; ++panel) {
        ptx::cp_async_bulk_tensor_4d_load(shared.key(at.stage) + panel * C::kKeyTile * 128, &p.key,
                                          shared.key_full(at.stage),
                                          panel * 128 / int(sizeof(typename C::Score)), token, head, batch);
      }
      if constexpr (C::kPacked) {
        ptx::cp_async_bulk_load(shared.blocks(at.stage),
                                p.key_blocks + (int64_t(slice) * p.padded_keys + token) / 16, block_bytes,
                                shared.key_full(at.stage));
      }
      if (j == end - 1) {
        for (int w = 0; w < C::kWarpgroups; ++w) {
          ptx::mbarrier_wait(shared.query_empty(w), query_parity);
          ptx::mbarrier_arrive_expect_tx(shared.query_full(w), C::kQueryBytes);
          for (int panel = 0; panel < C::kPanels; ++panel) {
            ptx::cp_async_bulk_tensor_4d_load(shared.query(w) + panel * 64 * 128, &p.query,
                                              shared.query_full(w),
                                              panel * 128 / int(sizeof(typename C::Score)),
                                              query_tile * C::kQueryTile + 64 * w, head, batch);
          }
        }
        query_parity ^= 1;
      }
      ptx::mbarrier_wait(shared.value_empty(at.stage), at.parity() ^ 1);
      ptx::mbarrier_arrive_expect_tx(shared.value_full(at.stage), C::kValueBytes);
      if constexpr (C::kPacked) {
        ptx::cp_async_bulk_tensor_4d_load(shared.value(at.stage), &p.value, shared.value_full(at.stage), 0, 0,
                                          token / 16, slice);
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

// A warp beside it: the offsets of k, a slice a block.
template <typename C>
__device__ __forceinline__ void update_key_offsets(const Parameters& p) {
#pragma unroll 1
  for (int slice = blockIdx.x; slice < p.slices; slice += gridDim.x) {
    qkv::update_key_offset<typename C::Score>(p.key_codes + slice * qkv::scored_slice_bytes(p.keys),
                                              p.key_blocks + int64_t(slice) * p.padded_keys / 16, p.keys,
                                              p.key_offset + int64_t(slice) * C::kHeadDim);
  }
}

template <typename C>
__device__ __forceinline__ void multiply_scores(typename C::Accumulator (&s)[C::kKeyTile / 2], uint32_t query,
                                                uint32_t key) {
  const ptx::WgmmaOperand<ptx::OperandLayout::kSwizzle128> a(query, 16, 1024), b(key, 16, 1024);
#pragma unroll
  for (int k = 0; k < 4 * C::kPanels; ++k) {
    const uint32_t in_panel = k % 4 * 32;
    ptx::WgmmaScores<typename C::Score, C::kKeyTile>::mma_async(
        s, a.at(k / 4 * (64 * 128) + in_panel), b.at(k / 4 * (C::kKeyTile * 128) + in_panel), k != 0);
  }
}

template <typename C>
__device__ __forceinline__ void multiply_values(float (&o)[C::kHeadDim / 2],
                                                const uint32_t (&p)[C::kFragments][4], uint32_t value) {
  const ptx::WgmmaOperand<ptx::OperandLayout::kSwizzle128> b(value, C::kKeyTile * 128, 1024);
#pragma unroll
  for (int f = 0; f < C::kFragments; ++f) {
    ptx::WgmmaValues<typename C::Value, C::kHeadDim>::mma_async(o, p[f], b.at(f * 2048));
  }
}

// One arrival a warp, once all its lanes are done with what the barrier guards.
__device__ __forceinline__ void release(uint32_t barrier) {
  __syncwarp();
  if (threadIdx.x % 32 == 0) ptx::mbarrier_arrive(barrier);
}

// As `release`, but not before `rows` is known. Left alone, the compiler moves the wait for the products that follows this call ahead of the
// exponentials, which are meant to run under those products; no sum is −1, so the comparison only ties the two together.
__device__ __forceinline__ void release_after(uint32_t barrier, const Rows& rows) {
  __syncwarp();
  if (threadIdx.x % 32 == 0 && rows.sum[0] + rows.sum[1] != -1.0f) ptx::mbarrier_arrive(barrier);
}

// Named barriers: kTurn + w is warpgroup w's turn to issue, kGroup + w synchronises warpgroup w.
inline constexpr int kTurn = 1, kGroup = 5;

__device__ __forceinline__ void take_turn(int w) { ptx::bar_sync(kTurn + w, 256); }

template <typename C>
__device__ __forceinline__ void pass_turn(int w) {
  ptx::bar_arrive(kTurn + (w + 1) % C::kWarpgroups, 256);
}

// Hands this warpgroup's unfinished accumulator to the block before (schedule.cuh).
template <int kAccumulators>
__device__ __forceinline__ void publish(const Parameters& p, int index, int w,
                                        const float (&o)[kAccumulators], const Rows& rows) {
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
__device__ __forceinline__ void merge(const Parameters& p, int index, int w, float (&o)[kAccumulators],
                                      Rows& rows) {
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

// O · inverse → bf16 → shared memory, swizzled as the output map wants.
template <typename C>
__device__ __forceinline__ void stage_output(uint32_t output, const float (&o)[C::kHeadDim / 2],
                                             const float (&inverse)[2]) {
  const int lane = threadIdx.x % 32, row = 16 * (threadIdx.x / 32 % 4) + lane % 16;
#pragma unroll
  for (int i = 0; i < C::kHeadDim / 8; i += 2) {
    uint32_t matrices[4];
#pragma unroll
    for (int m = 0; m < 4; ++m) {
      const float* v = o + 4 * (i + m / 2) + 2 * (m % 2);
      matrices[m] = ptx::cvt_rn_bf16x2(v[0] * inverse[m % 2], v[1] * inverse[m % 2]);
    }
    const int chunk = i + lane / 16;  // of 8 columns
    ptx::stmatrix_x4(output + chunk / 8 * (64 * 128) + row * 128 + ((chunk % 8 ^ row % 8) << 4), matrices);
  }
}

// O · inverse / output scale → e4m3 codes → shared memory → global, each warp its own 16 rows. A 16-byte chunk holds 16 columns, of which a
// stmatrix register takes two of the first eight and two of the last: the words of a chunk are put in order on the way out.
template <typename C>
__device__ __forceinline__ void store_codes(const Parameters& p, uint32_t output, uint32_t values,
                                            const float (&o)[C::kHeadDim / 2], const float (&inverse)[2],
                                            int slice, int first_row) {
  const int lane = threadIdx.x % 32, first = 16 * (threadIdx.x / 32 % 4);
  const uint32_t staged = output + first * 128;
  const auto chunk_of = [staged](int row, int chunk) {
    return staged + row * 128 + ((chunk ^ row % 8) << 4);
  };
  float factor[2];
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    factor[h] = inverse[h] * ptx::ld_shared_f32(values + 16 * (first + lane / 4 + 8 * h) + 8);
  }
#pragma unroll
  for (int c = 0; c < C::kHeadDim / 16; c += 2) {
    uint32_t matrices[4];
#pragma unroll
    for (int m = 0; m < 4; ++m) {
      const float* v = o + 8 * (c + m / 2) + 2 * (m % 2);
      const float f = factor[m % 2];
      matrices[m] = ptx::cvt_rn_satfinite_e4m3x2(v[0] * f, v[1] * f) |
                    uint32_t(ptx::cvt_rn_satfinite_e4m3x2(v[4] * f, v[5] * f)) << 16;
    }
    ptx::stmatrix_x4(chunk_of(lane % 16, c + lane / 16), matrices);
  }
  __syncwarp();
  uint8_t* codes = static_cast<uint8_t*>(p.codes.data) + slice / p.heads * p.codes.batch_stride +
                   slice % p.heads * p.codes.head_stride + 16 * (lane % 8);
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int row = 4 * i + lane / 8, query = first_row + first + row;
    const uint4 v = ptx::ld_shared_v4_b32(chunk_of(row, lane % 8));
    if (query < p.queries) {
      *reinterpret_cast<uint4*>(codes + query * p.codes.token_stride) =
          make_uint4(__byte_perm(v.x, v.y, 0x5410), __byte_perm(v.z, v.w, 0x5410),
                     __byte_perm(v.x, v.y, 0x7632), __byte_perm(v.z, v.w, 0x7632));
    }
  }
}

// O / sum → shared memory → global by TMA, which drops rows beyond the sequence, or in codes.
template <typename C>
__device__ __forceinline__ void store_output(const Parameters& p, const Shared<C>& shared, int w,
                                             const float (&o)[C::kHeadDim / 2], const Rows& rows,
                                             const RowContext<C>& context, int slice, int first_row,
                                             uint32_t values) {
  const int lane = threadIdx.x % 32, thread = threadIdx.x % 128;
  float inverse[2];
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const float sum = quad_sum(rows.sum[h]);
    inverse[h] = sum > 0.0f ? __frcp_rn(sum) : 0.0f;
    if (p.log_sum_exp != nullptr && lane % 4 == 0 && context.row[h] < p.queries) {
      const float log2 = rows.reference[h] - Probabilities<typename C::Value>::kBase + log2_approx(sum);
      p.log_sum_exp[int64_t(slice) * p.queries + context.row[h]] =
          sum > 0.0f ? log2 * 0.6931471805599453f : -INFINITY;
    }
  }
  if (C::kPacked && p.codes.data != nullptr) {
    store_codes<C>(p, shared.output(w), values, o, inverse, slice, first_row);
    return;
  }
  if (thread == 0) ptx::cp_async_bulk_wait_group_read<0>();  // the previous tile has left
  ptx::bar_sync(kGroup + w, 128);
  stage_output<C>(shared.output(w), o, inverse);
  ptx::fence_proxy_async();
  ptx::bar_sync(kGroup + w, 128);
  if (thread == 0) {
#pragma unroll
    for (int panel = 0; panel < C::kOutputPanels; ++panel) {
      ptx::cp_async_bulk_tensor_4d_store(&p.output, shared.output(w) + panel * 64 * 128, panel * 64,
                                         first_row, slice % p.heads, slice / p.heads);
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
    if constexpr (C::kExtra == Extra::kBias) {
      context.scale[h] = 1.4426950408889634f;  // log2 e: the bias joins before
      context.bias[h] =
          p.bias + slice % p.heads * p.bias_head_stride + min(row, p.queries - 1) * p.bias_row_stride;
    }
  }
  return context;
}

// Hands the accumulator of finished work on, or joins it with what another block computed and stores it.
template <typename C>
__device__ __forceinline__ void finish(const Parameters& p, const Shared<C>& shared, int w,
                                       float (&o)[C::kHeadDim / 2], Rows& rows, const RowContext<C>& context,
                                       const Work& work, int slice, int first_row, uint32_t values = 0) {
  const int partial = int(blockIdx.x) * C::kWarpgroups + w;
  if (work.begin > 0) {
    publish(p, partial, w, o, rows);
    return;
  }
  if (work.end < p.schedule.key_tiles) merge(p, partial + C::kWarpgroups, w, o, rows);
  store_output<C>(p, shared, w, o, rows, context, slice, first_row, values);
}

// Warpgroup w of the consumers, in bf16.
template <typename C>
__device__ __forceinline__ void consume(const Parameters& p, const Shared<C>& shared, int w) {
  typename C::Ring at;
  uint32_t query_parity = 0;
  if (w == C::kWarpgroups - 1) pass_turn<C>(w);
  Work work;
  for (int i = 0; p.schedule.get(i, work); ++i) {
    const int slice = work.slice, query_tile = work.query_tile;
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
    ptx::mbarrier_wait(shared.key_full(at.stage), at.parity());
    take_turn(w);
    ptx::wgmma_fence();
    multiply_scores<C>(s, shared.query(w), shared.key(at.stage));
    ptx::wgmma_commit_group();
    pass_turn<C>(w);
    float y[C::kKeyTile / 2];
    if constexpr (C::kExtra == Extra::kBias) load_bias<C, true>(y, p, context, (end - 1) * C::kKeyTile);
    ptx::wgmma_wait_group<0>();
    softmax_exact<C, true>(y, rows, factor, s, p, context, shared.blocks(at.stage), (end - 1) * C::kKeyTile);
    release(shared.key_empty(at.stage));
    pack<C>(probabilities, y);
    typename C::Ring value_at = at;
    at.advance();

    for (int j = end - 2; j >= work.begin; --j) {
      ptx::mbarrier_wait(shared.key_full(at.stage), at.parity());
      take_turn(w);
      ptx::wgmma_fence();
      multiply_scores<C>(s, shared.query(w), shared.key(at.stage));
      ptx::wgmma_commit_group();
      ptx::mbarrier_wait(shared.value_full(value_at.stage), value_at.parity());
      ptx::wgmma_fence();
      multiply_values<C>(o, probabilities, shared.value(value_at.stage));
      ptx::wgmma_commit_group();
      pass_turn<C>(w);
      if constexpr (C::kExtra == Extra::kBias) load_bias<C, false>(y, p, context, j * C::kKeyTile);
      ptx::wgmma_wait_group<1>();
      const bool rescale =
          softmax_exact<C, false>(y, rows, factor, s, p, context, shared.blocks(at.stage), j * C::kKeyTile);
      release_after(shared.key_empty(at.stage), rows);
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
    ptx::mbarrier_wait(shared.value_full(value_at.stage), value_at.parity());
    ptx::wgmma_fence();
    multiply_values<C>(o, probabilities, shared.value(value_at.stage));
    ptx::wgmma_commit_group();
    ptx::wgmma_wait_group<0>();
    release(shared.value_empty(value_at.stage));

    finish<C>(p, shared, w, o, rows, context, work, slice, first_row);
  }
  if (threadIdx.x % 128 == 0) ptx::cp_async_bulk_wait_group_read<0>();  // shared memory outlives the copies
}

// Warpgroup w of the consumers, on 8-bit operands, and the warp that works ahead of them: hopper_packed.cuh.
template <typename C>
__device__ void consume_packed(const Parameters& p, const Shared<C>& shared, int w);
template <typename C>
__device__ void prepare_rows(const Parameters& p, const Shared<C>& shared);
template <typename C>
__device__ void prepare_scales(const Parameters& p, const Shared<C>& shared);

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
    for (int slot = 0; C::kPacked && slot < 2; ++slot) {
      ptx::mbarrier_init(shared.rows_full(slot), 1);
      ptx::mbarrier_init(shared.rows_empty(slot), 4 * C::kWarpgroups);
      ptx::mbarrier_init(shared.scales_full(slot), 1);
    }
    ptx::fence_mbarrier_init();
  }
  __syncthreads();
  wait_for_predecessors();
  const int warpgroup = __shfl_sync(0xffffffff, threadIdx.x / 128, 0);
  if (warpgroup == C::kWarpgroups) {
    ptx::setmaxnreg_dec<C::kWarpgroups == 2 ? 40 : 32>();
    const int warp = threadIdx.x / 32 - 4 * C::kWarpgroups;
    if (threadIdx.x == 128 * C::kWarpgroups) produce<C>(p, shared);
    if constexpr (C::kPacked) {
      if (warp == 1) prepare_rows<C>(p, shared);
      if (warp == 2 && p.key_offset != nullptr) update_key_offsets<C>(p);
      if (warp == 3 && p.own_scale != nullptr) prepare_scales<C>(p, shared);
    }
  } else {
    ptx::setmaxnreg_inc<C::kWarpgroups == 2 ? 232 : 160>();
    if constexpr (C::kPacked) {
      consume_packed<C>(p, shared, warpgroup);
    } else {
      consume<C>(p, shared, warpgroup);
    }
  }
  let_successor_start();
#endif
}

}  // namespace flux::kernels::attention
