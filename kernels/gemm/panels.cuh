// Panels: how a warp's results lie in shared memory on their way out.
//
// A panel is 16 rows × 64 columns (f32: 32), swizzled as TMA does, which also keeps bank conflicts away: 128-byte rows have
// 16-byte chunk c of row r at c ^ (r % 8), 64-byte rows (e4m3) at c ^ (r / 2 % 4). Every warp has its own panels, so nothing
// waits for other warps.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp8.h>

#include <type_traits>

#include "ptx/convert.cuh"
#include "ptx/matrix.cuh"
#include "ptx/shared.cuh"

namespace flux::kernels::gemm {

template <typename Output>
struct PanelShape {
  static constexpr int kColumns = std::is_same_v<Output, float> ? 32 : 64;
  static constexpr int kRowBytes = kColumns * int(sizeof(Output));
  static constexpr int kValues = kColumns / 2;                      // a thread's, of 16 rows
  static constexpr int kWords = kValues * int(sizeof(Output)) / 4;  // the same in its output type
};

// Where a lane's row of stmatrix or ldmatrix lies in a panel of 128-byte rows: rows 0 to 15 of chunk 0 (lanes 0 to 15) and
// of chunk 1. Exclusive or with 16·j gives chunks j and j + 1, for an even j.
__device__ __forceinline__ uint32_t swizzled_lane(uint32_t lane) {
  return lane % 16 * 128 + ((lane / 16) ^ (lane % 8)) * 16;
}

// `values` are a thread's part of wgmma's accumulator (ptx/wgmma.cuh), 8-column block j at 4·j.
__device__ __forceinline__ void pack(uint32_t (&words)[16], const float (&values)[32], __nv_bfloat16) {
#pragma unroll
  for (int i = 0; i < 16; ++i) words[i] = ptx::cvt_rn_bf16x2(values[2 * i], values[2 * i + 1]);
}

__device__ __forceinline__ void pack(uint32_t (&words)[16], const float (&values)[16], float) {
#pragma unroll
  for (int i = 0; i < 16; ++i) words[i] = __float_as_uint(values[i]);
}

// words[j + half]: of rows 8·half on, pairs of columns of 8-column blocks j (low) and j + 1.
__device__ __forceinline__ void pack(uint32_t (&words)[8], const float (&values)[32], __nv_fp8_e4m3) {
#pragma unroll
  for (int j = 0; j < 8; j += 2) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float* pair = values + 4 * j + 2 * half;
      words[j + half] = ptx::cvt_rn_satfinite_e4m3x2(pair[0], pair[1]) |
                        uint32_t(ptx::cvt_rn_satfinite_e4m3x2(pair[4], pair[5])) << 16;
    }
  }
}

__device__ __forceinline__ void write_panel(const uint32_t (&words)[16], uint32_t panel, uint32_t lane,
                                            __nv_bfloat16) {
  const uint32_t at = panel + swizzled_lane(lane);
#pragma unroll
  for (int j = 0; j < 8; j += 2) {
    const uint32_t matrices[4] = {words[2 * j], words[2 * j + 1], words[2 * j + 2], words[2 * j + 3]};
    ptx::stmatrix_x4(at ^ (j * 16), matrices);
  }
}

__device__ __forceinline__ void write_panel(const uint32_t (&words)[16], uint32_t panel, uint32_t lane,
                                            float) {
  const uint32_t row = lane / 4, quarter = lane % 4;
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    const uint32_t at = panel + row * 128 + (((2 * j + quarter / 2) ^ row) * 16) + (quarter % 2) * 8;
    ptx::st_shared_v2_b32(at, words[4 * j + 0], words[4 * j + 1]);
    ptx::st_shared_v2_b32(at + 8 * 128, words[4 * j + 2], words[4 * j + 3]);
  }
}

// Neighbouring lanes trade, so that each stores 4 codes of one 8-column block: even lanes of the first, odd of the second.
__device__ __forceinline__ void write_panel(const uint32_t (&words)[8], uint32_t panel, uint32_t lane,
                                            __nv_fp8_e4m3) {
  const uint32_t row = lane / 4, odd = lane % 2;
  const uint32_t at = panel + row * 64 + odd * 8 + (lane % 4 / 2) * 4;
#pragma unroll
  for (int j = 0; j < 8; j += 2) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const uint32_t mine = words[j + half];
      const uint32_t theirs = __shfl_xor_sync(0xffffffff, mine, 1);
      const uint32_t word = odd ? __byte_perm(theirs, mine, 0x7632) : __byte_perm(mine, theirs, 0x5410);
      ptx::st_shared_b32(at + half * 8 * 64 + ((j / 2) ^ (row / 2 % 4)) * 16, word);
    }
  }
}

// A math warp's panels, kPanelBuffers of them from kPanelsAt on.
template <typename Config>
class PanelWriter {
 public:
  __device__ __forceinline__ PanelWriter(uint32_t shared, uint32_t math_warp, uint32_t lane)
      : panels_(shared + Config::kPanelsAt + math_warp * (Config::kPanelBuffers * Config::kPanelBytes)),
        lane_(lane) {}

  // Fills panel `index`, once what it held before has been stored.
  template <typename Output>
  __device__ __forceinline__ void fill(int index, const uint32_t (&words)[PanelShape<Output>::kWords]) {
    __syncwarp();
    write_panel(words, address(index), lane_, Output());
  }

  __device__ __forceinline__ uint32_t address(int index) const {
    return panels_ + index % Config::kPanelBuffers * Config::kPanelBytes;
  }

 private:
  uint32_t panels_;
  uint32_t lane_;
};

}  // namespace flux::kernels::gemm
