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

#include "gemm/activation.cuh"
#include "gemm/epilogue.cuh"
#include "gemm/int8_heads.cuh"

namespace flux::kernels::gemm {

template <typename Config, QkvHeads kHeads, typename Output_>
class QkvEpilogue {
 public:
  using Output = Output_;
  using Low = HeadsLow<QkvEpilogue>;
  static constexpr bool kScattered = true, kWholeTile = kHeads != QkvHeads::kRows;
  static constexpr int kHeadDim = 128;
  static_assert(Config::kInTurn && Config::kSharesA, "the CTAs of a cluster hold halves of v's heads");
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

  static_assert(HeadVectors::kBytes == Config::kHeadVectorBytes);
  // By a warp alone: nobody else reads what it keeps.
  __device__ __forceinline__ void prefetch(const Tile& tile) const {
    if constexpr (kHeads == QkvHeads::kInt8) {
      if (tile.column_block >= params_.heads) return;
      const bool is_k = is_key(params_, tile);
      head_vectors(warp_place())
          .load(is_k ? tile.group->norm_k : tile.group->norm_q, is_k ? key_offset(tile) : nullptr);
    }
  }

  // bf16 rows: a row block at a time.
  __device__ __forceinline__ void finish(const RowBlockSums<Config>& sums, const Tile& tile,
                                         int block) const {
    const WarpPlace place = warp_place();
    if (tile.column_block >= params_.heads) {
      store_mlp(sums, tile, block, row_scales<Config>(shared_, place, block), place);
    } else {
      store_row_block(sums, tile, block, place);
    }
  }

