// C = residual + gate·x, bf16. The gate is already in the columns' multiplier and addend (produce.cuh); the residual comes
// through the ring in boxes of 64 columns, so C may overwrite it: a tile's residual is read before its stores.
#pragma once

#include "gemm/epilogue.cuh"

namespace flux::kernels::gemm {

template <typename Config>
class GateResidualEpilogue {
 public:
  using Output = __nv_bfloat16;
  using Queue = PanelQueue<Config, Output>;
  static constexpr int kBoxes = Queue::kPanels;
  static constexpr int kDeferredPanels = Queue::kDeferred;

  __device__ __forceinline__ GateResidualEpilogue(const GemmParams& params, const WarpPlace& place)
      : params_(params), place_(place), queue_(place) {}

  __device__ __forceinline__ void prefetch(const Tile&) {}

  __device__ __forceinline__ void finish(const float (&accumulator)[Config::kTileN / 2], const Tile& tile,
                                         const RowScales& rows, MainLoop<Config>& loop) {
    uint32_t boxes = 0;
#pragma unroll
    for (int box = 0; box < kBoxes; ++box) {
      const int in_stage = box % Config::kBoxesPerStage;
      if (in_stage == 0)
        boxes = place_.shared + loop.wait_stage() * Config::kStageBytes + place_.row_in_tile() * 128;
      float values[32];
      scale_and_add<Config>(values, accumulator, 8 * box, rows, place_);
      add_box(values, boxes + in_stage * Config::kBoxBytes);
      if (in_stage + 1 == Config::kBoxesPerStage || box + 1 == kBoxes) loop.release_stage();
      queue_.push(box, values, tile, tile.group->c, tile.column + 64 * box, end(tile));
    }
  }

  template <int kPanel>
  __device__ __forceinline__ void store_deferred(std::integral_constant<int, kPanel>) {
    const Tile& tile = queue_.tile();
    queue_.pop(kPanel, tile.group->c, tile.column + 64 * kPanel, end(tile));
  }

 private:
  __device__ __forceinline__ int end(const Tile& tile) const {
    return min(params_.n, tile.column + Config::kTileN);
  }

  // `box`: this warp's 16 rows of it, 128-byte swizzle.
  __device__ __forceinline__ void add_box(float (&values)[32], uint32_t box) const {
    const uint32_t at = box + swizzled_lane(place_.lane);
#pragma unroll
    for (int j = 0; j < 8; j += 2) {
      uint32_t packed[4];
      ptx::ldmatrix_x4(packed, at ^ (j * 16));
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        values[4 * j + 2 * i] += __uint_as_float(packed[i] << 16);
        values[4 * j + 2 * i + 1] += __uint_as_float(packed[i] & 0xffff0000u);
      }
    }
  }

  const GemmParams& params_;
  const WarpPlace& place_;
  Queue queue_;
};

}  // namespace flux::kernels::gemm
