// The producer threads: one keeps the ring of halos full, one the ring of weights.
#pragma once

#include "conv/schedule.cuh"
#include "gemm/produce.cuh"
#include "ptx/bulk.cuh"

namespace flux::kernels::conv {

using gemm::RingPosition;

// Of the halo's first pixel in x (stride 1: in the image).
struct HaloOrigin {
  int y, x;
};

__device__ __forceinline__ HaloOrigin halo_origin(const ConvParams& params, const Tile& tile,
                                                  const Segment& segment) {
  if (params.phases == 4) return {tile.y - 1 + tile.phase / 2, tile.x - 1 + tile.phase % 2};
  return {tile.y + segment.down, tile.x + segment.right};
}

// Waits on halo_empty (the CTA's math warps) and completes halo_full.
template <typename Config>
__device__ __forceinline__ void load_halo(const ConvParams& params, const Tile& tile, const Segment& segment,
                                          int chunk, uint32_t shared,
                                          const RingPosition<Config::kHalos>& ring) {
  const HaloOrigin origin = halo_origin(params, tile, segment);
  const uint32_t full = shared + Config::kHaloFullAt + 8 * ring.stage;
  ptx::mbarrier_wait(shared + Config::kHaloEmptyAt + 8 * ring.stage, ring.parity ^ 1);
  ptx::mbarrier_arrive_expect_tx(full, Config::kHaloPixels * Config::kPixelBytes);
  ptx::cp_async_bulk_tensor_5d_load(shared + ring.stage * Config::kHaloBytes, &params.x, full,
                                    segment.first_column + 64 * chunk, origin.x, segment.row_parity, origin.y,
                                    tile.batch);
}

template <typename Config>
__device__ __forceinline__ void produce_halos(const ConvParams& params, uint32_t shared, uint32_t rank,
                                              int first, int step) {
  RingPosition<Config::kHalos> ring;
  for (int index = first; index < params.tiles; index += step) {
    const Tile tile = tile_at<Config>(params, index, rank);
    for (int s = 0; s < params.segment_count; ++s) {
      const Segment& segment = params.segments[s];
      for (int chunk = 0; chunk < params.chunks; ++chunk, ring.advance()) {
        load_halo<Config>(params, tile, segment, chunk, shared, ring);
      }
    }
  }
}

// The tile's residual after its k-blocks, in the order in which the epilogue takes it.
template <typename Config>
__device__ __forceinline__ void produce_boxes(const ConvParams& params, const Tile& tile, uint32_t shared,
                                              RingPosition<Config::kStages>& ring) {
#pragma unroll 1
  for (int first = 0; first < Config::kPanels; first += Config::kBoxesPerStage, ring.advance()) {
    const uint32_t full = shared + Config::kFullAt + 8 * ring.stage;
    const uint32_t stage = shared + Config::kStagesAt + ring.stage * Config::kStageBytes;
    const int boxes = min(Config::kBoxesPerStage, Config::kPanels - first);
    ptx::mbarrier_wait(shared + Config::kEmptyAt + 8 * ring.stage, ring.parity ^ 1);
    ptx::mbarrier_arrive_expect_tx(full, boxes * Config::kBoxBytes);
    for (int i = 0; i < boxes; ++i) {
      const int panel = first + i;
      ptx::cp_async_bulk_tensor_4d_load(stage + i * Config::kBoxBytes, &params.residual, full,
                                        tile.column + 64 * (panel / Config::kBlocks), tile.x,
                                        tile.y + Config::kBoxHeight * (panel % Config::kBlocks), tile.batch);
    }
  }
}

// Waits on empty (math warps of the cluster: a multicast lands in both CTAs) and completes full with a tap of 64 channels, half
// of which comes from the other CTA.
template <typename Config>
__device__ __forceinline__ void produce_weights(const ConvParams& params, uint32_t shared, uint32_t rank,
                                                int first, int step) {
  constexpr int kRows = Config::kTileN / Config::kCluster;
  RingPosition<Config::kStages> ring;
  for (int index = first; index < params.tiles; index += step) {
    const Tile tile = tile_at<Config>(params, index, rank);
    const int row = tile.column + int(rank) * kRows;
    int first_tap = 0;
    for (int s = 0; s < params.segment_count; ++s) {
      const int taps = params.segments[s].taps;
      for (int chunk = 0; chunk < params.chunks; ++chunk) {
        for (int t = 0; t < taps; ++t, ring.advance()) {
          const int tap = params.taps[first_tap + t].weight + tile.phase * params.phase_taps;
          const uint32_t full = shared + Config::kFullAt + 8 * ring.stage;
          const uint32_t stage = shared + Config::kStagesAt + ring.stage * Config::kStageBytes;
          ptx::mbarrier_wait(shared + Config::kEmptyAt + 8 * ring.stage, ring.parity ^ 1);
          ptx::mbarrier_arrive_expect_tx(full, Config::kWeightBytes);
          ptx::cp_async_bulk_tensor_2d_multicast(stage + rank * (kRows * 128), &params.w, full,
                                                 tap * params.channels + 64 * chunk, row,
                                                 (1 << Config::kCluster) - 1);
        }
      }
      first_tap += taps;
    }
    if constexpr (Config::kTakesResidual) {
      if (params.adds_residual) produce_boxes<Config>(params, tile, shared, ring);
    }
  }
}

}  // namespace flux::kernels::conv
