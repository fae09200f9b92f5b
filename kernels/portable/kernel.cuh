// C = A·Wᵀ by mma.sync: a tile of 128 × 128 a block, eight warps of 64 × 32.
//
//   stages     three of 32 KiB: 128 rows of A and of W, 128 bytes of k each (64 bf16, 128 e4m3), by cp.async two steps
//              ahead; 96 KiB is what sm_89 has. 16-byte chunk c of row r lies at c ^ (r % 8): ldmatrix has no conflicts.
//   k step     32 bytes of each row: 16 bf16 or 32 e4m3. Both have the same bytes in the same lanes, so one ldmatrix
//              path serves both. Below sm_89 codes are expanded to bf16 in registers and multiplied in two steps of 16.
//   registers  64 accumulators, 16 + 8 of operands
//   epilogue   accumulators through shared memory (the stages', rows of 132 floats), so that 16 lanes hold a row of the
//              tile and a functor sees eight columns at a time (epilogue.cuh)
#pragma once

#include "launch.cuh"
#include "portable/epilogue.cuh"
#include "ptx/cp_async.cuh"
#include "ptx/matrix.cuh"
#include "ptx/mma.cuh"
#include "ptx/shared.cuh"
#include "quantise/expand.cuh"

namespace flux::kernels::portable {

inline constexpr int kThreads = 256;
inline constexpr int kStages = 3;
inline constexpr int kRowBytes = 128;
inline constexpr int kOperandBytes = kTile * kRowBytes;
inline constexpr int kStageBytes = 2 * kOperandBytes;
inline constexpr int kSharedBytes = kStages * kStageBytes;
inline constexpr int kPitch = kTile + 4;
static_assert(kTile * kPitch * 4 <= kSharedBytes);

enum class Products { kBf16, kE4m3, kExpanded };  // kExpanded: e4m3 operands multiplied as bf16

__device__ __forceinline__ Tile tile_at(const Params& params, int index) {
  int which = 0;
  while (index >= params.tile_end[which]) ++which;
  if (which > 0) index -= params.tile_end[which - 1];
  // Bands of eight row blocks, the row block changing fastest: neighbours share W's columns and A's rows in L2.
  constexpr int kBand = 8;
  const int blocks = params.row_blocks[which] * int(params.groups[which].batches);
  const int band = index / (kBand * params.column_blocks), in_band = index % (kBand * params.column_blocks);
  const int height = min(kBand, blocks - band * kBand);
  const int block = band * kBand + in_band % height;
  return {&params.groups[which], block / params.row_blocks[which], block % params.row_blocks[which] * kTile,
          in_band / height * kTile};
}

// What stages are loaded from, in bytes; `a` is the batch's.
struct Source {
  const uint8_t* a;
  const uint8_t* w;
  int64_t a_row, w_row;
  int k_bytes;
};

__device__ __forceinline__ Source product_source(const Tile& tile, int k, int element) {
  const GemmGroup& group = *tile.group;
  return {static_cast<const uint8_t*>(group.a.data) + tile.batch * group.a.batch_stride * element,
          static_cast<const uint8_t*>(group.w), group.a.row_stride * element, group.w_row_stride * element,
          k * element};
}

// Of the low-rank branch, for the part of W that the tile is of.
__device__ __forceinline__ Source low_source(const Params& params, const Tile& tile) {
  const GemmGroup& group = *tile.group;
  int part = 0;
  while (part + 1 < params.low_parts && tile.column >= params.low_begin[part + 1]) ++part;
  const int64_t first = tile.batch * group.low.batch_stride + part * params.low_rank;
  return {static_cast<const uint8_t*>(group.low.data) + 2 * first, static_cast<const uint8_t*>(group.up),
          2 * group.low.row_stride, 2 * params.low_rank, int(2 * params.low_rank)};
}

// Starts the copy of one stage; rows and k beyond the operands become zeros.
__device__ __forceinline__ void load_stage(const Tile& tile, int n, const Source& from, uint32_t stage,
                                           int step) {
#pragma unroll
  for (int i = 0; i < kTile * 8 / kThreads; ++i) {
    const int row = (threadIdx.x + i * kThreads) / 8, chunk = threadIdx.x % 8;
    const int at = step * kRowBytes + chunk * 16;
    const uint32_t to = stage + row * kRowBytes + ((chunk ^ (row % 8)) * 16);
    const bool a_inside = at < from.k_bytes && tile.row + row < tile.group->rows;
    const bool w_inside = at < from.k_bytes && tile.column + row < n;
    ptx::cp_async_16(to, a_inside ? from.a + (tile.row + row) * from.a_row + at : from.a, a_inside ? 16 : 0);
    ptx::cp_async_16(to + kOperandBytes, w_inside ? from.w + (tile.column + row) * from.w_row + at : from.w,
                     w_inside ? 16 : 0);
  }
}

template <Products kProducts>
__device__ __forceinline__ void multiply(float (&sum)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  if constexpr (kProducts == Products::kBf16) {
    ptx::mma_m16n8k16_bf16(sum, a, b0, b1);
  } else {
#if __CUDA_ARCH__ >= 890
    ptx::mma_m16n8k32_e4m3(sum, a, b0, b1);
#endif
  }
}

// A k step of a warp's 16·kBlocks × 32 part of the stage. Rows of A from `a` on, of W from `w` on, as row numbers in the
// tile.
template <Products kProducts, int kBlocks>
__device__ __forceinline__ void multiply_step(float (&sums)[kBlocks][4][4], uint32_t stage, int a, int w,
                                              int step) {
  const int lane = threadIdx.x % 32;
  const auto address = [&](uint32_t operand, int row, int chunk) {
    return operand + row * kRowBytes + ((chunk ^ (row % 8)) * 16);
  };
  uint32_t rows[kBlocks][4], columns[2][4];
#pragma unroll
  for (int i = 0; i < kBlocks; ++i)
    ptx::ldmatrix_x4(rows[i], address(stage, a + i * 16 + lane % 16, step * 2 + lane / 16));
#pragma unroll
  for (int j = 0; j < 2; ++j) {
    const int row = w + j * 16 + lane / 16 * 8 + lane % 8;
    ptx::ldmatrix_x4(columns[j], address(stage + kOperandBytes, row, step * 2 + lane / 8 % 2));
  }
  if constexpr (kProducts != Products::kExpanded) {
#pragma unroll
    for (int i = 0; i < kBlocks; ++i) {
#pragma unroll
      for (int j = 0; j < 4; ++j)
        multiply<kProducts>(sums[i][j], rows[i], columns[j / 2][j % 2 * 2], columns[j / 2][j % 2 * 2 + 1]);
    }
  } else {
    // Half of the step's codes at a time: the same four of a lane in A and in W, so their order in k does not matter.
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      uint32_t b[4][2];
#pragma unroll
      for (int j = 0; j < 4; ++j) expand_e4m3(columns[j / 2][j % 2 * 2 + half], b[j][0], b[j][1]);
#pragma unroll
      for (int i = 0; i < kBlocks; ++i) {
        uint32_t expanded[4];
        expand_e4m3(rows[i][half * 2], expanded[0], expanded[2]);
        expand_e4m3(rows[i][half * 2 + 1], expanded[1], expanded[3]);
#pragma unroll
        for (int j = 0; j < 4; ++j) ptx::mma_m16n8k16_bf16(sums[i][j], expanded, b[j][0], b[j][1]);
      }
    }
  }
}

