// low = (x·downᵀ)·scale by wgmma: a tile of 128 rows × kRanks, K cut into runs for the CTAs of a cluster.
//
//   warps 0-7   two math warpgroups of 64 rows each
//   warp 8      TMA loads into a ring of stages: 128 bytes of each row of x and of down, swizzled
//
// Sums of the cluster's CTAs meet in shared memory: each lays its own down where its stages were, rows kPitch apart, and
// adds up its share of the tile over all CTAs in order.
// Barriers: full[stage] 1 + bytes, the math warps wait; empty[stage] the eight math warps, the producer waits.
#pragma once

#include "launch.cuh"
#include "lora/params.h"
#include "ptx/barrier.cuh"
#include "ptx/cluster.cuh"
#include "ptx/convert.cuh"
#include "ptx/mbarrier.cuh"
#include "ptx/shared.cuh"
#include "ptx/tma.cuh"
#include "ptx/wgmma.cuh"

namespace flux::kernels::lora {

template <typename Operand_, int kRanks_>
struct DownConfig {
  using Operand = Operand_;
  static constexpr int kRanks = kRanks_;
  static constexpr int kRows = 128;
  static constexpr int kMathWarps = 8;
  static constexpr int kThreads = 32 * (kMathWarps + 1);
  static constexpr int kRowBytes = 128;
  static constexpr int kBlock = kRowBytes / int(sizeof(Operand));
  static constexpr int kXBytes = kRows * kRowBytes;
  static constexpr int kStageBytes = kXBytes + kRanks * kRowBytes;
  // CTAs that share a multiprocessor: one waits while another works.
  static constexpr int kSharers = kRanks == 16 ? 4 : kRanks == 64 ? 3 : 2;
  static constexpr int kRoom = 227 * 1024 / kSharers - 2048;
  static constexpr int kStages = kRoom / kStageBytes < 6 ? kRoom / kStageBytes : 6;
  static constexpr int kPitch = kRanks + 4;  // in floats
  static_assert(kRows * kPitch * 4 <= kStages * kStageBytes);
  static constexpr int kFullAt = kStages * kStageBytes;
  static constexpr int kEmptyAt = kFullAt + 8 * kStages;
  static constexpr int kSharedBytes = kEmptyAt + 8 * kStages;
};

template <typename Config>
__device__ __forceinline__ void produce(const Params& params, const Tile& tile, uint32_t shared, int begin,
                                        int end) {
  for (int block = begin; block < end; ++block) {
    const int stage = (block - begin) % Config::kStages, round = (block - begin) / Config::kStages;
    const uint32_t at = shared + stage * Config::kStageBytes, full = shared + Config::kFullAt + 8 * stage;
    ptx::mbarrier_wait(shared + Config::kEmptyAt + 8 * stage, round % 2 ^ 1);
    ptx::mbarrier_arrive_expect_tx(full, Config::kStageBytes);
    const int k = block * Config::kBlock;
    ptx::cp_async_bulk_tensor_3d_load(at, &tile.group->x, full, k, tile.row, tile.batch);
    ptx::cp_async_bulk_tensor_2d_load(at + Config::kXBytes, &tile.group->down, full, k, tile.column);
  }
}

// All k-blocks of this CTA, one at the least, 64 rows of the tile in each of two warpgroups. Waits on full[stage]; arrives on
// empty[stage] when the products that read it are complete.
template <typename Config>
__device__ __forceinline__ void multiply(float (&sums)[Config::kRanks / 2], uint32_t shared, int blocks) {
  const uint32_t x = shared + threadIdx.x / 128 * 64 * Config::kRowBytes;
  int stage = 0, before = 0;
  uint32_t parity = 0;
#pragma unroll 1
  for (int block = 0; block < blocks; ++block) {
    ptx::mbarrier_wait(shared + Config::kFullAt + 8 * stage, parity);
    const uint64_t rows = ptx::wgmma_descriptor(x + stage * Config::kStageBytes);
    const uint64_t columns = ptx::wgmma_descriptor(shared + stage * Config::kStageBytes + Config::kXBytes);
    ptx::wgmma_fence();
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      ptx::Wgmma<typename Config::Operand, Config::kRanks>::mma_async(sums, rows + 2 * i, columns + 2 * i,
                                                                      block + i > 0);
    }
    ptx::wgmma_commit_group();
    ptx::wgmma_wait_group<1>();
    if (block > 0 && threadIdx.x % 32 == 0) ptx::mbarrier_arrive(shared + Config::kEmptyAt + 8 * before);
    before = stage;
    if (++stage == Config::kStages) {
      stage = 0;
      parity ^= 1;
    }
  }
  ptx::wgmma_wait_group<0>();
}

