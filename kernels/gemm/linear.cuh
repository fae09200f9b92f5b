// C = activation(x), as bf16, f32 or e4m3.
#pragma once

#include "gemm/activation.cuh"
#include "gemm/epilogue.cuh"

namespace flux::kernels::gemm {

template <typename Config, typename Output_>
class LinearEpilogue {
 public:
  using Output = Output_;
  using Shape = PanelShape<Output>;
  using Low = ConsecutiveLow;
  static constexpr bool kScattered = false, kWholeTile = false;

  static __device__ __forceinline__ ColumnRuns columns(const GemmParams&, const Tile& tile) {
    return consecutive_columns(tile);
  }

  __device__ __forceinline__ LinearEpilogue(const GemmParams& params, uint32_t shared)
      : params_(params), shared_(shared) {}

  __device__ __forceinline__ void prefetch(const Tile&) {}

  __device__ __forceinline__ void finish(const RowBlockSums<Config>& sums, const Tile& tile, int block) {
    const WarpPlace place = warp_place();
    const WarpPanels<Config> panels(shared_, place);
    const RowScales rows = row_scales<Config>(shared_, place, block);
    const int row = tile.row + row_in_tile<Config>(place, block);
    OutputScales output;
    if constexpr (sizeof(Output) == 1) output.load(tile, row, place.lane, rows, tile.column == 0);
#pragma unroll
    for (int panel = 0; panel < Config::kTileN / Shape::kColumns; ++panel) {
      float values[Shape::kValues];
      scale_and_add<Config>(values, sums, panel * (Shape::kColumns / 8), rows, shared_, place);
      activate_all(values, params_.activation, output.inverse);
      if (panel % Config::kPanelBuffers == 0) panels.wait_free();
      panels.template store<Output>(panel, values, &tile.group->c, tile.column + panel * Shape::kColumns, row,
                                    tile.batch);
    }
  }

 private:
  const GemmParams& params_;
  uint32_t shared_;
};

}  // namespace flux::kernels::gemm