// The low-rank branch, 64 ranks a step through one stage: too few steps to be worth more.
__device__ __forceinline__ void add_low_rank(const Params& params, const Tile& tile, float (&sums)[4][4][4],
                                             uint32_t stage, int warp_row, int warp_column) {
  if (params.low_rank == 0) return;
  const Source source = low_source(params, tile);
#pragma unroll 1
  for (int step = 0; step * kRowBytes < source.k_bytes; ++step) {
    load_stage(tile, params.n, source, stage, step);
    ptx::cp_async_commit_group();
    ptx::cp_async_wait_group<0>();
    __syncthreads();
#pragma unroll
    for (int part = 0; part < kRowBytes / 32; ++part)
      multiply_step<Products::kBf16>(sums, stage, warp_row, warp_column, part);
    __syncthreads();  // before the stage is filled again
  }
}

// Accumulators → shared memory → scales and bias → the epilogue.
template <bool kCodes, typename Epilogue>
__device__ __forceinline__ void store_tile(const Params& params, const Tile& tile,
                                           const float (&sums)[4][4][4], float* shared, int warp_row,
                                           int warp_column) {
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      float* at = shared + (warp_row + i * 16 + lane / 4) * kPitch + warp_column + j * 8 + lane % 4 * 2;
      *reinterpret_cast<float2*>(at) = make_float2(sums[i][j][0], sums[i][j][1]);
      *reinterpret_cast<float2*>(at + 8 * kPitch) = make_float2(sums[i][j][2], sums[i][j][3]);
    }
  }
  __syncthreads();
  const GemmGroup& group = *tile.group;
  const int column = tile.column + threadIdx.x % 16 * 8;
  float multiplier[8], addend[8];
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    const bool exists = column < params.n;  // n is a multiple of 16: all eight or none
    multiplier[i] = kCodes && exists ? group.w_scale[column + i] : 1.0f;
    addend[i] = group.bias && exists ? group.bias[column + i] : 0.0f;
  }
