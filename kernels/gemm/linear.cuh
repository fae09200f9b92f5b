// C = activation(x), as bf16, f32 or e4m3.
#pragma once

#include "gemm/activation.cuh"
#include "gemm/epilogue.cuh"

namespace flux::kernels::gemm {

template <typename Config, typename Output_>
class LinearEpilogue {
 public:
  using Output = Output_;
  static constexpr int kBoxes = 0;

  __device__ __forceinline__ LinearEpilogue(const GemmParams& params, const WarpPlace& place)
      : params_(params), writer_(place.shared, place.math_group * 4 + place.warp, place.lane) {}

  __device__ __forceinline__ void prefetch(const Tile&, const WarpPlace&) {}

  __device__ __forceinline__ void finish(const float (&accumulator)[Config::kTileN / 2], const Tile& tile,
                                         const WarpPlace& place, const RowScales& rows, MainLoop<Config>&) {
    using Shape = PanelShape<Output>;
    [[maybe_unused]] OutputScales output;
    if constexpr (sizeof(Output) == 1) output.load(tile, place, rows, tile.column == 0);
#pragma unroll
    for (int first = 0; first < Config::kTileN / 8; first += Shape::kColumns / 8) {
      float values[Shape::kValues];
      scale_and_add<Config>(values, accumulator, first, rows, place);
      activate_all(values, params_.activation);
      if constexpr (sizeof(Output) == 1) output.apply(values);
      writer_.template store<Output>(first * 8 / Shape::kColumns, values, tile.group->c, tile.column + first * 8, tile.row + place.row_in_tile(),
                                     tile.group->rows, tile.batch);
    }
  }

 private:
  const GemmParams& params_;
  PanelWriter<Config> writer_;
};

}  // namespace flux::kernels::gemm
