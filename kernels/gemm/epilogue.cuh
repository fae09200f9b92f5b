// What all epilogues share: where a math warp is in its tile, and the first step, scales and bias.
//
// An epilogue is a class, one object a math warp, with
//   using Output                         what C holds
//   kBoxes                               residual boxes that it takes from the ring, a tile
//   prefetch(tile, place)                loads to start while the last k-blocks are multiplied
//   finish(accumulator, tile, place, …)  from accumulators to stores
#pragma once

#include "gemm/multiply.cuh"
#include "gemm/panels.cuh"

namespace flux::kernels::gemm {

// A math warp's 16 rows of a tile. A thread's accumulators lie in rows `lane / 4` and `lane / 4 + 8` of them.
struct WarpPlace {
  uint32_t shared;
  uint32_t columns;  // shared address of the (multiplier, addend) pairs
  uint32_t math_group;
  uint32_t warp;  // of the math group
  uint32_t lane;

  __device__ __forceinline__ uint32_t row_in_tile() const { return math_group * 64 + warp * 16; }
};

// Of a thread's two rows; 1 without scales, 0 beyond the last row.
struct RowScales {
  float value[2];

  __device__ __forceinline__ void load(const Tile& tile, const WarpPlace& place) {
    const GroupParams& group = *tile.group;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = tile.row + place.row_in_tile() + place.lane / 4 + 8 * half;
      value[half] = 1.0f;
      if (group.a_scale != nullptr) {
        value[half] = row < group.rows ? group.a_scale[tile.batch * group.a_scale_batch_stride + row] : 0.0f;
      }
    }
  }
};

// Scales of a thread's two rows of an e4m3 output, from the bound in gemm.h. No activation here exceeds |x|, so x's bound
// is the output's. A bound of zero gives scale 1, as quantising a row of zeros would.
struct OutputScales {
  float inverse[2];

  // `write`: whether this tile is the one that stores c_scale.
  __device__ __forceinline__ void load(const Tile& tile, const WarpPlace& place, const RowScales& rows, bool write) {
    const GroupParams& group = *tile.group;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = tile.row + place.row_in_tile() + place.lane / 4 + 8 * half;
      const float bound = fmaf(rows.value[half], group.product_bound, group.bias_bound);
      const float scale = bound > 0.0f ? bound * (1.0f / 448.0f) : 1.0f;
      inverse[half] = __fdividef(1.0f, scale);
      if (write && place.lane % 4 == 0 && row < group.rows) {
        group.c_scale[tile.batch * group.c_scale_batch_stride + row] = scale;
      }
    }
  }

  template <int kCount>
  __device__ __forceinline__ void apply(float (&values)[kCount]) const {
#pragma unroll
    for (int i = 0; i < kCount; ++i) values[i] *= inverse[i / 2 % 2];
  }
};

// values = accumulator · row scale · multiplier + addend, for kCount / 4 blocks of 8 columns from `first` on.
template <typename Config, int kCount, int kAll>
__device__ __forceinline__ void scale_and_add(float (&values)[kCount], const float (&accumulator)[kAll], int first,
                                              const RowScales& rows, const WarpPlace& place) {
  const uint32_t pairs = place.columns + first * 64 + (place.lane % 4) * 16;
#pragma unroll
  for (int j = 0; j < kCount / 4; ++j) {
    const float4 pair = ptx::ld_shared_v4_f32(pairs + j * 64);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      // Scale times scale first: the accumulators then stay where they are until the addend is there too.
      const float scale = sizeof(typename Config::Operand) == 1 ? rows.value[half] : 1.0f;
      const int at = 4 * j + 2 * half;
      values[at] = fmaf(accumulator[4 * first + at], scale * pair.x, pair.y);
      values[at + 1] = fmaf(accumulator[4 * first + at + 1], scale * pair.z, pair.w);
    }
  }
}

}  // namespace flux::kernels::gemm
