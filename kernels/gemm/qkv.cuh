// q, k, v and perhaps MLP columns from one product.
//
// A head is 128 columns and a tile 192: the 48 tiles of 24 heads of q, k and v are each one whole head of q or k, so that a
// thread's accumulator holds 32 of its columns for each of two rows, and a half of one of v. Of a cluster's two CTAs, which
// have the same rows, column block p has heads 2p and 2p + 1 of q and k (q's heads first, then k's), and the halves of head
// p of v. Column blocks from `heads` on are 384 consecutive columns of the MLP.
// RMSNorm: squares summed over the thread's columns, then over the four lanes of a row. RoPE: a pair (2i, 2i + 1) is two
// neighbouring values of one thread, rotated by the table's entry (row, i).
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
  using Low = HeadsLow<QkvEpilogue>;
  static constexpr bool kScattered = true;
  static constexpr int kHeadDim = 128;
  static_assert(Config::kSharesA, "the CTAs of a cluster hold halves of v's heads");
  static_assert(Config::kPanelBuffers == Config::kPanels);

  static __device__ __forceinline__ ColumnRuns columns(const GemmParams& params, const Tile& tile) {
    if (tile.column_block < params.heads) {
      const int head = head_of(tile) * kHeadDim;
      return {{head, head + 64, (2 * params.heads + tile.column_block) * kHeadDim + 64 * rank_of(tile)}};
    }
    const int first = 3 * params.heads * kHeadDim + mlp_column(params, tile);
    return {{first, first + 64, first + 128}};
  }

  __device__ __forceinline__ QkvEpilogue(const GemmParams& params, uint32_t shared)
      : params_(params), shared_(shared) {}

  __device__ __forceinline__ void prefetch(const Tile&) {}

  __device__ __forceinline__ void finish(RowBlockSums<Config>& sums, const Tile& tile, int block) {
    const WarpPlace place = warp_place();
    const RowScales rows = row_scales<Config>(shared_, place, block);
    if (tile.column_block >= params_.heads) {
      store_mlp(sums, tile, block, rows, place);
      return;
    }
    // Half of v first: a third of the accumulators is free then.
    float v[32];
    scale_and_add<Config>(v, sums, 16, rows, shared_, place);
    if constexpr (kHeads == QkvHeads::kRows) {
      WarpPanels<Config>(shared_, place).wait_free();
      store_panel(v, 2, tile, block, place);
    } else {
      store_packed_value(v, tile, block, place);
    }
    float x[64];
    scale_and_add<Config>(x, sums, 0, rows, shared_, place);
    const bool is_k = head_of(tile) >= params_.heads;
    normalise_and_rotate(x, tile, block, is_k ? tile.group->norm_k : tile.group->norm_q, place);
    if constexpr (kHeads == QkvHeads::kRows) {
      store_panel(*reinterpret_cast<float (*)[32]>(x), 0, tile, block, place);
      store_panel(*reinterpret_cast<float (*)[32]>(x + 32), 1, tile, block, place);
    } else {
      store_packed_head(x, tile, block, is_k, place);
    }
  }

 private:
  static __device__ __forceinline__ int rank_of(const Tile& tile) { return tile.column / Config::kTileN % 2; }
  // Of q's heads, then k's.
  static __device__ __forceinline__ int head_of(const Tile& tile) {
    return 2 * tile.column_block + rank_of(tile);
  }
  static __device__ __forceinline__ int mlp_column(const GemmParams& params, const Tile& tile) {
    return tile.column - params.heads * Config::kClusterColumns;
  }
  // Of a math warp in the batch.
  static __device__ __forceinline__ int first_row(const Tile& tile, int block, const WarpPlace& place) {
    return tile.row + row_in_tile<Config>(place, block);
  }

  __device__ __forceinline__ void normalise_and_rotate(float (&x)[64], const Tile& tile, int block,
                                                       const float* norm, const WarpPlace& place) const {
    float inverse[2];
    root_mean_square(inverse, x);
    const float2* weights = reinterpret_cast<const float2*>(norm) + place.lane % 4;
#pragma unroll
    for (int side = 0; side < 2; ++side) {
      const int row =
          min(first_row(tile, block, place) + int(place.lane) / 4 + 8 * side, tile.group->rows - 1);
      const float2* angles =
          reinterpret_cast<const float2*>(tile.group->rope) + int64_t(row) * 64 + place.lane % 4;
#pragma unroll
      for (int j = 0; j < 16; ++j) {
        const float2 weight = __ldg(weights + 4 * j);
        const float2 angle = __ldg(angles + 4 * j);
        float* pair = x + 4 * j + 2 * side;
        const float left = pair[0] * (inverse[side] * weight.x);
        const float right = pair[1] * (inverse[side] * weight.y);
        pair[0] = left * angle.x - right * angle.y;
        pair[1] = right * angle.x + left * angle.y;
      }
    }
  }

  __device__ __forceinline__ void root_mean_square(float (&inverse)[2], const float (&x)[64]) const {
    float squares[2] = {0.0f, 0.0f};
#pragma unroll
    for (int i = 0; i < 64; ++i) squares[i / 2 % 2] = fmaf(x[i], x[i], squares[i / 2 % 2]);
#pragma unroll
    for (int side = 0; side < 2; ++side) {
      squares[side] += __shfl_xor_sync(0xffffffff, squares[side], 1);
      squares[side] += __shfl_xor_sync(0xffffffff, squares[side], 2);
      inverse[side] = ptx::rsqrt_approx(fmaf(squares[side], 1.0f / kHeadDim, params_.eps));
    }
  }

  // Panels 0 and 1 are the head's, 2 is of v.
  __device__ __forceinline__ void store_panel(const float (&values)[32], int panel, const Tile& tile,
                                              int block, const WarpPlace& place) const {
    const int column = panel < 2 ? head_of(tile) * kHeadDim + 64 * panel
                                 : (2 * params_.heads + tile.column_block) * kHeadDim + 64 * rank_of(tile);
    WarpPanels<Config>(shared_, place)
        .template store<__nv_bfloat16>(panel, values, &tile.group->c, column, first_row(tile, block, place),
                                       tile.batch);
  }

  __device__ __forceinline__ void store_mlp(const RowBlockSums<Config>& sums, const Tile& tile, int block,
                                            const RowScales& rows, const WarpPlace& place) const {
    const WarpPanels<Config> panels(shared_, place);
    const int column = mlp_column(params_, tile), row = first_row(tile, block, place);
    [[maybe_unused]] OutputScales output;
    if constexpr (sizeof(Output) == 1) output.load(tile, row, place.lane, rows, column == 0);
    panels.wait_free();
#pragma unroll
    for (int panel = 0; panel < Config::kPanels; ++panel) {
      float values[32];
      scale_and_add<Config>(values, sums, 8 * panel, rows, shared_, place);
      activate_all(values, params_.activation);
      if constexpr (sizeof(Output) == 1) output.apply(values);
      panels.template store<Output>(panel, values, &tile.group->mlp, column + 64 * panel, row, tile.batch);
    }
  }

  // Where a row block lies in the packed sequence: tokens `first` to `end`, none if there are none.
  struct PackedRows {
    int first, end;
    int64_t slice;
  };
  __device__ __forceinline__ PackedRows packed_rows(const Tile& tile, int block, int head,
                                                    const WarpPlace& place) const {
    const GroupParams& group = *tile.group;
    const int row = tile.row + (Config::kInTurn ? block : int(place.math_group)) * 64;
    return {group.first_token + row, group.first_token + group.rows,
            int64_t(tile.batch) * params_.heads + head};
  }

  __device__ __forceinline__ float4* key_blocks(const Tile& tile, const PackedRows& at) const {
    return reinterpret_cast<float4*>(tile.group->packed.key_blocks) +
           at.slice * (qkv::padded_tokens(tile.group->packed_tokens) / qkv::kTokenBlock);
  }

  __device__ __forceinline__ void store_packed_head(float (&x)[64], const Tile& tile, int block, bool is_k,
                                                    const WarpPlace& place) const {
    using Code = std::conditional_t<kHeads == QkvHeads::kInt8, int8_t, __nv_fp8_e4m3>;
    const GroupParams& group = *tile.group;
    const PackedRows at = packed_rows(tile, block, head_of(tile) - (is_k ? params_.heads : 0), place);
    if (at.first >= at.end) return;
    const int64_t codes = at.slice * qkv::scored_slice_bytes(group.packed_tokens);
    if (is_k) {
      qkv::store_key_tile<Code>(x, at.first, at.end, group.packed.key + codes, key_blocks(tile, at));
    } else {
      qkv::store_query_tile<Code>(x, at.first, at.end, group.packed.query + codes,
                                  reinterpret_cast<float2*>(group.packed.query_rows) +
                                      at.slice * qkv::padded_tokens(group.packed_tokens));
    }
  }

  __device__ __forceinline__ void store_packed_value(const float (&x)[32], const Tile& tile, int block,
                                                     const WarpPlace& place) {
    const GroupParams& group = *tile.group;
    const PackedRows at = packed_rows(tile, block, tile.column_block, place);
    if (at.first >= at.end) return;  // in both CTAs, which have the same rows
    const int token = at.first + int(place.warp) * 16 + int(place.lane) / 4;
    const bool present[2] = {token < at.end, token + 8 < at.end};
    const int exponent = qkv::value_exponent(exchange_maximum(qkv::value_maximum(x, present), tile, place));
    const float inverse = qkv::inverse_power(exponent);
    const int token_block = at.first / qkv::kTokenBlock + int(place.warp);
    if (place.lane == 0 && rank_of(tile) == 0) {
      qkv::store_value_exponent(key_blocks(tile, at) + token_block, exponent, inverse);
    }
    if (token_block >= qkv::token_blocks(at.end)) return;
    qkv::store_value_block(x, present, inverse, 64 * rank_of(tile),
                           group.packed.value + at.slice * qkv::value_slice_bytes(group.packed_tokens) +
                               size_t(token_block) * 2048);
  }

  // The largest of the eight warps' values that share a scale: this math group's here and in the other CTA. Each warp writes
  // its own into both CTAs' scratch and arrives at both exchange barriers. Two sets of slots in turn: a warp can be one
  // exchange ahead of another, not two.
  __device__ __forceinline__ float exchange_maximum(float mine, const Tile& tile, const WarpPlace& place) {
    const uint32_t scratch = vectors_of<Config>(shared_, place) + Config::kScratchAt + 32 * parity_;
    const uint32_t barrier = shared_ + Config::kExchangeAt + 8 * place.math_group;
    if (place.lane < 2) {
      const uint32_t slot = scratch + 4 * (4 * uint32_t(rank_of(tile)) + place.warp);
      ptx::st_shared_cluster_f32(ptx::mapa(slot, place.lane), mine);
      ptx::mbarrier_arrive_release_cluster(ptx::mapa(barrier, place.lane));
    }
    ptx::mbarrier_wait_acquire_cluster(barrier, parity_);
    parity_ ^= 1;
    const float4 a = ptx::ld_shared_v4_f32(scratch), b = ptx::ld_shared_v4_f32(scratch + 16);
    return fmaxf(fmaxf(fmaxf(a.x, a.y), fmaxf(a.z, a.w)), fmaxf(fmaxf(b.x, b.y), fmaxf(b.z, b.w)));
  }

  const GemmParams& params_;
  uint32_t shared_;
  uint32_t parity_ = 0;  // of the next exchange
};

}  // namespace flux::kernels::gemm
