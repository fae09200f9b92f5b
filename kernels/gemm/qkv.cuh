// q, k, v and perhaps MLP columns from one product.
//
// A head is 128 columns, so a tile holds whole heads and a thread's accumulator holds, of each head, 32 columns of two
// rows. RMSNorm: squares summed over the thread's columns, then over the four lanes of a row. RoPE: a pair (2i, 2i + 1) is
// two neighbouring values of one thread, rotated by the table's entry (row, i); its first half is loaded under the last
// k-blocks, its second once the norms are under way.
//   kHeads   how q, k, v leave: bf16 rows through panels, or 8-bit attention's layout (attention/qkv_layout.cuh)
//   Output   of the MLP columns
#pragma once

#include "attention/qkv_layout.cuh"
#include "gemm/activation.cuh"
#include "gemm/epilogue.cuh"

namespace flux::kernels::gemm {

template <typename Config, QkvHeads kHeads, typename Output_>
class QkvEpilogue {
 public:
  using Output = Output_;
  using Queue = PanelQueue<Config, Output>;
  static constexpr int kBoxes = 0;
  static constexpr int kDeferredPanels = Queue::kDeferred;
  static constexpr int kHeadDim = 128;
  static constexpr int kTileHeads = Config::kTileN / kHeadDim;
  static_assert(Config::kTileN % kHeadDim == 0, "a tile holds whole heads");

  __device__ __forceinline__ QkvEpilogue(const GemmParams& params, const WarpPlace& place)
      : params_(params), place_(place), queue_(place) {}

  __device__ __forceinline__ void prefetch(const Tile& tile) {
    if (tile.column < 2 * params_.heads * kHeadDim) load_rope(tile, 0);
  }

  __device__ __forceinline__ void finish(float (&accumulator)[Config::kTileN / 2], const Tile& tile,
                                         const RowScales& rows, MainLoop<Config>&) {
    queue_.begin();
    scale_and_add<Config>(accumulator, accumulator, 0, rows, place_);
    if (tile.column < 2 * params_.heads * kHeadDim) {
      float inverse_rms[kTileHeads][2];
#pragma unroll
      for (int head = 0; head < kTileHeads; ++head) root_mean_square(inverse_rms[head], accumulator, head);
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        if (half == 1) load_rope(tile, 1);
#pragma unroll
        for (int head = 0; head < kTileHeads; ++head) {
          const int section = section_of(tile.column + head * kHeadDim);
          if (section >= 2) continue;
          const float* norm = section == 0 ? tile.group->norm_q : tile.group->norm_k;
          normalise_and_rotate(accumulator, head, half, inverse_rms[head], norm);
        }
      }
    }
#pragma unroll
    for (int head = 0; head < kTileHeads; ++head) store_head(accumulator, head, tile, rows);
  }

  template <int kPanel>
  __device__ __forceinline__ void store_deferred(std::integral_constant<int, kPanel>) {
    const Tile& tile = queue_.tile();
    const int column = tile.column + 64 * kPanel, beyond = column - 3 * params_.heads * kHeadDim;
    const OutputRows& out = beyond >= 0 ? tile.group->mlp : tile.group->c;
    queue_.pop(kPanel, out, beyond >= 0 ? beyond : column, out.columns);
  }

 private:
  static constexpr uint32_t kValueBarrier = 4;  // named barriers 4, 5: a math warpgroup's own

  // 0 q, 1 k, 2 v, 3 and more the rest.
  __device__ __forceinline__ int section_of(int column) const { return column / (params_.heads * kHeadDim); }

  // (cos, sin) for this thread's pairs in columns [64·half, 64·half + 64) of a head.
  __device__ __forceinline__ void load_rope(const Tile& tile, int half) {
#pragma unroll
    for (int side = 0; side < 2; ++side) {
      const int row = min(tile.row + place_.row_in_tile() + place_.lane / 4 + 8 * side, tile.group->rows - 1);
      const float2* angles =
          reinterpret_cast<const float2*>(tile.group->rope) + int64_t(row) * 64 + half * 32;
#pragma unroll
      for (int j = 0; j < 8; ++j) rope_[j][side] = __ldg(angles + 4 * j + place_.lane % 4);
    }
  }

  __device__ __forceinline__ void root_mean_square(float (&inverse)[2],
                                                   const float (&accumulator)[Config::kTileN / 2],
                                                   int head) const {
    float squares[2] = {0.0f, 0.0f};
#pragma unroll
    for (int i = 0; i < 64; ++i) {
      const float value = accumulator[64 * head + i];
      squares[i / 2 % 2] = fmaf(value, value, squares[i / 2 % 2]);
    }
#pragma unroll
    for (int side = 0; side < 2; ++side) {
      squares[side] += __shfl_xor_sync(0xffffffff, squares[side], 1);
      squares[side] += __shfl_xor_sync(0xffffffff, squares[side], 2);
      inverse[side] = ptx::rsqrt_approx(fmaf(squares[side], 1.0f / kHeadDim, params_.eps));
    }
  }

