// bf16 attention with head_dim 512 on sm_90a (the VAE's middle block: one head over all pixels).
//
// O of 64 queries is 64 × 512 f32, half of the register file: two consumer warpgroups hold 256 channels each. Per tile of 128 keys,
// warpgroup w computes S for 64 of them (all of q·k, 512 channels), the two exchange row maxima and leave P, bf16, side by side in
// shared memory, and each multiplies the whole P by its half of V's channels. With only 64 queries a block would need 64 bytes of K
// and V a clock, so two blocks form a cluster: each fetches half of every slot and multicasts it to both.
//
//     S(j) ← Q·Kᵀ(j)   eight slots of 64 channels, each given back as soon as its products are done
//     O ← O + P·V(j−1)   eight slots of 16 keys; the softmax of S(j) runs under them
//     P ← softmax(S(j))
//
// Shared memory (of each block): Q [8 panels][64][128 B], later O; P of two tiles in turn [2 panels][64][128 B], so that a new one need
// not wait until both warpgroups have read the old; a ring of 8 slots of 16 KiB, which holds in turn K [128 keys][128 B] (64 channels)
// and V [8 panels][16 keys][128 B]; row maxima and sums [2][64]; barriers:
//     query_full   the producer's bytes                              waited for by both warpgroups
//     full[s]      16 KiB, half from each block of the cluster       waited for by both warpgroups
//     empty[s]     the 8 consumer warps of both blocks, 16 arrivals  waited for by the producers of both blocks
// Registers: producer 40, consumers 232: O 128, S 32.
#include "attention/check.h"
#include "attention/hopper_config.cuh"
#include "attention/launch_hopper.cuh"
#include "attention/wide.h"
#include "ptx/cluster.cuh"