#pragma unroll 1
  for (int r = threadIdx.x / 16; r < kTile; r += kThreads / 16) {
    const Place place{tile.row + r, column, tile.row + r < group.rows && column < params.n};
    const float row_scale =
        kCodes && place.inside ? group.a_scale[tile.batch * group.a_scale_batch_stride + place.row] : 1.0f;
    float x[8];
    load8(shared + r * kPitch + threadIdx.x % 16 * 8, x);
#pragma unroll
    for (int i = 0; i < 8; ++i) x[i] = fmaf(kCodes ? x[i] * row_scale : x[i], multiplier[i], addend[i]);
    Epilogue::finish(params, tile, place, x);
  }
}

template <Products kProducts, typename Epilogue>
__global__ void __launch_bounds__(kThreads) gemm_kernel(const __grid_constant__ Params params) {
  extern __shared__ __align__(128) uint8_t shared[];
  constexpr int kElement = kProducts == Products::kBf16 ? 2 : 1;
  const Tile tile = tile_at(params, blockIdx.x);
  const int warp = threadIdx.x / 32, warp_row = warp % 2 * 64, warp_column = warp / 2 * 32;
  const Source source = product_source(tile, params.k, kElement);
  const int steps = (source.k_bytes + kRowBytes - 1) / kRowBytes;
  const uint32_t stages = ptx::shared_address(shared);
  wait_for_predecessors();
  let_successor_start();

  float sums[4][4][4] = {};
#pragma unroll
  for (int step = 0; step < kStages - 1; ++step) {
    if (step < steps) load_stage(tile, params.n, source, stages + step * kStageBytes, step);
    ptx::cp_async_commit_group();
  }
#pragma unroll 1
  for (int step = 0; step < steps; ++step) {
    ptx::cp_async_wait_group<kStages - 2>();
    __syncthreads();  // this step's stage is there, and everybody is done with the one before, which is loaded next
    const int ahead = step + kStages - 1;
    if (ahead < steps) load_stage(tile, params.n, source, stages + ahead % kStages * kStageBytes, ahead);
    ptx::cp_async_commit_group();
#pragma unroll
    for (int part = 0; part < kRowBytes / 32; ++part) {
      multiply_step<kProducts>(sums, stages + step % kStages * kStageBytes, warp_row, warp_column, part);
    }
  }
  ptx::cp_async_wait_group<0>();
  __syncthreads();
  add_low_rank(params, tile, sums, stages, warp_row, warp_column);
  store_tile<kElement == 1, Epilogue>(params, tile, sums, reinterpret_cast<float*>(shared), warp_row,
                                      warp_column);
}

}  // namespace flux::kernels::portable
