// RoPE's table as the QKV GEMM's epilogue reads it: f16, and in the order in which a wgmma accumulator's lanes want it.
//
// A block of 16 rows holds, for j < 8 and each lane of a warp, 16 bytes: of the pairs of channels 4i + lane % 4, i = 2j and 2j + 1,
// the cosines of rows lane / 4 and lane / 4 + 8, then their sines. So a warp reads 512 contiguous bytes at once, where rows of
// f32 in their own order are 8 × 32 bytes that each take the shared-memory port for a clock; and the rotation of both
// rows of a lane is a few instructions on halves (head_pairs.cuh). Cosines and sines are off by 2^-12 of themselves.
#pragma once

#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>

#include "attention/qkv_layout.cuh"

namespace flux::kernels::qkv {

inline constexpr int kRopeBlockVectors = 8 * 32;  // uint4 of a block of 16 rows

__device__ __forceinline__ __half2 as_half2(uint32_t word) { return *reinterpret_cast<__half2*>(&word); }
__device__ __forceinline__ uint32_t as_word(__half2 pair) { return *reinterpret_cast<uint32_t*>(&pair); }

// What 16 bytes of the table are: of two pairs, for a lane's two rows.
struct RopeVector {
  __half2 cosine[2], sine[2];
};

__device__ __forceinline__ RopeVector rope_vector(const uint4& words) {
  return {{as_half2(words.x), as_half2(words.z)}, {as_half2(words.y), as_half2(words.w)}};
}

// Where a warp finds the rows from `row` on, a multiple of 16, in a table of `rows`; of rows beyond, those of the last block.
__device__ __forceinline__ const uint4* rope_block(const void* table, int row, int rows) {
  const int block = min(row, rows - 1) / kTokenBlock;
  return reinterpret_cast<const uint4*>(table) + int64_t(block) * kRopeBlockVectors;
}

}  // namespace flux::kernels::qkv