namespace flux::kernels {

namespace attention {

namespace wide {

constexpr int kDim = 512, kQueries = 64, kKeys = 128, kSlots = 8, kSlotBytes = 16384;
constexpr int kProbabilitiesAt = kQueries * kDim * 2, kProbabilityBytes = kQueries * kKeys * 2;
constexpr int kRingAt = kProbabilitiesAt + 2 * kProbabilityBytes;
constexpr int kRowsAt = kRingAt + kSlots * kSlotBytes, kBarriersAt = kRowsAt + 2 * 2 * 64 * 4;
constexpr int kWideSharedBytes = kBarriersAt + 8 * (1 + 2 * kSlots) + 1024;
constexpr int kPair = 1;  // named barrier of both consumer warpgroups
constexpr uint16_t kBothBlocks = 0b11;

struct WideParameters {
  CUtensorMap query, key, value, output;
  int heads, queries, keys;
  float scale_log2;
  float* log_sum_exp;
};

struct WideShared {
  uint32_t base;
  __device__ __forceinline__ uint32_t probabilities(int tile) const {
    return base + kProbabilitiesAt + tile % 2 * kProbabilityBytes;
  }
  __device__ __forceinline__ uint32_t slot(int s) const { return base + kRingAt + s * kSlotBytes; }
  __device__ __forceinline__ uint32_t maximum(int w, int row) const {
    return base + kRowsAt + 4 * (64 * w + row);
  }
  __device__ __forceinline__ uint32_t sum(int w, int row) const {
    return base + kRowsAt + 512 + 4 * (64 * w + row);
  }
  __device__ __forceinline__ uint32_t query_full() const { return base + kBarriersAt; }
  __device__ __forceinline__ uint32_t full(int s) const { return base + kBarriersAt + 8 * (1 + s); }
  __device__ __forceinline__ uint32_t empty(int s) const { return base + kBarriersAt + 8 * (1 + kSlots + s); }
};

__device__ __forceinline__ float ld_shared_f32(uint32_t address) {
  float v;
  asm volatile("ld.shared.f32 %0, [%1];" : "=f"(v) : "r"(address) : "memory");
  return v;
}

__device__ __forceinline__ void produce_wide(const WideParameters& p, const WideShared& shared, int head,
                                             int batch) {
  const int rank = int(ptx::cluster_ctarank());
  Cursor<kSlots> at;
  ptx::mbarrier_arrive_expect_tx(shared.query_full(), kQueries * kDim * 2);
  for (int panel = 0; panel < 8; ++panel) {
    ptx::cp_async_bulk_tensor_4d_load(shared.base + panel * 8192, &p.query, shared.query_full(), panel * 64,
                                      blockIdx.x * kQueries, head, batch);
  }
  const auto claim = [&] {
    ptx::mbarrier_wait(shared.empty(at.stage), at.parity() ^ 1);
    ptx::mbarrier_arrive_expect_tx(shared.full(at.stage), kSlotBytes);
  };
  const auto load_keys = [&](int tile) {
    for (int c = 0; c < 8; ++c, at.advance()) {
      claim();
      ptx::cp_async_bulk_tensor_4d_multicast(shared.slot(at.stage) + rank * 8192, &p.key,
                                             shared.full(at.stage), c * 64, tile * kKeys + rank * 64, head,
                                             batch, kBothBlocks);
    }
  };
  const auto load_values = [&](int tile) {
    for (int c = 0; c < 8; ++c, at.advance()) {
      claim();
      for (int panel = 4 * rank; panel < 4 * rank + 4; ++panel) {
        ptx::cp_async_bulk_tensor_4d_multicast(shared.slot(at.stage) + panel * 2048, &p.value,
                                               shared.full(at.stage), panel * 64, tile * kKeys + c * 16, head,
                                               batch, kBothBlocks);
      }
    }
  };
  const int tiles = (p.keys + kKeys - 1) / kKeys;
  load_keys(tiles - 1);
  for (int tile = tiles - 2; tile >= 0; --tile) {
    load_keys(tile);
    load_values(tile + 1);
  }
  load_values(0);
}

// A warp's arrival at a slot's barrier in both blocks of the cluster.
__device__ __forceinline__ void release_slot(const WideShared& shared, int slot) {
  __syncwarp();
  const int lane = threadIdx.x % 32;
  if (lane < 2) ptx::mbarrier_arrive_cluster(ptx::mapa(shared.empty(slot), lane));
}

// S of this warpgroup's 64 keys. Leaves the last slot's products in flight, and returns that slot.
__device__ __forceinline__ int multiply_keys(float (&s)[32], const WideShared& shared, int w,
                                             Cursor<kSlots>& at) {
  using Operand = ptx::WgmmaOperand<ptx::OperandLayout::kSwizzle128>;
  int previous = 0;
#pragma unroll 1  // unrolled, the descriptors of all of Q would be kept in registers
  for (int c = 0; c < 8; ++c) {
    ptx::mbarrier_wait(shared.full(at.stage), at.parity());
    const Operand a(shared.base + c * 8192, 16, 1024), b(shared.slot(at.stage) + w * 8192, 16, 1024);
    ptx::wgmma_fence();
#pragma unroll
    for (int k = 0; k < 4; ++k)
      ptx::WgmmaScores<__nv_bfloat16, 64>::mma_async(s, a.at(k * 32), b.at(k * 32), c + k);
    ptx::wgmma_commit_group();
    ptx::wgmma_wait_group<1>();
    if (c > 0) release_slot(shared, previous);
    previous = at.stage;
    at.advance();
  }
  return previous;
}

// O += P·V(tile): one group of products a slot, left in flight. With kAfterKeys, those of `key_slot` came just before.
template <bool kAfterKeys>
__device__ __forceinline__ void multiply_values_wide(float (&o)[128], const WideShared& shared, int w,
                                                     Cursor<kSlots>& at, int tile, int key_slot) {
  using Operand = ptx::WgmmaOperand<ptx::OperandLayout::kSwizzle128>;
  const Operand a(shared.probabilities(tile), 16, 1024);
  const auto multiply_slot = [&](int c) {
    ptx::mbarrier_wait(shared.full(at.stage), at.parity());
    const Operand b(shared.slot(at.stage) + w * 8192, 2048, 1024);
    ptx::wgmma_fence();
    ptx::WgmmaWide::mma_async(o, a.at(c / 4 * 8192 + c % 4 * 32), b.at(0));
    ptx::wgmma_commit_group();
    at.advance();
  };
  multiply_slot(0);
  if (kAfterKeys) {
    ptx::wgmma_wait_group<1>();
    release_slot(shared, key_slot);
  }
#pragma unroll
  for (int c = 1; c < 8; ++c) multiply_slot(c);
}

// Waits until at most `kPending` of a tile's eight P·V groups are in flight and gives back the slots of the `kCount` before them.
template <int kPending, int kCount>
__device__ __forceinline__ void release_values(const WideShared& shared, int first_slot) {
  ptx::wgmma_wait_group<kPending>();
#pragma unroll
  for (int i = 8 - kPending - kCount; i < 8 - kPending; ++i) release_slot(shared, (first_slot + i) % kSlots);
}

struct WideRows {
  int w, row;  // warpgroup; row in the block of the first of this thread's two rows
};

// First half of the softmax: masks, the maxima of both warpgroups, the reference. Returns whether O must be multiplied.
__device__ __forceinline__ bool raise_reference(float (&s)[32], Rows& rows, float (&factor)[2],
                                                const WideParameters& p, const WideShared& shared,
                                                const WideRows& at, int first_key) {
  float maximum[2] = {-INFINITY, -INFINITY};
#pragma unroll
  for (int i = 0; i < 32; ++i) {
    const int key = first_key + 64 * at.w + i / 4 * 8 + 2 * (threadIdx.x % 4) + i % 2;
    if (key >= p.keys) s[i] = -INFINITY;
    maximum[i / 2 % 2] = fmaxf(maximum[i / 2 % 2], s[i]);
  }
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    maximum[h] = __fmul_ru(quad_max(maximum[h]), p.scale_log2);
    if (threadIdx.x % 4 == 0)
      ptx::st_shared_b32(shared.maximum(at.w, at.row + 8 * h), __float_as_uint(maximum[h]));
  }
  ptx::bar_sync(kPair, 256);
#pragma unroll
  for (int h = 0; h < 2; ++h)
    maximum[h] = fmaxf(maximum[h], ld_shared_f32(shared.maximum(1 - at.w, at.row + 8 * h)));
  return rows.raise<__nv_bfloat16>(maximum, factor);
}

// Second half: probabilities in place. The sums are stored each time although only the last are read: the store keeps the compiler from moving
// the wait for P·V, which follows, ahead of the exponentials.
__device__ __forceinline__ void exponentials(float (&s)[32], Rows& rows, const WideParameters& p,
                                             const WideShared& shared, const WideRows& at) {
  const float offset[2] = {rows.offset(0, 0.0f), rows.offset(1, 0.0f)};
#pragma unroll
  for (int i = 0; i < 32; ++i) {
    s[i] = exp2_approx(fmaf(s[i], p.scale_log2, offset[i / 2 % 2]));
    rows.sum[i / 2 % 2] += s[i];
  }
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const float sum = quad_sum(rows.sum[h]);
    if (threadIdx.x % 4 == 0) ptx::st_shared_b32(shared.sum(at.w, at.row + 8 * h), __float_as_uint(sum));
  }
}

// Rows 16·warp .. of a 64-row tile of `kBlocks` 8-column blocks → panels of 64 columns, swizzled.
template <int kBlocks>
__device__ __forceinline__ void store_panels(uint32_t panels, const float (&v)[4 * kBlocks],
                                             const float (&factor)[2]) {
  const int lane = threadIdx.x % 32, row = 16 * (threadIdx.x / 32 % 4) + lane % 16;
#pragma unroll
  for (int i = 0; i < kBlocks; i += 2) {
    uint32_t matrices[4];
#pragma unroll
    for (int m = 0; m < 4; ++m) {
      const float* pair = v + 4 * (i + m / 2) + 2 * (m % 2);
      matrices[m] = ptx::cvt_rn_bf16x2(pair[0] * factor[m % 2], pair[1] * factor[m % 2]);
    }
    const int chunk = i + lane / 16;
    ptx::stmatrix_x4(panels + chunk / 8 * 8192 + row * 128 + ((chunk % 8 ^ row % 8) << 4), matrices);
  }
  ptx::fence_proxy_async();
}

__device__ __forceinline__ void consume_wide(const WideParameters& p, const WideShared& shared, int w,
                                             int head, int batch) {
  const float one[2] = {1.0f, 1.0f};
  const WideRows where{w, int(16 * (threadIdx.x / 32 % 4) + threadIdx.x % 32 / 4)};
  Cursor<kSlots> at;
  Rows rows;
  float o[128], s[32], factor[2];
#pragma unroll
  for (float& v : o) v = 0.0f;
  const int tiles = (p.keys + kKeys - 1) / kKeys;
  ptx::mbarrier_wait(shared.query_full(), 0);
  {
    const int key_slot = multiply_keys(s, shared, w, at);
    ptx::wgmma_wait_group<0>();
    release_slot(shared, key_slot);
    raise_reference(s, rows, factor, p, shared, where, (tiles - 1) * kKeys);
    exponentials(s, rows, p, shared, where);
    store_panels<8>(shared.probabilities(tiles - 1) + w * 8192, s, one);
    ptx::bar_sync(kPair, 256);  // P is complete
  }
  for (int tile = tiles - 2; tile >= 0; --tile) {
    const int key_slot = multiply_keys(s, shared, w, at);
    const int value_slot = at.stage;
    multiply_values_wide<true>(o, shared, w, at, tile + 1, key_slot);
    const bool rescale = raise_reference(s, rows, factor, p, shared, where, tile * kKeys);
    release_values<5, 3>(shared, value_slot);
    exponentials(s, rows, p, shared, where);
    release_values<2, 3>(shared, value_slot);
    release_values<0, 2>(shared, value_slot);
    if (rescale) {
#pragma unroll
      for (int i = 0; i < 128; ++i) o[i] *= factor[i / 2 % 2];
    }
    // The P that lay here was read before both warpgroups met for this tile's maxima.
    store_panels<8>(shared.probabilities(tile) + w * 8192, s, one);
    ptx::bar_sync(kPair, 256);  // P is complete
  }
  const int value_slot = at.stage;
  multiply_values_wide<false>(o, shared, w, at, 0, 0);
  release_values<0, 8>(shared, value_slot);

  float inverse[2];
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const int row = where.row + 8 * h, query = blockIdx.x * kQueries + row;
    const float sum = ld_shared_f32(shared.sum(0, row)) + ld_shared_f32(shared.sum(1, row));
    inverse[h] = sum > 0.0f ? __frcp_rn(sum) : 0.0f;
    if (p.log_sum_exp != nullptr && w == 0 && threadIdx.x % 4 == 0 && query < p.queries) {
      p.log_sum_exp[int64_t(blockIdx.y) * p.queries + query] =
          sum > 0.0f ? (rows.reference[h] + log2_approx(sum)) * 0.6931471805599453f : -INFINITY;
    }
  }
  store_panels<32>(shared.base + w * 4 * 8192, o,
                   inverse);  // over Q, whose last products both warpgroups have waited for
  ptx::bar_sync(kPair + 1 + w, 128);
  if (threadIdx.x % 128 == 0) {
    for (int panel = 4 * w; panel < 4 * w + 4; ++panel) {
      ptx::cp_async_bulk_tensor_4d_store(&p.output, shared.base + panel * 8192, panel * 64,
                                         blockIdx.x * kQueries, head, batch);
    }
    ptx::cp_async_bulk_commit_group();
    ptx::cp_async_bulk_wait_group_read<0>();
  }
}

