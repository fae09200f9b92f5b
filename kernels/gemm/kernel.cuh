// The GEMM kernel for Hopper: persistent, warp specialised, in clusters.
//
//   warpgroup 0      one thread: TMA loads of A and W into a ring of stages (produce_stages)
//   warpgroups 1 …   wgmma over the ring (MainLoop), then the epilogue: together a tile at a time, or in turn every other
//                    tile each (config.cuh)
//
// Barriers (mbarriers in shared memory; counts are arrivals):
//   full[stage]      1 + bytes   producer and TMA arrive, the math warps that multiply wait
//   empty[stage]     those math warps of every CTA of the cluster arrive, the producer waits
//   panels_full[w]   1 + bytes   math warp w and TMA arrive, w waits (gate_residual.cuh)
//   exchange[g][2]   1 + bytes   math group g, which waits, and stores of its 4 warps in both CTAs arrive (qkv.cuh)
// Named barriers: 1 and 2 hand the turn to a math warpgroup (multiply.cuh), 3, 4 and 5 are a math warpgroup's own.
#pragma once

#include "gemm/epilogue.cuh"
#include "launch.cuh"

namespace flux::kernels::gemm {

template <typename Config>
__device__ __forceinline__ void initialise_barriers(uint32_t shared) {
  constexpr int kReaders = Config::kInTurn ? 4 : Config::kMathWarps;
  if (threadIdx.x == 0) {
    for (int stage = 0; stage < Config::kStages; ++stage) {
      ptx::mbarrier_init(shared + Config::kFullAt + 8 * stage, 1);
      ptx::mbarrier_init(shared + Config::kEmptyAt + 8 * stage, kReaders * Config::kCluster);
    }
    for (int warp = 0; warp < Config::kMathWarps; ++warp)
      ptx::mbarrier_init(shared + Config::kPanelsFullAt + 8 * warp, 1);
    for (int i = 0; i < 2 * Config::kMathGroups; ++i)
      ptx::mbarrier_init(shared + Config::kExchangeAt + 8 * i, 1);
    ptx::fence_mbarrier_init();
  }
  // No CTA may signal another's barriers before they exist.
  ptx::cluster_arrive();
  ptx::cluster_wait();
}

// The first product overwrites the sums, but to the compiler it reads them: without a value of their own they would be live
// through the epilogue before, and registers would spill. Volatile, or the zeros would be put between products.
template <typename Config>
__device__ __forceinline__ void clear(Accumulator<Config>& accumulator) {
#pragma unroll
  for (RowBlockSums<Config>& sums : accumulator) {
#pragma unroll
    for (float& sum : sums) asm volatile("mov.f32 %0, 0f00000000;" : "=f"(sum));
  }
}

template <typename Config, typename Epilogue>
__device__ __forceinline__ void compute_tiles(const GemmParams& params, uint32_t shared, int first,
                                              int step) {
  using Low = typename Epilogue::Low;
  const int math_group = int(threadIdx.x) / 128 - 1;
  const int stride = Config::kInTurn ? 2 * step : step;
  MainLoop<Config> loop;
  Epilogue epilogue(params, shared);
  // Of a tile that the other warpgroup multiplies in its turn.
  const auto stages_at = [&](int tile_index) {
    if (params.low_blocks == 0) return params.k_blocks;
    return params.k_blocks + low_stages<Low>(params, tile_at<Config>(params, tile_index).column_block);
  };
  if (Config::kInTurn && math_group == 1) {
    loop.begin();
    loop.skip(stages_at(first));
  }
  int index = first + (Config::kInTurn ? math_group * step : 0);
  if (index >= params.tiles) return;
  Tile tile = tile_at<Config>(params, index);
  while (true) {
    TileVectors<Config> vectors;
    vectors.load(params, tile, Epilogue::columns(params, tile));
    epilogue.prefetch(tile);
    if (Config::kInTurn) {  // which leaves time to wait for the vectors, and no registers to keep things in
      vectors.publish(shared);
      keep_tile<Config>(tile, shared);
    }
    Accumulator<Config> accumulator;
    if constexpr (Epilogue::kWholeTile) clear<Config>(accumulator);
    Tile next = tile;
    const auto column_block = [&] {
      return Config::kInTurn ? kept_tile<Config>(params, shared).column_block : tile.column_block;
    };
    const int row_blocks = __shfl_sync(0xffffffff, row_blocks_of<Config>(params, index), 0);
    loop.template run<Low>(accumulator, params, row_blocks, column_block, shared, index + step < params.tiles,
                           [&] {
                             if (Config::kInTurn) return;
                             vectors.publish(shared);
                             if (index + stride < params.tiles)
                               next = tile_at<Config>(params, index + stride);
                           });
    if constexpr (Epilogue::kWholeTile) {
      epilogue.finish(accumulator, kept_tile<Config>(params, shared));
    } else {
#pragma unroll 1
      for (int block = 0; block < row_blocks_of<Config>(params, index); ++block) {
        epilogue.finish(accumulator[0], Config::kInTurn ? kept_tile<Config>(params, shared) : tile, block);
        move_up<Config>(accumulator);
      }
    }
    index += stride;
    if (index >= params.tiles) break;
    if (Config::kInTurn) loop.skip(stages_at(index - step));
    tile = Config::kInTurn ? tile_at<Config>(params, index) : next;
  }
  if (warp_place().lane == 0) ptx::cp_async_bulk_wait_group_read<0>();  // shared memory is about to go
}

template <typename Config, typename Epilogue>
__global__ void __launch_bounds__(Config::kThreads, 1)
    gemm_kernel(const __grid_constant__ GemmParams params) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  extern __shared__ __align__(1024) uint8_t dynamic_shared[];
  const uint32_t shared = ptx::shared_address(dynamic_shared);
  const int first = blockIdx.x / Config::kCluster, step = gridDim.x / Config::kCluster;
  initialise_barriers<Config>(shared);
  // Where the kernel before makes low alone, all else is there (gemm.h), and the producer waits for it.
  if (!params.low_is_next) wait_for_predecessors();
  // Nothing else fits beside this CTA, so a successor can only take the place of one that has ended.
  let_successor_start();

  if (threadIdx.x < 128) {
    ptx::setmaxnreg_dec<Config::kProducerRegisters>();
    const int warp = __shfl_sync(0xffffffff, threadIdx.x / 32, 0);
    if (warp == 0 && ptx::elect_sync()) produce_stages<Config, Epilogue>(params, shared, first, step);
  } else {
    ptx::setmaxnreg_inc<Config::kMathRegisters>();
    compute_tiles<Config, Epilogue>(params, shared, first, step);
  }

  // A CTA's shared memory must outlive its peers' multicasts into it and arrivals on its barriers.
  ptx::cluster_arrive();
  ptx::cluster_wait();
#endif
}

}  // namespace flux::kernels::gemm
