// What all epilogues share: the vectors of a tile and the first step, scales and bias.
//
// An epilogue is a class, one object a math warp, with
//   using Output                what C holds (kQkv: what lies beyond q, k and v)
//   Low                         the parts of a low-rank branch that a tile visits (low_rank.cuh)
//   kScattered, columns(…)      whether a tile's columns are not consecutive rows of W, and which they are
//   prefetch(tile)              before the main loop: what may be on its way meanwhile
//   finish(sums, tile, block)   from a row block's accumulators to results on their way to global memory; with kWholeTile
//                               finish(sums, tile), all row blocks at once
#pragma once

#include "gemm/multiply.cuh"
#include "gemm/warp_panels.cuh"

namespace flux::kernels::gemm {

// The next row block's sums to where the epilogue wants them: one copy of its code serves all blocks, and no accumulator is
// indexed at run time. Volatile, or the moves would be made before the epilogue, at the cost of as many registers.
template <typename Config>
__device__ __forceinline__ void move_up(Accumulator<Config>& accumulator) {
#pragma unroll
  for (int block = 1; block < Config::kRowBlocks; ++block) {
#pragma unroll
    for (int i = 0; i < Config::kTileN / 2; ++i) {
      asm volatile("mov.f32 %0, %1;" : "=f"(accumulator[block - 1][i]) : "f"(accumulator[block][i]));
    }
  }
}

// Named barrier of a math warpgroup's own.
__device__ __forceinline__ uint32_t own_barrier(const WarpPlace& place) { return 3 + place.math_group; }

template <typename Config>
__device__ __forceinline__ uint32_t vectors_of(uint32_t shared, const WarpPlace& place) {
  return shared + Config::kVectorsAt + place.math_group * Config::kVectorBytes;
}

// First row, within its tile, of a math warp in one of its row blocks.
template <typename Config>
__device__ __forceinline__ int row_in_tile(const WarpPlace& place, int block) {
  return (Config::kInTurn ? block : int(place.math_group)) * 64 + int(place.warp) * 16;
}

// (multiplier, addend) of each of the tile's columns, so that every epilogue starts with
// accumulator · row scale · multiplier + addend, whatever scale, bias and gate there are; and row scales, 1 without scales
// and 0 beyond the last row. By all threads of a math warpgroup.
template <typename Config>
class TileVectors {
 public:
  __device__ __forceinline__ void load(const GemmParams& params, const Tile& tile, const ColumnRuns& runs) {
    const WarpPlace place = warp_place();
    const GroupParams& group = *tile.group;
    const int thread = int(place.warp * 32 + place.lane);
    const float* gate = group.gate == nullptr ? nullptr : group.gate + tile.batch * group.gate_batch_stride;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int column = thread + 128 * i;
      const int n = (i > 0 ? runs.first[2] : thread < 64 ? runs.first[0] : runs.first[1]) + column % 64;
      multiplier_[i] = addend_[i] = 0.0f;
      if (column >= Config::kTileN || n >= params.n) continue;
      multiplier_[i] = group.w_scale == nullptr ? 1.0f : group.w_scale[n];
      addend_[i] = group.bias == nullptr ? 0.0f : group.bias[n];
      if (gate != nullptr) {
        const float factor = __ldcg(gate + n);
        multiplier_[i] *= factor;
        addend_[i] *= factor;
      }
    }
    const int row = tile.row + (Config::kInTurn ? 0 : int(place.math_group) * 64) + thread;
    scale_ = 1.0f;
    if (thread < 64 * Config::kRowBlocks && group.a_scale != nullptr) {
      // From L2: with low_is_next nothing has told this multiprocessor's L1 of the kernel that wrote it.
      scale_ =
          row < group.rows ? __ldcg(group.a_scale + tile.batch * group.a_scale_batch_stride + row) : 0.0f;
    }
  }

  __device__ __forceinline__ void publish(uint32_t shared) const {
    const WarpPlace place = warp_place();
    const uint32_t thread = place.warp * 32 + place.lane, vectors = vectors_of<Config>(shared, place);
    ptx::bar_sync(own_barrier(place), 128);  // the last tile's have been read
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const uint32_t column = thread + 128 * i;
      if (column < Config::kTileN) ptx::st_shared_v2_f32(vectors + 8 * column, multiplier_[i], addend_[i]);
    }
    if (thread < 64 * Config::kRowBlocks)
      ptx::st_shared_f32(vectors + Config::kRowScalesAt + 4 * thread, scale_);
    ptx::bar_sync(own_barrier(place), 128);
  }

 private:
  float multiplier_[2], addend_[2];
  float scale_;
};

// A tile, kept in shared memory through a main loop that leaves no registers for it. By all threads of a math warpgroup;
// a barrier of theirs lies between.
template <typename Config>
__device__ __forceinline__ void keep_tile(const Tile& tile, uint32_t shared) {
  const WarpPlace place = warp_place();
  if (place.warp != 0 || place.lane != 0) return;
  ptx::st_shared_v4_b32(
      vectors_of<Config>(shared, place) + Config::kTileAt,
      make_uint4(tile.group_index | tile.row_blocks << 16, tile.batch, tile.row, tile.column_block));
}

