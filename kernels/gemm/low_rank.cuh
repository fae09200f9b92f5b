// The low-rank branch in the main loop: more k-blocks behind those of A and W, of low and up, into the same accumulators.
//
// A k-block of 128 bytes is 64 ranks of bf16, whatever the operands are, in boxes of the same bytes. A tile visits the parts
// of W that its cluster has columns of, one after another: all blocks of a part's ranks, a stage each. Columns that are not
// of the part have zeros in place of up.
#pragma once

#include "gemm/schedule.cuh"
#include "ptx/wgmma.cuh"

namespace flux::kernels::gemm {

// What a tile takes of a part: which columns of low, and which rows of up in place of its columns.
struct LowVisit {
  int part;
  ColumnRuns runs;
};

// Where every tile has columns of one part.
struct ConsecutiveLow {
  static __device__ __forceinline__ int visits(const GemmParams&, int) { return 1; }
  static __device__ __forceinline__ LowVisit visit(const GemmParams& params, const Tile& tile, int) {
    int part = 0;
    while (part + 1 < params.low_parts && tile.column >= params.low_begin[part + 1]) ++part;
    return {part, consecutive_columns(tile)};
  }
};

// Where `Epilogue`'s tiles are of heads (qkv.cuh): the parts of W are q, k, v and what lies beyond. A cluster's tiles of heads
// have one part, or with an odd number of heads perhaps two, in their first 128 columns, and v's in the last 64.
template <typename Epilogue>
struct HeadsLow {
  static __device__ __forceinline__ int visits(const GemmParams& params, int column_block) {
    if (column_block >= params.heads) return 1;
    return 2 * column_block + 1 == params.heads ? 3 : 2;
  }
  static __device__ __forceinline__ LowVisit visit(const GemmParams& params, const Tile& tile, int index) {
    const ColumnRuns runs = Epilogue::columns(params, tile);
    if (tile.column_block >= params.heads) return {3, runs};
    const int none = params.n;  // beyond up's rows
    if (index + 1 == visits(params, tile.column_block)) return {2, {{none, none, runs.first[2]}}};
    const int part = 2 * tile.column_block + index < params.heads ? 0 : 1;
    const bool mine = (runs.first[0] < params.low_begin[1] ? 0 : 1) == part;
    return {part, {{mine ? runs.first[0] : none, mine ? runs.first[1] : none, none}}};
  }
};

// Stages of a tile beyond those of A and W.
template <typename Low>
__device__ __forceinline__ int low_stages(const GemmParams& params, int column_block) {
  return params.low_blocks == 0 ? 0 : Low::visits(params, column_block) * params.low_blocks;
}

// `steps` times 16 ranks of a stage, in a math warpgroup: `a` and `b` are where its rows and the tile's columns lie.
template <typename Config, typename Accumulator>
__device__ __forceinline__ void multiply_low(Accumulator& accumulator, int steps, uint32_t a, uint32_t b) {
  constexpr uint64_t kHigh = ptx::wgmma_descriptor(0) >> 32 << 32;
  uint32_t a_low = uint32_t(ptx::wgmma_descriptor(a)), b_low = uint32_t(ptx::wgmma_descriptor(b));
  ptx::wgmma_fence();
#pragma unroll 1
  for (int i = 0; i < steps; ++i, a_low += 2, b_low += 2) {
#pragma unroll
    for (int r = 0; r < Config::kRowBlocks; ++r) {
      ptx::Wgmma<__nv_bfloat16, Config::kTileN>::mma_async(
          accumulator[r], kHigh | (a_low + r * (64 * Config::kBlockBytes >> 4)), kHigh | b_low, true);
    }
  }
  ptx::wgmma_commit_group();
}

}  // namespace flux::kernels::gemm