  // 8-bit attention's layout, all of a tile: what one row block waits for is the other one's time.
  __device__ __forceinline__ void finish(Accumulator<Config>& sums, const Tile& tile) {
    const WarpPlace place = warp_place();
    if (tile.column_block < params_.heads) {
      scale_and_add_in_place<Config>(sums, shared_, place);
      store_packed(sums, kept_tile<Config>(params_, shared_),
                   place);  // scaling left no registers to keep it in
      return;
    }
#pragma unroll 1
    for (int block = 0; block < tile.row_blocks; ++block) {
      store_mlp(sums[0], tile, block, row_scales<Config>(shared_, place, block), place);
      move_up<Config>(sums);
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

  static __device__ __forceinline__ bool is_key(const GemmParams& params, const Tile& tile) {
    return head_of(tile) >= params.heads;
  }

  __device__ __forceinline__ void store_row_block(const RowBlockSums<Config>& sums, const Tile& tile,
                                                  int block, const WarpPlace& place) const {
    const RowScales rows = row_scales<Config>(shared_, place, block);
    // Half of v first: a third of the accumulators is free then.
    float v[32];
    scale_and_add<Config>(v, sums, 16, rows, shared_, place);
    WarpPanels<Config>(shared_, place).wait_free();
    store_panel(v, 2, tile, block, place);
    float all[1][64], squares[1][2];
    float (&x)[64] = all[0];
    scale_and_add<Config>(x, sums, 0, rows, shared_, place);
    sum_squares(squares, all);
    normalise_and_rotate(x, squares[0], tile, block, place);
    store_panel(*reinterpret_cast<float (*)[32]>(x), 0, tile, block, place);
    store_panel(*reinterpret_cast<float (*)[32]>(x + 32), 1, tile, block, place);
  }

  __device__ __forceinline__ void normalise_and_rotate(float (&x)[64], const float (&squares)[2],
                                                       const Tile& tile, int block,
                                                       const WarpPlace& place) const {
    const GroupParams& group = *tile.group;
    const float* norm = is_key(params_, tile) ? group.norm_k : group.norm_q;
    const float2* weights = reinterpret_cast<const float2*>(norm) + place.lane % 4;
    float inverse[2];
#pragma unroll
    for (int side = 0; side < 2; ++side)
      inverse[side] = ptx::rsqrt_approx(fmaf(squares[side], 1.0f / kHeadDim, params_.eps));
    const uint4* rope =
        qkv::rope_block(group.rope_pairs, first_row(tile, block, place), group.rows) + place.lane;
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      const qkv::RopeVector of = qkv::rope_vector(__ldg(rope + 32 * j));
#pragma unroll
      for (int b = 0; b < 2; ++b) {
        const int i = 2 * j + b;
        normalise_and_turn(x + 4 * i, inverse, __ldg(weights + 4 * i), __half22float2(of.cosine[b]),
                           __half22float2(of.sine[b]));
      }
    }
  }

  // RMSNorm and RoPE of a pair of channels in a lane's two rows; cosine and sine have a row each in x and y.
  static __device__ __forceinline__ void normalise_and_turn(float* pair, const float (&inverse)[2],
                                                            float2 weight, float2 cosine, float2 sine) {
#pragma unroll
    for (int side = 0; side < 2; ++side) {
      const float c = side == 0 ? cosine.x : cosine.y, s = side == 0 ? sine.x : sine.y;
      const float left = pair[2 * side] * (inverse[side] * weight.x);
      const float right = pair[2 * side + 1] * (inverse[side] * weight.y);
      pair[2 * side] = left * c - right * s;
      pair[2 * side + 1] = right * c + left * s;
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
    OutputScales output;
    if constexpr (sizeof(Output) == 1) output.load(tile, row, place.lane, rows, column == 0);
    panels.wait_free();
#pragma unroll
    for (int panel = 0; panel < Config::kPanels; ++panel) {
      float values[32];
      scale_and_add<Config>(values, sums, 8 * panel, rows, shared_, place);
      activate_all(values, params_.activation, output.inverse);
      panels.template store<Output>(panel, values, &tile.group->mlp, column + 64 * panel, row, tile.batch);
    }
  }

  // Where a warp's 16 rows of a row block lie in the packed sequence: tokens `first` to `end`, none if there are none.
  struct PackedRows {
    int first, end;
    int64_t slice;
    bool present[2];   // a lane's two tokens
    bool in_sequence;  // any of the row block, whose scales the layout has then
  };
  __device__ __forceinline__ PackedRows packed_rows(const Tile& tile, int block, int head,
                                                    const WarpPlace& place) const {
    const GroupParams& group = *tile.group;
    const int first = group.first_token + first_row(tile, block, place);
    const int end = group.first_token + min(group.rows, tile.row + 64 * tile.row_blocks);
    const int token = first + int(place.lane) / 4;
    return {first,
            end,
            int64_t(tile.batch) * params_.heads + head,
            {token < end, token + 8 < end},
            first - 16 * int(place.warp) < end};
  }

  __device__ __forceinline__ HeadVectors head_vectors(const WarpPlace& place) const {
    const uint32_t warp = 4 * place.math_group + place.warp;
    return {shared_ + Config::kHeadVectorsAt + warp * HeadVectors::kBytes, place.lane};
  }

  // Of a head of k, or null.
  __device__ __forceinline__ const float* key_offset(const Tile& tile) const {
    const float* offsets = tile.group->key_offset;
    const int64_t slice = int64_t(tile.batch) * params_.heads + head_of(tile) - params_.heads;
    return offsets == nullptr ? nullptr : offsets + slice * kHeadDim;
  }

  __device__ __forceinline__ float4* key_block(const Tile& tile, const PackedRows& at) const {
    return reinterpret_cast<float4*>(tile.group->packed.key_blocks) +
           at.slice * (qkv::padded_tokens(tile.group->packed_tokens) / qkv::kTokenBlock) +
           at.first / qkv::kTokenBlock;
  }

  // A whole tile into 8-bit attention's layout. v's largest values are on their way to the other CTA meanwhile.
  __device__ __forceinline__ void store_packed(Accumulator<Config>& x, const Tile& tile,
                                               const WarpPlace& place) {
    send_maxima(x, tile, place);
    float squares[Config::kRowBlocks][2];
    sum_squares(squares, x);
    store_packed_values(x, kept_tile<Config>(params_, shared_), place);  // read anew: registers, again
    if constexpr (kHeads == QkvHeads::kInt8) {
      store_int8_heads(x, squares, place);
    } else {
#pragma unroll
      for (int block = 0; block < Config::kRowBlocks; ++block)
        store_e4m3_head(x[block], squares[block], tile, block, place);
    }
  }

  // Of each of a lane's rows, over the head's 128 columns.
  template <int kBlocks, int kValues>
  static __device__ __forceinline__ void sum_squares(float (&squares)[kBlocks][2],
                                                     const float (&x)[kBlocks][kValues]) {
#pragma unroll
    for (int block = 0; block < kBlocks; ++block) {
      squares[block][0] = squares[block][1] = 0.0f;
#pragma unroll
      for (int i = 0; i < 64; ++i)
        squares[block][i / 2 % 2] = fmaf(x[block][i], x[block][i], squares[block][i / 2 % 2]);
    }
#pragma unroll
    for (int offset = 1; offset <= 2; offset *= 2) {
#pragma unroll
      for (int i = 0; i < 2 * kBlocks; ++i)
        squares[i / 2][i % 2] += __shfl_xor_sync(0xffffffff, squares[i / 2][i % 2], offset);
    }
  }

  __device__ __forceinline__ void store_int8_heads(const Accumulator<Config>& x,
                                                   const float (&squares)[Config::kRowBlocks][2],
                                                   const WarpPlace& place) const {
    const HeadVectors vectors = head_vectors(place);
    qkv::HeadPairs h[Config::kRowBlocks];
    normalise_in_pairs(h, x, squares, vectors, params_.eps);
    const Tile tile = kept_tile<Config>(params_, shared_);  // now that registers are free
    const GroupParams& group = *tile.group;
    const bool is_k = is_key(params_, tile);
#pragma unroll
    for (int block = 0; block < Config::kRowBlocks; ++block)
      turn(h[block], qkv::rope_block(group.rope_pairs, first_row(tile, block, place), group.rows), place.lane,
           vectors);
    const float unit = vectors.unit();
    qkv::PairMeasure measure[Config::kRowBlocks];
    qkv::rotate_and_measure(h, measure);
#pragma unroll
    for (int block = 0; block < Config::kRowBlocks; ++block) {
      const PackedRows at = packed_rows(tile, block, head_of(tile) - (is_k ? params_.heads : 0), place);
      const int token = at.first + int(place.lane) / 4;
      __half2 inverse;
      if (is_k) {
        inverse =
            qkv::store_key_scales(measure[block], unit, at.present, key_block(tile, at), at.in_sequence);
      } else {
        float2* rows = reinterpret_cast<float2*>(group.packed.query_rows) +
                       at.slice * qkv::padded_tokens(group.packed_tokens);
        inverse = qkv::store_query_scales(measure[block], unit, at.present, rows + token);
      }
      uint8_t* codes = (is_k ? group.packed.key : group.packed.query) +
                       at.slice * qkv::scored_slice_bytes(group.packed_tokens);
      qkv::store_rows(h[block], inverse, codes + size_t(token) * kHeadDim, at.present);
    }
  }

  __device__ __forceinline__ void store_e4m3_head(RowBlockSums<Config>& sums, const float (&squares)[2],
                                                  const Tile& tile, int block, const WarpPlace& place) const {
    const GroupParams& group = *tile.group;
    float (&x)[64] = *reinterpret_cast<float (*)[64]>(sums);
    normalise_and_rotate(x, squares, tile, block, place);
    const bool is_k = is_key(params_, tile);
    const PackedRows at = packed_rows(tile, block, head_of(tile) - (is_k ? params_.heads : 0), place);
    if (!at.in_sequence) return;
    const int first = at.first - 16 * int(place.warp);
    const int64_t codes = at.slice * qkv::scored_slice_bytes(group.packed_tokens);
    if (is_k) {
      if (const float* offset = key_offset(tile)) qkv::subtract_offset(x, offset);
      qkv::store_key_tile<__nv_fp8_e4m3>(x, first, at.end, group.packed.key + codes,
                                         key_block(tile, at) - at.first / qkv::kTokenBlock);
    } else {
      qkv::store_query_tile<__nv_fp8_e4m3>(x, first, at.end, group.packed.query + codes,
                                           reinterpret_cast<float2*>(group.packed.query_rows) +
                                               at.slice * qkv::padded_tokens(group.packed_tokens));
    }
  }

  // v's scales are those of 64 tokens × 128 channels: this math group's warps here and in the other CTA. Each warp stores the
  // largest values of its row blocks into both CTAs' scratch, which counts at their barriers. Two sets of slots and barriers
  // in turn: a warp can be one exchange ahead of another, not two.
  __device__ __forceinline__ void send_maxima(const Accumulator<Config>& x, const Tile& tile,
                                              const WarpPlace& place) const {
    static_assert(Config::kRowBlocks == 2);
    const Exchange exchange = current_exchange(place);
    float maximum[2];
#pragma unroll
    for (int block = 0; block < 2; ++block) {
      maximum[block] = qkv::value_maximum(values_of(x[block]), packed_rows(tile, block, 0, place).present);
    }
    if (place.warp == 0 && place.lane == 0) ptx::mbarrier_arrive_expect_tx(exchange.barrier, 64);
    if (place.lane < 2) {
      const uint32_t slot = exchange.slots + 8 * (4 * uint32_t(rank_of(tile)) + place.warp);
      ptx::st_async_v2_f32(ptx::mapa(slot, place.lane), maximum[0], maximum[1],
                           ptx::mapa(exchange.barrier, place.lane));
    }
  }

  __device__ __forceinline__ void store_packed_values(const Accumulator<Config>& x, const Tile& tile,
                                                      const WarpPlace& place) {
    const Exchange exchange = current_exchange(place);
    ptx::mbarrier_wait(exchange.barrier, exchange_ / 2);
    exchange_ = (exchange_ + 1) % 4;
    float maximum[2] = {0.0f, 0.0f};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float4 two = ptx::ld_shared_v4_f32(exchange.slots + 16 * i);
      maximum[0] = fmaxf(maximum[0], fmaxf(two.x, two.z));
      maximum[1] = fmaxf(maximum[1], fmaxf(two.y, two.w));
    }
    const GroupParams& group = *tile.group;
#pragma unroll
    for (int block = 0; block < 2; ++block) {
      const PackedRows at = packed_rows(tile, block, tile.column_block, place);
      const int exponent = qkv::value_exponent(maximum[block]);
      const float inverse = qkv::inverse_power(exponent);
      if (!at.in_sequence) return;
      if (place.lane == 0 && rank_of(tile) == 0)
        qkv::store_value_exponent(key_block(tile, at), exponent, inverse);
      if (at.first >= at.end) continue;
      qkv::store_value_block(values_of(x[block]), at.present, inverse, 64 * rank_of(tile),
                             group.packed.value + at.slice * qkv::value_slice_bytes(group.packed_tokens) +
                                 size_t(at.first / qkv::kTokenBlock) * 2048);
    }
  }

  static __device__ __forceinline__ const float (&values_of(const RowBlockSums<Config>& sums))[32] {
    return *reinterpret_cast<const float (*)[32]>(sums + 64);
  }

  struct Exchange {
    uint32_t slots, barrier;
  };
  __device__ __forceinline__ Exchange current_exchange(const WarpPlace& place) const {
    const uint32_t set = exchange_ % 2;
    return {vectors_of<Config>(shared_, place) + Config::kScratchAt + 64 * set,
            shared_ + Config::kExchangeAt + 16 * place.math_group + 8 * set};
  }

  const GemmParams& params_;
  uint32_t shared_;
  uint32_t exchange_ = 0;  // the next one, of four: the barrier's parity and its index
};

}  // namespace flux::kernels::gemm