template <typename Config>
__device__ __forceinline__ Tile kept_tile(const GemmParams& params, uint32_t shared) {
  const uint4 kept = ptx::ld_shared_v4_b32(vectors_of<Config>(shared, warp_place()) + Config::kTileAt);
  // Broadcast, so that the compiler sees that it is the same in all lanes.
  const auto uniform = [](uint32_t value) { return int(__shfl_sync(0xffffffff, value, 0)); };
  const int group = uniform(kept.x & 0xffff), column_block = uniform(kept.w);
  return {params.groups + group, group,        uniform(kept.y),
          uniform(kept.z),       column_block, first_column<Config>(column_block),
          uniform(kept.x >> 16)};
}

// Of a thread's two rows in a row block.
struct RowScales {
  float value[2];
};

template <typename Config>
__device__ __forceinline__ RowScales row_scales(uint32_t shared, const WarpPlace& place, int block) {
  const uint32_t row = block * 64 + place.warp * 16 + place.lane / 4;  // of the math group
  const uint32_t at = vectors_of<Config>(shared, place) + Config::kRowScalesAt + 4 * row;
  return {ptx::ld_shared_f32(at), ptx::ld_shared_f32(at + 4 * 8)};
}

// Scales of a thread's two rows of an e4m3 output, from the bound in gemm.h. No activation here exceeds |x|, so x's bound
// is the output's. A bound of zero gives scale 1, as quantising a row of zeros would.
struct OutputScales {
  float inverse[2] = {1.0f, 1.0f};

  // `first_row`: of the warp in the batch. `write`: whether this tile is the one that stores c_scale.
  __device__ __forceinline__ void load(const Tile& tile, int first_row, uint32_t lane, const RowScales& rows,
                                       bool write) {
    const GroupParams& group = *tile.group;
    float scale[2];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float bound = fmaf(rows.value[half], group.bounds[0], group.bounds[1]);
      scale[half] = bound > 0.0f ? bound * (1.0f / 448.0f) : 1.0f;
      inverse[half] = __fdividef(1.0f, scale[half]);
    }
    if (!write || lane % 4 != 0) return;
    const int row = first_row + int(lane) / 4;
    float* to = group.c_scale + tile.batch * group.c_scale_batch_stride + row;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      if (row + 8 * half < group.rows) to[8 * half] = scale[half];
    }
  }
};

// values = sums · row scale · multiplier + addend, for kCount / 4 blocks of 8 columns; `first` is the first one's index.
template <typename Config, int kCount>
__device__ __forceinline__ void scale_and_add(float (&values)[kCount], const RowBlockSums<Config>& sums,
                                              int first, const RowScales& rows, uint32_t shared,
                                              const WarpPlace& place) {
  const uint32_t pairs = vectors_of<Config>(shared, place) + first * 64 + (place.lane % 4) * 16;
#pragma unroll
  for (int j = 0; j < kCount / 4; ++j) {
    const float4 pair = ptx::ld_shared_v4_f32(pairs + j * 64);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      // Scale times scale first: the accumulators then stay where they are until the addend is there too.
      const float scale = sizeof(typename Config::Operand) == 1 ? rows.value[half] : 1.0f;
      const int at = 4 * j + 2 * half;
      values[at] = fmaf(sums[4 * first + at], scale * pair.x, pair.y);
      values[at + 1] = fmaf(sums[4 * first + at + 1], scale * pair.z, pair.w);
    }
  }
}

// The same for all of a tile, in place: every column's pair is read once.
template <typename Config>
__device__ __forceinline__ void scale_and_add_in_place(Accumulator<Config>& sums, uint32_t shared,
                                                       const WarpPlace& place) {
  RowScales rows[Config::kRowBlocks];
#pragma unroll
  for (int block = 0; block < Config::kRowBlocks; ++block)
    rows[block] = row_scales<Config>(shared, place, block);
  const uint32_t pairs = vectors_of<Config>(shared, place) + (place.lane % 4) * 16;
#pragma unroll
  for (int j = 0; j < Config::kTileN / 8; ++j) {
    const float4 pair = ptx::ld_shared_v4_f32(pairs + j * 64);
#pragma unroll
    for (int block = 0; block < Config::kRowBlocks; ++block) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const float scale = sizeof(typename Config::Operand) == 1 ? rows[block].value[half] : 1.0f;
        float* values = sums[block] + 4 * j + 2 * half;
        // Written out, since the compiler would give the results registers of their own, of which there are none.
        asm volatile("fma.rn.f32 %0, %0, %1, %2;" : "+f"(values[0]) : "f"(scale * pair.x), "f"(pair.y));
        asm volatile("fma.rn.f32 %0, %0, %1, %2;" : "+f"(values[1]) : "f"(scale * pair.z), "f"(pair.w));
      }
    }
  }
}

}  // namespace flux::kernels::gemm