template <typename Config>
__device__ __forceinline__ void lay_down(const float (&sums)[Config::kRanks / 2], uint32_t shared) {
  const uint32_t lane = threadIdx.x % 32, row = threadIdx.x / 32 * 16 + lane / 4;
  const uint32_t at = shared + (row * Config::kPitch + 2 * (lane % 4)) * 4;
#pragma unroll
  for (int j = 0; j < Config::kRanks / 8; ++j) {
    ptx::st_shared_v2_f32(at + 32 * j, sums[4 * j], sums[4 * j + 1]);
    ptx::st_shared_v2_f32(at + 32 * j + 8 * Config::kPitch * 4, sums[4 * j + 2], sums[4 * j + 3]);
  }
}

// This CTA's share of the tile, over the cluster's `parts` CTAs.
template <typename Config>
__device__ __forceinline__ void reduce(const Params& params, const Tile& tile, uint32_t shared, int parts,
                                       int rank) {
  constexpr int kVectors = Config::kRanks / 4;  // of a row
  const DownGroup& group = tile.group->group;
  const int last = Config::kRows * kVectors * (rank + 1) / parts;
  for (int i = Config::kRows * kVectors * rank / parts + int(threadIdx.x); i < last; i += Config::kThreads) {
    const int in_tile = i / kVectors;
    const int row = tile.row + in_tile, column = tile.column + i % kVectors * 4;
    if (row >= group.rows || column >= params.ranks) continue;
    const uint32_t at = shared + (in_tile * Config::kPitch + i % kVectors * 4) * 4;
    float4 sum = ptx::ld_shared_cluster_v4_f32(ptx::mapa(at, 0));
    for (int part = 1; part < parts; ++part) {
      const float4 more = ptx::ld_shared_cluster_v4_f32(ptx::mapa(at, part));
      sum.x += more.x, sum.y += more.y, sum.z += more.z, sum.w += more.w;
    }
    const float4 scale = *reinterpret_cast<const float4*>(group.scale + column);
    auto* to = static_cast<__nv_bfloat16*>(group.low.data) + tile.batch * group.low.batch_stride +
               row * group.low.row_stride;
    *reinterpret_cast<uint2*>(to + column) = make_uint2(ptx::cvt_rn_bf16x2(sum.x * scale.x, sum.y * scale.y),
                                                        ptx::cvt_rn_bf16x2(sum.z * scale.z, sum.w * scale.w));
  }
}

template <typename Config>
__global__ void __launch_bounds__(Config::kThreads, Config::kSharers)
    down_kernel(const __grid_constant__ Params params, int parts) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  extern __shared__ __align__(1024) uint8_t dynamic_shared[];
  const uint32_t shared = ptx::shared_address(dynamic_shared);
  const int rank = int(blockIdx.x) % parts;
  const Tile tile = tile_at<Config::kRows, Config::kRanks>(params, int(blockIdx.x) / parts);
  const int begin = params.k_blocks * rank / parts, end = params.k_blocks * (rank + 1) / parts;
  if (threadIdx.x == 0) {
    for (int stage = 0; stage < Config::kStages; ++stage) {
      ptx::mbarrier_init(shared + Config::kFullAt + 8 * stage, 1);
      ptx::mbarrier_init(shared + Config::kEmptyAt + 8 * stage, Config::kMathWarps);
    }
    ptx::fence_mbarrier_init();
  }
  __syncthreads();
  wait_for_predecessors();
  let_successor_start();

  const int warp = __shfl_sync(0xffffffff, threadIdx.x / 32, 0);
  if (warp == Config::kMathWarps) {
    if (ptx::elect_sync()) produce<Config>(params, tile, shared, begin, end);
    __syncwarp();
  } else {
    float sums[Config::kRanks / 2];
    multiply<Config>(sums, shared, end - begin);
    ptx::bar_sync(1, 32 * Config::kMathWarps);  // all have read the stages
    lay_down<Config>(sums, shared);
  }
  ptx::cluster_arrive();
  ptx::cluster_wait();
  reduce<Config>(params, tile, shared, parts, rank);
  // A CTA's sums must stay until its peers have read them.
  ptx::cluster_arrive();
  ptx::cluster_wait();
#endif
}

}  // namespace flux::kernels::lora