  __device__ __forceinline__ void normalise_and_rotate(float (&accumulator)[Config::kTileN / 2], int head,
                                                       int half, const float (&inverse)[2],
                                                       const float* norm) const {
    const float2* weights = reinterpret_cast<const float2*>(norm) + 32 * half + place_.lane % 4;
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      const float2 weight = __ldg(weights + 4 * j);
#pragma unroll
      for (int side = 0; side < 2; ++side) {
        float* pair = accumulator + 64 * head + 32 * half + 4 * j + 2 * side;
        const float left = pair[0] * (inverse[side] * weight.x);
        const float right = pair[1] * (inverse[side] * weight.y);
        const float2 angle = rope_[j][side];
        pair[0] = left * angle.x - right * angle.y;
        pair[1] = right * angle.x + left * angle.y;
      }
    }
  }

  __device__ __forceinline__ void store_head(const float (&accumulator)[Config::kTileN / 2], int head,
                                             const Tile& tile, const RowScales& rows) {
    const int section = section_of(tile.column + head * kHeadDim);
    if (section >= 3) {
      push_mlp(accumulator, head, tile, rows);
    } else if constexpr (kHeads == QkvHeads::kRows) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        float values[32];
#pragma unroll
        for (int i = 0; i < 32; ++i) values[i] = accumulator[64 * head + 32 * half + i];
        push(2 * head + half, values, tile);
      }
    } else {
      store_packed(accumulator, head, tile);
    }
  }

  // q, k, v (as rows) and the MLP's columns are both bf16 then, and differ in where they go.
  __device__ __forceinline__ void push(int panel, const float (&values)[32], const Tile& tile) {
    const int column = tile.column + 64 * panel, beyond = column - 3 * params_.heads * kHeadDim;
    const OutputRows& out = beyond >= 0 ? tile.group->mlp : tile.group->c;
    queue_.push(panel, values, tile, out, beyond >= 0 ? beyond : column, out.columns);
  }

  __device__ __forceinline__ void store_packed(const float (&accumulator)[Config::kTileN / 2], int tile_head,
                                               const Tile& tile) const {
    using Code = std::conditional_t<kHeads == QkvHeads::kInt8, int8_t, __nv_fp8_e4m3>;
    const GroupParams& group = *tile.group;
    const int section = section_of(tile.column + tile_head * kHeadDim);
    const int head = tile.column / kHeadDim + tile_head - section * params_.heads;
    const int row = tile.row + int(place_.math_group) * 64;
    if (row >= group.rows) return;
    const PackedQkv& packed = group.packed;
    const int tokens = group.packed_tokens, first = group.first_token + row,
              end = group.first_token + group.rows;
    const int64_t slice = int64_t(tile.batch) * params_.heads + head;
    const int64_t scored = slice * qkv::scored_slice_bytes(tokens),
                  padded = slice * qkv::padded_tokens(tokens);
    float4* key_blocks = reinterpret_cast<float4*>(packed.key_blocks) + padded / qkv::kTokenBlock;
    float x[64];
#pragma unroll
    for (int i = 0; i < 64; ++i) x[i] = accumulator[64 * tile_head + i];
    if (section == 0) {
      qkv::store_query_tile<Code>(x, first, end, packed.query + scored,
                                  reinterpret_cast<float2*>(packed.query_rows) + padded);
    } else if (section == 1) {
      qkv::store_key_tile<Code>(x, first, end, packed.key + scored, key_blocks);
    } else {
      qkv::store_value_tile(x, first, end, packed.value + slice * qkv::value_slice_bytes(tokens), key_blocks,
                            scratch(), kValueBarrier + place_.math_group);
    }
  }

  // The warpgroup's four floats of shared memory.
  __device__ __forceinline__ float* scratch() const {
    extern __shared__ uint8_t dynamic_shared[];
    return reinterpret_cast<float*>(dynamic_shared + Config::kScratchAt + 16 * place_.math_group);
  }

  __device__ __forceinline__ void push_mlp(const float (&accumulator)[Config::kTileN / 2], int head,
                                           const Tile& tile, const RowScales& rows) {
    const bool first = tile.column + head * kHeadDim == 3 * params_.heads * kHeadDim;
    [[maybe_unused]] OutputScales output;
    if constexpr (sizeof(Output) == 1) output.load(tile, place_, rows, first);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float values[32];
#pragma unroll
      for (int i = 0; i < 32; ++i) values[i] = accumulator[64 * head + 32 * half + i];
      activate_all(values, params_.activation);
      if constexpr (sizeof(Output) == 1) output.apply(values);
      push(2 * head + half, values, tile);
    }
  }

  const GemmParams& params_;
  const WarpPlace& place_;
  Queue queue_;
  float2 rope_[8][2];
};

}  // namespace flux::kernels::gemm
