// C = residual + gate·x, bf16. The gate is already in the columns' multiplier and addend (produce.cuh); the residual
// comes through the ring in boxes of 64 columns, so C may overwrite it: a tile's residual is read before its stores.
#pragma once

#include "gemm/epilogue.cuh"

namespace flux::kernels::gemm {

template <typename Config>
class GateResidualEpilogue {
 public:
  using Output = __nv_bfloat16;
  static constexpr int kBoxes = Config::kTileN / 64;

  __device__ __forceinline__ GateResidualEpilogue(const GemmParams&, const WarpPlace& place)
      : writer_(place.shared, place.math_group * 4 + place.warp, place.lane) {}

  __device__ __forceinline__ void prefetch(const Tile&, const WarpPlace&) {}

  __device__ __forceinline__ void finish(const float (&accumulator)[Config::kTileN / 2], const Tile& tile,
                                         const WarpPlace& place, const RowScales& rows, MainLoop<Config>& loop) {
    uint32_t boxes = 0;
#pragma unroll
    for (int box = 0; box < kBoxes; ++box) {
      const int in_stage = box % Config::kBoxesPerStage;
      if (in_stage == 0) boxes = place.shared + loop.wait_stage() * Config::kStageBytes + place.row_in_tile() * 128;
      float values[32];
      scale_and_add<Config>(values, accumulator, 8 * box, rows, place);
      add_box(values, boxes + in_stage * Config::kBoxBytes, place.lane);
      if (in_stage + 1 == Config::kBoxesPerStage || box + 1 == kBoxes) loop.release_stage();
      writer_.template store<Output>(box, values, tile.group->c, tile.column + 64 * box, tile.row + place.row_in_tile(),
                                     tile.group->rows, tile.batch);
    }
  }

 private:
  // `box`: this warp's 16 rows of it, 128-byte swizzle.
  __device__ __forceinline__ void add_box(float (&values)[32], uint32_t box, uint32_t lane) {
    const uint32_t at = box + swizzled_lane(lane);
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

  PanelWriter<Config> writer_;
};

}  // namespace flux::kernels::gemm