#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
#define FLUX_PAIR_OF_BLOCKS __cluster_dims__(2, 1, 1)
#else
#define FLUX_PAIR_OF_BLOCKS  // no clusters, and an empty kernel
#endif

__global__ void FLUX_PAIR_OF_BLOCKS __launch_bounds__(384, 1)
    wide_kernel(const __grid_constant__ WideParameters p) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  extern __shared__ uint8_t raw[];
  const WideShared shared{(ptx::shared_address(raw) + 1023) & ~1023u};
  if (threadIdx.x == 0) {
    ptx::mbarrier_init(shared.query_full(), 1);
    for (int s = 0; s < kSlots; ++s) {
      ptx::mbarrier_init(shared.full(s), 1);
      ptx::mbarrier_init(shared.empty(s), 16);
    }
    ptx::fence_mbarrier_init();
  }
  ptx::cluster_arrive();
  ptx::cluster_wait();
  wait_for_predecessors();
  const int head = blockIdx.y % p.heads, batch = blockIdx.y / p.heads;
  const int warpgroup = __shfl_sync(0xffffffff, threadIdx.x / 128, 0);
  if (warpgroup == 2) {
    ptx::setmaxnreg_dec<40>();
    if (threadIdx.x == 256) produce_wide(p, shared, head, batch);
  } else {
    ptx::setmaxnreg_inc<232>();
    consume_wide(p, shared, warpgroup, head, batch);
  }
  __syncwarp();
  let_successor_start();
  ptx::cluster_arrive();  // the other block may still arrive at this one's barriers
  ptx::cluster_wait();
