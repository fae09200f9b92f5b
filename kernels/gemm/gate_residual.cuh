// C = residual + gate·x, bf16. The gate is already in the columns' multiplier and addend (epilogue.cuh). The residual comes by
// TMA into the panels from which the results leave, the first row block's while the products are summed. Where C is the residual itself and
// the operands are codes (`adds`), it does not come at all: L2 adds gate·x, rounded to bf16, to it, which spares shared memory's port, the
// main loop's limit, two passes. That rounds twice, as PyTorch does: 2.3e-3 for 1.8e-3, little beside the codes' own error.
#pragma once

#include "gemm/epilogue.cuh"

namespace flux::kernels::gemm {

template <typename Config>
class GateResidualEpilogue {
 public:
  using Output = __nv_bfloat16;
  using Low = ConsecutiveLow;
  static constexpr bool kScattered = false, kWholeTile = false;
  static_assert(Config::kPanelBuffers == Config::kPanels, "a row block's residual comes at once");

  static __device__ __forceinline__ ColumnRuns columns(const GemmParams&, const Tile& tile) {
    return consecutive_columns(tile);
  }

  __device__ __forceinline__ GateResidualEpilogue(const GemmParams&, uint32_t shared) : shared_(shared) {}

  __device__ __forceinline__ void prefetch(const Tile& tile) {
    if (!tile.group->adds) fetch(tile, 0);
  }

  __device__ __forceinline__ void finish(const RowBlockSums<Config>& sums, const Tile& tile, int block) {
    const bool adds = tile.group->adds;
    if (!adds && block > 0) fetch(tile, block);
    const WarpPlace place = warp_place();
    const WarpPanels<Config> panels(shared_, place);
    const RowScales rows = row_scales<Config>(shared_, place, block);
    if (adds) {
      panels.wait_free();
    } else {
      ptx::mbarrier_wait(arrived(place), parity_);
      parity_ ^= 1;
    }
#pragma unroll
    for (int panel = 0; panel < Config::kPanels; ++panel) {
      float values[32];
      scale_and_add<Config>(values, sums, 8 * panel, rows, shared_, place);
      if (!adds) {
        add_panel(values, panels.address(panel), place.lane);
        __syncwarp();
      }
      panels.template store<Output>(panel, values, &tile.group->c, tile.column + 64 * panel,
                                    tile.row + row_in_tile<Config>(place, block), tile.batch, adds);
    }
  }

 private:
  // Completes when a row block's residual is in the warp's panels.
  __device__ __forceinline__ uint32_t arrived(const WarpPlace& place) const {
    return shared_ + Config::kPanelsFullAt + 8 * (place.math_group * 4 + place.warp);
  }

  __device__ __forceinline__ void fetch(const Tile& tile, int block) const {
    const WarpPlace place = warp_place();
    const WarpPanels<Config> panels(shared_, place);
    if (place.lane != 0) return;
    ptx::cp_async_bulk_wait_group_read<0>();  // the last results have left the panels
    ptx::mbarrier_arrive_expect_tx(arrived(place), Config::kPanels * Config::kPanelBytes);
#pragma unroll
    for (int panel = 0; panel < Config::kPanels; ++panel) {
      ptx::cp_async_bulk_tensor_3d_load(panels.address(panel), &tile.group->residual, arrived(place),
                                        tile.column + 64 * panel,
                                        tile.row + row_in_tile<Config>(place, block), tile.batch);
    }
  }

  static __device__ __forceinline__ void add_panel(float (&values)[32], uint32_t panel, uint32_t lane) {
    const uint32_t at = panel + swizzled_lane(lane);
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

  uint32_t shared_;
  uint32_t parity_ = 0;
};

}  // namespace flux::kernels::gemm
