// The GEMM kernel for Hopper: persistent, warp specialised, in clusters.
//
//   warpgroup 0         warp 0, one thread: TMA loads of A and W into a ring of stages (produce_stages)
//                       warp 1: scale, bias and gate of the tile's columns into shared memory (produce_columns)
//   warpgroups 1 …      64 rows of the tile each: wgmma over the ring (MainLoop), then the epilogue
//
// Barriers (mbarriers in shared memory; counts are arrivals):
//   full[stage]      1 + bytes      producer and TMA arrive, math warps wait
//   empty[stage]     math warps of the whole cluster arrive, the producer waits
//   columns_full     32             warp 1 arrives, math warps wait
//   columns_empty    math warps of the CTA arrive, warp 1 waits
#pragma once

#include "gemm/epilogue.cuh"
#include "launch.cuh"

namespace flux::kernels::gemm {

template <typename Config>
__device__ __forceinline__ void initialise_barriers(uint32_t shared) {
  if (threadIdx.x == 0) {
    for (int stage = 0; stage < Config::kStages; ++stage) {
      ptx::mbarrier_init(shared + Config::kFullAt + 8 * stage, 1);
      ptx::mbarrier_init(shared + Config::kEmptyAt + 8 * stage, Config::kMathWarps * Config::kCluster);
    }
    ptx::mbarrier_init(shared + Config::kColumnsFullAt, 32);
    ptx::mbarrier_init(shared + Config::kColumnsEmptyAt, Config::kMathWarps);
    ptx::fence_mbarrier_init();
  }
  // No CTA may signal another's barriers before they exist.
  ptx::cluster_arrive();
  ptx::cluster_wait();
}

template <typename Epilogue, int... kPanel>
__device__ __forceinline__ void store_all_deferred(Epilogue& epilogue,
                                                   std::integer_sequence<int, kPanel...>) {
  (epilogue.store_deferred(std::integral_constant<int, kPanel>()), ...);
}

template <typename Config, typename Epilogue>
__device__ __forceinline__ void compute_tiles(const GemmParams& params, uint32_t shared, uint32_t rank,
                                              int first, int step) {
  const uint32_t warp = __shfl_sync(0xffffffff, threadIdx.x / 32, 0);
  const WarpPlace place{shared, shared + Config::kColumnsAt, warp / 4 - 1, warp % 4, threadIdx.x % 32};
  MainLoop<Config> loop(shared, place.math_group);
  Epilogue epilogue(params, place);
  for (int index = first; index < params.tiles; index += step) {
    const Tile tile = tile_at<Config>(params, index, rank);
    RowScales rows;
    rows.load(tile, place);
    float accumulator[Config::kTileN / 2];
    loop.template run<Epilogue::kDeferredPanels>(
        accumulator, params.k_blocks, [&](auto panel) { epilogue.store_deferred(panel); },
        [&] { epilogue.prefetch(tile); });
    ptx::mbarrier_wait(shared + Config::kColumnsFullAt,
                       uint32_t(index) / uint32_t(step) % 2);  // of the cluster's tiles
    epilogue.finish(accumulator, tile, rows, loop);
    __syncwarp();
    if (place.lane == 0) ptx::mbarrier_arrive(shared + Config::kColumnsEmptyAt);
  }
  store_all_deferred(epilogue, std::make_integer_sequence<int, Epilogue::kDeferredPanels>());
}

template <typename Config, typename Epilogue>
__global__ void __launch_bounds__(Config::kThreads, 1)
    gemm_kernel(const __grid_constant__ GemmParams params) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  extern __shared__ __align__(1024) uint8_t dynamic_shared[];
  const uint32_t shared = ptx::shared_address(dynamic_shared);
  const uint32_t rank = Config::kCluster == 1 ? 0 : ptx::cluster_ctarank();
  const int first = blockIdx.x / Config::kCluster, step = gridDim.x / Config::kCluster;
  initialise_barriers<Config>(shared);
  wait_for_predecessors();

  if (threadIdx.x < 128) {
    ptx::setmaxnreg_dec<Config::kProducerRegisters>();
    const int warp = __shfl_sync(0xffffffff, threadIdx.x / 32, 0);
    if (warp == 0) {
      if (ptx::elect_sync()) produce_stages<Config, Epilogue::kBoxes>(params, shared, rank, first, step);
    } else if (warp == 1) {
      produce_columns<Config>(params, shared, rank, first, step);
    }
  } else {
    ptx::setmaxnreg_inc<Config::kMathRegisters>();
    compute_tiles<Config, Epilogue>(params, shared, rank, first, step);
  }

  let_successor_start();
  // A CTA's shared memory must outlive its peers' multicasts into it and arrivals on its barriers.
  ptx::cluster_arrive();
  ptx::cluster_wait();
#endif
}

}  // namespace flux::kernels::gemm
