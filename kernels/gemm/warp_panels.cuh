// The way out: registers → a warp's panels in shared memory (panels.cuh) → TMA.
#pragma once

#include "gemm/multiply.cuh"
#include "gemm/panels.cuh"

namespace flux::kernels::gemm {

// A math warp's panels in shared memory: results on their way out by TMA, residuals on their way in. Waiting for stores to
// have read a panel is one lane's, the one that issued them.
template <typename Config>
class WarpPanels {
 public:
  __device__ __forceinline__ WarpPanels(uint32_t shared, const WarpPlace& place)
      : first_(shared + Config::kPanelsAt +
               (place.math_group * 4 + place.warp) * (Config::kPanelBuffers * Config::kPanelBytes)),
        lane_(place.lane) {}

  __device__ __forceinline__ uint32_t address(int panel) const {
    return first_ + panel % Config::kPanelBuffers * Config::kPanelBytes;
  }

  // Until all panels may be written again.
  __device__ __forceinline__ void wait_free() const {
    if (lane_ == 0) ptx::cp_async_bulk_wait_group_read<0>();
    __syncwarp();
  }

  // Stores a thread's part of a panel, `values` in wgmma's layout, to 16 rows from `row` on and the columns from `column` on,
  // as far as the map goes, or, with `add`, adds it to what is there. The panel is free, or its old contents have been read by this warp.
  template <typename Output>
  __device__ __forceinline__ void store(int panel, const float (&values)[PanelShape<Output>::kValues],
                                        const CUtensorMap* map, int column, int row, int batch,
                                        bool add = false) const {
    uint32_t words[PanelShape<Output>::kWords];
    pack(words, values, Output());
    write_panel(words, address(panel), lane_, Output());
    ptx::fence_proxy_async();
    __syncwarp();
    if (lane_ == 0) {
      if (add) {
        ptx::cp_async_bulk_tensor_3d_add(map, address(panel), column, row, batch);
      } else {
        ptx::cp_async_bulk_tensor_3d_store(map, address(panel), column, row, batch);
      }
      ptx::cp_async_bulk_commit_group();
    }
  }

 private:
  uint32_t first_;
  uint32_t lane_;
};

}  // namespace flux::kernels::gemm
