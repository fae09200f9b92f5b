// C = activation(x), as bf16, f32 or e4m3.
#pragma once

#include "gemm/activation.cuh"
#include "gemm/epilogue.cuh"

namespace flux::kernels::gemm {

template <typename Config, typename Output_>
class LinearEpilogue {
 public:
  using Output = Output_;
  using Queue = PanelQueue<Config, Output>;
  static constexpr int kBoxes = 0;
  static constexpr int kDeferredPanels = Queue::kDeferred;

  __device__ __forceinline__ LinearEpilogue(const GemmParams& params, const WarpPlace& place)
      : params_(params), place_(place), queue_(place) {}

  __device__ __forceinline__ void prefetch(const Tile&) {}

  __device__ __forceinline__ void finish(const float (&accumulator)[Config::kTileN / 2], const Tile& tile,
                                         const RowScales& rows, MainLoop<Config>&) {
    using Shape = PanelShape<Output>;
    [[maybe_unused]] OutputScales output;
    if constexpr (sizeof(Output) == 1) output.load(tile, place_, rows, tile.column == 0);
#pragma unroll
    for (int panel = 0; panel < Queue::kPanels; ++panel) {
      float values[Shape::kValues];
      scale_and_add<Config>(values, accumulator, panel * (Shape::kColumns / 8), rows, place_);
      activate_all(values, params_.activation);
      if constexpr (sizeof(Output) == 1) output.apply(values);
      queue_.push(panel, values, tile, tile.group->c, column(tile, panel), end(tile));
    }
  }

  template <int kPanel>
  __device__ __forceinline__ void store_deferred(std::integral_constant<int, kPanel>) {
    const Tile& tile = queue_.tile();
    queue_.pop(kPanel, tile.group->c, column(tile, kPanel), end(tile));
  }

 private:
  __device__ __forceinline__ int column(const Tile& tile, int panel) const {
    return tile.column + panel * PanelShape<Output>::kColumns;
  }
  __device__ __forceinline__ int end(const Tile& tile) const {
    return min(params_.n, tile.column + Config::kTileN);
  }

  const GemmParams& params_;
  const WarpPlace& place_;
  Queue queue_;
};

}  // namespace flux::kernels::gemm
