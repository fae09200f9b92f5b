// The producer warpgroup: one thread keeps the ring of stages full, one warp prepares each tile's column vectors.
#pragma once

#include "gemm/schedule.cuh"
#include "ptx/cluster.cuh"
#include "ptx/mbarrier.cuh"
#include "ptx/shared.cuh"
#include "ptx/tma.cuh"

namespace flux::kernels::gemm {

// Position in the ring of stages: all roles walk it in the same order.
template <int kStages>
struct RingPosition {
  uint32_t stage = 0;
  uint32_t parity = 0;

  __device__ __forceinline__ void advance() {
    if (++stage == kStages) {
      stage = 0;
      parity ^= 1;
    }
  }
};

// The tile's residual, 64 columns a box, into the stages after its k-blocks.
template <typename Config, int kBoxes>
__device__ __forceinline__ void produce_boxes(const Tile& tile, uint32_t shared,
                                              RingPosition<Config::kStages>& ring) {
#pragma unroll 1
  for (int first = 0; first < kBoxes; first += Config::kBoxesPerStage, ring.advance()) {
    const uint32_t full = shared + Config::kFullAt + 8 * ring.stage;
    const int boxes = min(Config::kBoxesPerStage, kBoxes - first);
    ptx::mbarrier_wait(shared + Config::kEmptyAt + 8 * ring.stage, ring.parity ^ 1);
    ptx::mbarrier_arrive_expect_tx(full, boxes * Config::kBoxBytes);
    for (int box = 0; box < boxes; ++box) {
      ptx::cp_async_bulk_tensor_3d_load(shared + ring.stage * Config::kStageBytes + box * Config::kBoxBytes,
                                        &tile.group->residual, full, tile.column + 64 * (first + box),
                                        tile.row, tile.batch);
    }
  }
}

// One thread. Waits on empty[stage] (arrivals of every math warp in the cluster: a multicast lands in all CTAs) and
// completes full[stage] with a stage's bytes, W's other shares coming from the cluster's other CTAs.
template <typename Config, int kBoxes>
__device__ __forceinline__ void produce_stages(const GemmParams& params, uint32_t shared, uint32_t rank,
                                               int first, int step) {
  RingPosition<Config::kStages> ring;
  for (int index = first; index < params.tiles; index += step) {
    const Tile tile = tile_at<Config>(params, index, rank);
    const CUtensorMap* map_a = &tile.group->a;
    const CUtensorMap* map_w = &tile.group->w;
    const int row_w = tile.column + int(rank) * Config::kLoadRowsB;
    for (int block = 0; block < params.k_blocks; ++block, ring.advance()) {
      const uint32_t full = shared + Config::kFullAt + 8 * ring.stage;
      ptx::mbarrier_wait(shared + Config::kEmptyAt + 8 * ring.stage, ring.parity ^ 1);
      ptx::mbarrier_arrive_expect_tx(full, Config::kStageBytes);
      const uint32_t a = shared + ring.stage * Config::kStageBytes;
      const uint32_t b = a + Config::kABytes + rank * (Config::kLoadRowsB * Config::kBlockBytes);
      const int k = block * Config::kBlockElements;
      ptx::cp_async_bulk_tensor_3d_load(a, map_a, full, k, tile.row, tile.batch);
      if constexpr (Config::kCluster == 1) {
        ptx::cp_async_bulk_tensor_2d_load(b, map_w, full, k, row_w);
      } else {
        ptx::cp_async_bulk_tensor_2d_multicast(b, map_w, full, k, row_w, (1 << Config::kCluster) - 1);
      }
    }
    produce_boxes<Config, kBoxes>(tile, shared, ring);
  }
}

// One warp. Writes (multiplier, addend) of each of the tile's columns, so that every epilogue starts with
// accumulator · row scale · multiplier + addend, whatever scale, bias and gate there are.
// Waits on columns_empty (a lane of every math warp), arrives with all lanes on columns_full.
template <typename Config>
__device__ __forceinline__ void produce_columns(const GemmParams& params, uint32_t shared, uint32_t rank,
                                                int first, int step) {
  const int lane = threadIdx.x % 32;
  uint32_t parity = 1;
  for (int index = first; index < params.tiles; index += step) {
    const Tile tile = tile_at<Config>(params, index, rank);
    const GroupParams& group = *tile.group;
    const float* gate = group.gate == nullptr ? nullptr : group.gate + tile.batch * group.gate_batch_stride;
    ptx::mbarrier_wait(shared + Config::kColumnsEmptyAt, parity);
    for (int i = lane; i < Config::kTileN; i += 32) {
      const int n = tile.column + i;
      float multiplier = 0.0f, addend = 0.0f;
      if (n < params.n) {
        multiplier = group.w_scale == nullptr ? 1.0f : group.w_scale[n];
        addend = group.bias == nullptr ? 0.0f : group.bias[n];
        if (gate != nullptr) {
          multiplier *= gate[n];
          addend *= gate[n];
        }
      }
      ptx::st_shared_v2_f32(shared + Config::kColumnsAt + 8 * i, multiplier, addend);
    }
    ptx::mbarrier_arrive(shared + Config::kColumnsFullAt);
    parity ^= 1;
  }
}

}  // namespace flux::kernels::gemm
