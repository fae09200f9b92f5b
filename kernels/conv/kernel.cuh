// The convolution kernel for Hopper: persistent, warp specialised, in clusters of two.
//
//   warpgroup 0         warp 0, one thread: taps of W into a ring of stages (produce_weights)
//                       warp 1, one thread: pixels of x into a ring of halos (produce_halos); or, where the config says so,
//                       warps 1 to 3: the same, then GroupNorm and SiLU on the halos (normalise_halos)
//   warpgroups 1 and 2  half of the tile's pixels or channels each: wgmma over the taps (MainLoop), then the epilogue
//
// Barriers (mbarriers in shared memory; counts are arrivals):
//   full[stage]       1 + bytes     producer and TMA arrive, math warps wait
//   empty[stage]      math warps of both CTAs arrive, the weights' producer waits
//   halo_full[halo]   1 + bytes     producer and TMA arrive, normalising threads or else math warps wait
//   halo_ready[halo]  96            normalising threads arrive, math warps wait
//   halo_empty[halo]  math warps of the CTA arrive, the halos' producer waits
#pragma once

#include "conv/channel_epilogue.cuh"
#include "conv/epilogue.cuh"
#include "conv/normalise.cuh"
#include "launch.cuh"

namespace flux::kernels::conv {

template <typename Config>
__device__ __forceinline__ void initialise_barriers(uint32_t shared) {
  if (threadIdx.x == 0) {
    for (int stage = 0; stage < Config::kStages; ++stage) {
      ptx::mbarrier_init(shared + Config::kFullAt + 8 * stage, 1);
      ptx::mbarrier_init(shared + Config::kEmptyAt + 8 * stage, Config::kMathWarps * Config::kCluster);
    }
    for (int halo = 0; halo < Config::kHalos; ++halo) {
      ptx::mbarrier_init(shared + Config::kHaloFullAt + 8 * halo, 1);
      ptx::mbarrier_init(shared + Config::kHaloReadyAt + 8 * halo, kNormaliseThreads);
      ptx::mbarrier_init(shared + Config::kHaloEmptyAt + 8 * halo, Config::kMathWarps);
    }
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
__device__ __forceinline__ void compute_tiles(const ConvParams& params, uint32_t shared, uint32_t rank,
                                              int first, int step) {
  const uint32_t warp = __shfl_sync(0xffffffff, threadIdx.x / 32, 0);
  const WarpPlace place{shared, warp / 4 - 1, warp % 4, threadIdx.x % 32};
  MainLoop<Config> loop(params, shared, place.math_group);
  Epilogue epilogue(params, place);
  for (int index = first; index < params.tiles; index += step) {
    typename MainLoop<Config>::Accumulator sums;
    Tile tile;
    bool last_of_image;  // for this CTA
    // Divisions, while the tensor cores are busy.
    const auto place_tile = [&] {
      tile = tile_at<Config>(params, index, rank);
      last_of_image = index + step >= params.tiles || index + step >= (tile.image + 1) * params.image_tiles;
    };
    if constexpr (Epilogue::kDeferredPanels == 0) place_tile();
    loop.template run<Epilogue::kDeferredPanels>(sums, [&](auto panel) {
      epilogue.store_deferred(panel);
      if constexpr (decltype(panel)::value + 1 == Epilogue::kDeferredPanels) place_tile();
    });
    epilogue.finish(sums, tile, loop);
    if (last_of_image) {
      // The first of this CTA's tiles of the image was one of the image's first `step`: its place among them is the part.
      const int in_image = index - tile.image * params.image_tiles;
      epilogue.store_sums(in_image % step * Config::kCluster + int(rank));
    }
  }
  store_all_deferred(epilogue, std::make_integer_sequence<int, Epilogue::kDeferredPanels>());
  epilogue.drain();
}

template <typename Config, typename Epilogue>
__global__ void __launch_bounds__(Config::kThreads, 1)
    conv_kernel(const __grid_constant__ ConvParams params) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  extern __shared__ __align__(1024) uint8_t dynamic_shared[];
  const uint32_t shared = ptx::shared_address(dynamic_shared);
  const uint32_t rank = ptx::cluster_ctarank();
  const int first = blockIdx.x / Config::kCluster, step = gridDim.x / Config::kCluster;
  initialise_barriers<Config>(shared);
  wait_for_predecessors();

  if (threadIdx.x < 128) {
    ptx::setmaxnreg_dec<Config::kProducerRegisters>();
    const int warp = __shfl_sync(0xffffffff, threadIdx.x / 32, 0);
    if (warp == 0) {
      if (ptx::elect_sync()) produce_weights<Config>(params, shared, rank, first, step);
    } else if constexpr (Config::kNormalises) {
      normalise_halos<Config>(params, shared, rank, first, step);
    } else if (warp == 1) {
      if (ptx::elect_sync()) produce_halos<Config>(params, shared, rank, first, step);
    }
  } else {
    ptx::setmaxnreg_inc<Config::kMathRegisters>();
    compute_tiles<Config, Epilogue>(params, shared, rank, first, step);
  }

  let_successor_start();
  // A CTA's shared memory must outlive its peer's multicasts into it and arrivals on its barriers.
  ptx::cluster_arrive();
  ptx::cluster_wait();
#endif
}

}  // namespace flux::kernels::conv