#endif
}

}  // namespace wide

Status run_wide(const AttentionBf16& call, cudaStream_t stream) {
  using namespace wide;
  WideParameters p{};
  p.heads = call.heads;
  p.queries = call.queries;
  p.keys = call.keys;
  p.scale_log2 = call.scale * 1.4426950408889634f;
  p.log_sum_exp = call.log_sum_exp;
  const auto map = [&](CUtensorMap* to, const AttentionTensor& tensor, int tokens, int rows,
                       const char* what) {
    return map_tokens(to, tensor, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 2, kDim, tokens, call.heads, call.batch,
                      rows, what);
  };
  if (Status s = map(&p.query, call.query, call.queries, 64, "query"); !s.ok()) return s;
  if (Status s = map(&p.key, call.key, call.keys, 64, "key"); !s.ok()) return s;
  if (Status s = map(&p.value, call.value, call.keys, 16, "value"); !s.ok()) return s;
  if (Status s = map(&p.output, call.output, call.queries, 64, "output"); !s.ok()) return s;
  const int tiles = (call.queries + kQueries - 1) / kQueries;
  return launch("attention_wide", wide_kernel, dim3((tiles + 1) / 2 * 2, call.batch * call.heads), dim3(384),
                kWideSharedBytes, stream, p);
}

}  // namespace attention

}  // namespace flux::kernels
