// What all epilogues share: where a math warp is in its tile, and the first step, scales and bias.
//
// An epilogue is a class, one object a math warp, with
//   using Output                         what C holds
//   kBoxes                               residual boxes that it takes from the ring, a tile
//   kDeferredPanels                      panels that it keeps in registers for the next tile's main loop, or 0
//   prefetch(tile)                       loads to start while the last k-blocks are multiplied
//   finish(accumulator, tile, rows, …)   from accumulators to panels, kept or stored
//   store_deferred(panel)                stores a kept panel; panel is an integral_constant
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
  __device__ __forceinline__ void load(const Tile& tile, const WarpPlace& place, const RowScales& rows,
                                       bool write) {
    const GroupParams& group = *tile.group;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = tile.row + place.row_in_tile() + place.lane / 4 + 8 * half;
      const float bound = fmaf(rows.value[half], group.bounds[0], group.bounds[1]);
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

// Panels of one tile that wait for their turn, the first in shared memory and the others in registers, or leave at once.
template <typename Config, typename Output>
class PanelQueue {
 public:
  using Shape = PanelShape<Output>;
  static constexpr int kPanels = (Config::kTileN + Shape::kColumns - 1) / Shape::kColumns;
  static constexpr int kDeferred = Config::kDefers && sizeof(Output) <= 2 ? kPanels : 0;

  __device__ __forceinline__ explicit PanelQueue(const WarpPlace& place)
      : writer_(place.shared, place.math_group * 4 + place.warp, place.lane),
        row_in_tile_(place.row_in_tile()) {}

  // Before a tile's first push, all panels before it having been popped. Tells the compiler that the registers hold nothing,
  // which it cannot see when pushes are conditional.
  __device__ __forceinline__ void begin() {
#pragma unroll
    for (auto& panel : words_) {
#pragma unroll
      for (uint32_t& word : panel) word = 0;
    }
  }

  // Panel `panel` of `tile` goes to columns from `column` of `out`, none from `end` on.
  __device__ __forceinline__ void push(int panel, const float (&values)[Shape::kValues], const Tile& tile,
                                       const OutputRows& out, int column, int end) {
    if constexpr (kDeferred == 0) {
      uint32_t words[Shape::kWords];
      pack(words, values, Output());
      writer_.template fill<Output>(panel, words);
      store(panel, tile, out, column, end);
    } else {
      if (panel < kInShared) {
        uint32_t words[Shape::kWords];
        pack(words, values, Output());
        writer_.template fill<Output>(panel, words);
      } else {
        pack(words_[panel - kInShared], values, Output());
      }
      tile_ = tile;
      waiting_ |= 1u << panel;
    }
  }

  // Of the panels pushed before.
  __device__ __forceinline__ const Tile& tile() const { return tile_; }

  // Stores a panel that was pushed before, to the same place; nothing when it was not pushed.
  __device__ __forceinline__ void pop(int panel, const OutputRows& out, int column, int end) {
    if ((waiting_ >> panel & 1) == 0) return;
    if (panel >= kInShared) writer_.template fill<Output>(panel, words_[panel - kInShared]);
    store(panel, tile_, out, column, end);
    waiting_ ^= 1u << panel;
  }

 private:
  static constexpr int kInShared = Config::kPanelBuffers;

  __device__ __forceinline__ void store(int panel, const Tile& tile, const OutputRows& out, int column,
                                        int end) {
    writer_.template store<Output>(panel, out, column, end, tile.row + row_in_tile_, tile.group->rows,
                                   tile.batch);
  }

  PanelWriter<Config> writer_;
  int row_in_tile_;
  Tile tile_{};
  uint32_t waiting_ = 0;
  uint32_t words_[kDeferred > kInShared ? kDeferred - kInShared : 1][Shape::kWords];
};

// values = accumulator · row scale · multiplier + addend, for kCount / 4 blocks of 8 columns from `first` on.
template <typename Config, int kCount, int kAll>
__device__ __forceinline__ void scale_and_add(float (&values)[kCount], const float (&accumulator)[kAll],
                                              int first, const RowScales& rows, const WarpPlace& place) {
  const uint32_t pairs = place.columns + first * 64 + (place.lane % 4) * 16;
#pragma unroll
  for (int j = 0; j < kCount / 4; ++j) {
    if (4 * (first + j) >= kAll) break;  // beyond the tile, in its last panel
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
