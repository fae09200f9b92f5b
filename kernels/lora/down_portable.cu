// low = (x·downᵀ)·scale by mma.sync, from sm_80 on: a warp has 16 rows × 64 ranks and reads both operands where they lie, eight
// bytes of k a lane at a time. Plain rather than quick: its x comes from L2 once for each 64 ranks.
#include "launch.cuh"
#include "lora/launchers.h"
#include "ptx/convert.cuh"
#include "ptx/mma.cuh"
#include "quantise/expand.cuh"

namespace flux::kernels {
namespace lora {
namespace {

constexpr int kRows = 64, kColumns = 64, kThreads = 128;

// Two pairs of neighbours at k and k + 8 of a row, as bf16.
template <bool kCodes>
__device__ __forceinline__ void load_pairs(const void* row, int k, uint32_t& first, uint32_t& second) {
  if constexpr (kCodes) {
    const auto* codes = static_cast<const uint8_t*>(row);
    const uint32_t low = *reinterpret_cast<const uint16_t*>(codes + k);
    const uint32_t high = *reinterpret_cast<const uint16_t*>(codes + k + 8);
    expand_e4m3(low | high << 16, first, second);
  } else {
    const auto* values = static_cast<const uint16_t*>(row);
    first = *reinterpret_cast<const uint32_t*>(values + k);
    second = *reinterpret_cast<const uint32_t*>(values + k + 8);
  }
}

template <bool kCodes>
__global__ void __launch_bounds__(kThreads) down_kernel(const __grid_constant__ Params params) {
  const Tile tile = tile_at<kRows, kColumns>(params, blockIdx.x);
  const DownGroup& group = tile.group->group;
  const int lane = threadIdx.x % 32, row = tile.row + threadIdx.x / 32 * 16 + lane / 4;
  constexpr int kElement = kCodes ? 1 : 2;
  // Rows and ranks beyond the last ones read the last ones; they are not stored.
  const uint8_t* x[2];
  const uint8_t* down[kColumns / 8];
#pragma unroll
  for (int side = 0; side < 2; ++side) {
    const int64_t at = min(row + 8 * side, int(group.rows) - 1);
    x[side] = static_cast<const uint8_t*>(group.x.data) +
              (tile.batch * group.x.batch_stride + at * group.x.row_stride) * kElement;
  }
#pragma unroll
  for (int j = 0; j < kColumns / 8; ++j) {
    const int64_t rank = min(tile.column + 8 * j + lane / 4, params.ranks - 1);
    down[j] = static_cast<const uint8_t*>(group.down) + rank * params.k * kElement;
  }
  wait_for_predecessors();
  let_successor_start();

  float sums[kColumns / 8][4] = {};
#pragma unroll 2
  for (int k = 2 * (lane % 4); k < params.k; k += 16) {
    uint32_t a[4];
#pragma unroll
    for (int side = 0; side < 2; ++side) load_pairs<kCodes>(x[side], k, a[side], a[2 + side]);
#pragma unroll
    for (int j = 0; j < kColumns / 8; ++j) {
      uint32_t b0, b1;
      load_pairs<kCodes>(down[j], k, b0, b1);
      ptx::mma_m16n8k16_bf16(sums[j], a, b0, b1);
    }
  }
#pragma unroll
  for (int j = 0; j < kColumns / 8; ++j) {
    const int column = tile.column + 8 * j + 2 * (lane % 4);
    if (column >= params.ranks) continue;
    const float2 scale = *reinterpret_cast<const float2*>(group.scale + column);
#pragma unroll
    for (int side = 0; side < 2; ++side) {
      if (row + 8 * side >= group.rows) continue;
      auto* to = static_cast<uint16_t*>(group.low.data) + tile.batch * group.low.batch_stride +
                 (row + 8 * side) * group.low.row_stride + column;
      *reinterpret_cast<uint32_t*>(to) =
          ptx::cvt_rn_bf16x2(sums[j][2 * side] * scale.x, sums[j][2 * side + 1] * scale.y);
    }
  }
}

}  // namespace

Status launch_portable(const Params& params, bool codes, int tiles, cudaStream_t stream) {
  return launch("down_project", codes ? down_kernel<true> : down_kernel<false>, dim3(tiles), dim3(kThreads),
                0, stream, params);
}

}  // namespace lora
}  // namespace flux::kernels
