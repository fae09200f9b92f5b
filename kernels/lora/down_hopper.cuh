// low = (x·downᵀ)·scale by wgmma: a tile of 128 rows × kRanks, K cut into equal runs for the CTAs of a cluster.
//
//   warps 0-7   two math warpgroups of 64 rows each. Codes go from shared memory into registers, become bf16 there and are
//               the A operand; bf16 x is multiplied where it lies.
//   warp 8      TMA loads into a ring of stages
//
// A stage is 128 bytes of each row of x (128 codes or 64 bf16 numbers), swizzled, and as much of down: of codes two boxes of 64
// columns. 16-byte chunk c of row r lies at c ^ (r % 8), so the pairs of codes that a warp reads at once, 8 bytes of 8 rows,
// come from different banks.
// Sums of the cluster's CTAs meet in shared memory: each lays its own down where its stages were, rows kPitch apart, and
// adds up its share of the rows over all CTAs in order.
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
#include "ptx/wgmma_rows.cuh"
#include "quantise/expand.cuh"

namespace flux::kernels::lora {

template <typename Operand_, int kRanks_>
struct DownConfig {
  using Operand = Operand_;
  static constexpr bool kCodes = sizeof(Operand) == 1;
  static constexpr int kRanks = kRanks_;
  static constexpr int kRows = 128;
  static constexpr int kMathWarps = 8;
  static constexpr int kThreads = 32 * (kMathWarps + 1);
  static constexpr int kRowBytes = 128;
  static constexpr int kBlock = kRowBytes / int(sizeof(Operand));
  static constexpr int kXBytes = kRows * kRowBytes;
  static constexpr int kDownBytes = kRanks * kRowBytes;  // of a box of 64 columns
  static constexpr int kStageBytes = kXBytes + (kCodes ? 2 : 1) * kDownBytes;
  static constexpr int kRoom = 108 * 1024;  // so that two CTAs share a multiprocessor
  static constexpr int kStages = kRoom / kStageBytes < 6 ? kRoom / kStageBytes : 6;
  // Of 16 codes, expanded at a time: with 64 sums a thread there are registers for two.
  static constexpr int kSteps = kRanks == 128 ? 2 : 4;
  static constexpr int kPitch = kRanks + 4;  // in floats
  static_assert(kRows * kPitch * 4 <= kStages * kStageBytes);
  static constexpr int kFullAt = kStages * kStageBytes;
  static constexpr int kEmptyAt = kFullAt + 8 * kStages;
  static constexpr int kSharedBytes = kEmptyAt + 8 * kStages;
};

__device__ __forceinline__ uint32_t ld_shared_u16(uint32_t address) {
  uint16_t value;
  asm volatile("ld.shared.u16 %0, [%1];" : "=h"(value) : "r"(address) : "memory");
  return value;
}

__device__ __forceinline__ float4 ld_shared_cluster_v4_f32(uint32_t address) {
  float4 value;
  asm volatile("ld.shared::cluster.v4.f32 {%0, %1, %2, %3}, [%4];"
               : "=f"(value.x), "=f"(value.y), "=f"(value.z), "=f"(value.w)
               : "r"(address)
               : "memory");
  return value;
}

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
    if constexpr (Config::kCodes) {
      ptx::cp_async_bulk_tensor_2d_load(at + Config::kXBytes + Config::kDownBytes, &tile.group->down, full,
                                        k + 64, tile.column);
    }
  }
}

// A warpgroup's 64 rows of one stage, from `x` on.
template <typename Config>
__device__ __forceinline__ void multiply(float (&sums)[Config::kRanks / 2], uint32_t x, uint32_t down) {
  if constexpr (Config::kCodes) {
    const uint32_t lane = threadIdx.x % 32, row = threadIdx.x / 32 % 4 * 16 + lane / 4;
    const uint32_t at = x + row * Config::kRowBytes + 2 * (lane % 4);
#pragma unroll
    for (uint32_t step = 0; step < 8; step += Config::kSteps) {
      uint32_t a[Config::kSteps][4];
#pragma unroll
      for (uint32_t i = 0; i < Config::kSteps; ++i) {
        const uint32_t chunk = at + (((step + i) ^ (lane / 4)) << 4);
#pragma unroll
        for (uint32_t side = 0; side < 2; ++side) {
          const uint32_t from = chunk + side * 8 * Config::kRowBytes;
          expand_e4m3(ld_shared_u16(from) | ld_shared_u16(from + 8) << 16, a[i][side], a[i][2 + side]);
        }
      }
      const uint64_t columns = ptx::wgmma_descriptor(down + step / 4 * Config::kDownBytes) + 2 * (step % 4);
      ptx::wgmma_fence();
#pragma unroll
      for (int i = 0; i < Config::kSteps; ++i)
        ptx::WgmmaRows<Config::kRanks>::mma_async(sums, a[i], columns + 2 * i);
      ptx::wgmma_commit_group();
      ptx::wgmma_wait_group<0>();
    }
  } else {
    const uint64_t rows = ptx::wgmma_descriptor(x), columns = ptx::wgmma_descriptor(down);
    ptx::wgmma_fence();
#pragma unroll
    for (int i = 0; i < 4; ++i)
      ptx::Wgmma<__nv_bfloat16, Config::kRanks>::mma_async(sums, rows + 2 * i, columns + 2 * i, true);
    ptx::wgmma_commit_group();
    ptx::wgmma_wait_group<0>();
  }
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

// This CTA's share of the tile's rows, over the cluster's `parts` CTAs.
template <typename Config>
__device__ __forceinline__ void reduce(const Params& params, const Tile& tile, uint32_t shared, int parts,
                                       int rank) {
  constexpr int kVectors = Config::kRanks / 4;  // of a row
  const int rows = Config::kRows / parts;
  const DownGroup& group = tile.group->group;
  for (int i = threadIdx.x; i < rows * kVectors; i += Config::kThreads) {
    const int in_tile = rank * rows + i / kVectors;
    const int row = tile.row + in_tile, column = tile.column + i % kVectors * 4;
    if (row >= group.rows || column >= params.ranks) continue;
    const uint32_t at = shared + (in_tile * Config::kPitch + i % kVectors * 4) * 4;
    float4 sum = ld_shared_cluster_v4_f32(ptx::mapa(at, 0));
    for (int part = 1; part < parts; ++part) {
      const float4 more = ld_shared_cluster_v4_f32(ptx::mapa(at, part));
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
__global__ void __launch_bounds__(Config::kThreads, 2)
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
#pragma unroll
    for (int i = 0; i < Config::kRanks / 2; ++i) sums[i] = 0.0f;
#pragma unroll 1
    for (int block = begin; block < end; ++block) {
      const int stage = (block - begin) % Config::kStages, round = (block - begin) / Config::kStages;
      const uint32_t at = shared + stage * Config::kStageBytes;
      ptx::mbarrier_wait(shared + Config::kFullAt + 8 * stage, round % 2);
      multiply<Config>(sums, at + warp / 4 * 64 * Config::kRowBytes, at + Config::kXBytes);
      if (threadIdx.x % 32 == 0) ptx::mbarrier_arrive(shared + Config::kEmptyAt + 8 * stage);
    }
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
