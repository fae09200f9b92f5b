// The producer: one thread keeps the ring of stages full.
#pragma once

#include "gemm/low_rank.cuh"
#include "launch.cuh"
#include "ptx/mbarrier.cuh"
#include "ptx/shared.cuh"
#include "ptx/tma.cuh"

namespace flux::kernels::gemm {

// Position in the ring of stages: all roles walk it in the same order.
template <int kStages>
struct RingPosition {
  uint32_t stage = 0;
  uint32_t parity = 0;

  // The stage before.
  __device__ __forceinline__ uint32_t previous() const { return stage == 0 ? kStages - 1 : stage - 1; }

  __device__ __forceinline__ void advance() {
    if (++stage == kStages) {
      stage = 0;
      parity ^= 1;
    }
  }
  __device__ __forceinline__ void skip(uint32_t blocks) {
    stage += blocks % kStages;
    parity ^= blocks / kStages % 2;
    if (stage >= kStages) {
      stage -= kStages;
      parity ^= 1;
    }
  }
};

// The two operands of a stage, and where along their rows it lies.
struct StageSource {
  const CUtensorMap* a;
  const CUtensorMap* w;
  int a_k, w_k;
};

// This CTA's part of a stage. `scattered`: the tile's columns are not consecutive rows of W.
template <typename Config, bool kScattered>
__device__ __forceinline__ void load_stage(const Tile& tile, const ColumnRuns& runs, uint32_t stage,
                                           uint32_t full, const StageSource& from) {
  const uint32_t rank = cluster_rank<Config>();
  constexpr uint16_t kBoth = 3;
  const uint32_t w = stage + Config::kABytes;
  if constexpr (Config::kSharesA) {
    const int share = int(rank) * Config::kLoadRowsA;
    ptx::cp_async_bulk_tensor_3d_multicast(stage + share * Config::kBlockBytes, from.a, full, from.a_k,
                                           tile.row + share, tile.batch, kBoth);
  } else {
    ptx::cp_async_bulk_tensor_3d_load(stage, from.a, full, from.a_k, tile.row, tile.batch);
  }
  if constexpr (Config::kSharesW) {
    static_assert(!kScattered);
    const int share = int(rank) * Config::kLoadRowsW;
    ptx::cp_async_bulk_tensor_2d_multicast(w + share * Config::kBlockBytes, from.w, full, from.w_k,
                                           tile.column + share, kBoth);
  } else if constexpr (kScattered) {
#pragma unroll
    for (int run = 0; run < 3; ++run) {
      ptx::cp_async_bulk_tensor_2d_load(w + run * 64 * Config::kBlockBytes, from.w, full, from.w_k,
                                        runs.first[run]);
    }
  } else {
    ptx::cp_async_bulk_tensor_2d_load(w, from.w, full, from.w_k, tile.column);
  }
}

// Waits on empty[stage] (arrivals of every CTA in the cluster: a multicast lands in all of them) and completes full[stage]
// with a stage's bytes, of which the cluster's other CTA sends some.
template <typename Config, typename Epilogue>
__device__ __forceinline__ void produce_stages(const GemmParams& params, uint32_t shared, int first,
                                               int step) {
  using Low = typename Epilogue::Low;
  RingPosition<Config::kStages> ring;
  for (int index = first; index < params.tiles; index += step) {
    const Tile tile = tile_at<Config>(params, index);
    const auto load = [&](const StageSource& from, const ColumnRuns& runs) {
      const uint32_t full = shared + Config::kFullAt + 8 * ring.stage;
      ptx::mbarrier_wait(shared + Config::kEmptyAt + 8 * ring.stage, ring.parity ^ 1);
      ptx::mbarrier_arrive_expect_tx(full, Config::kStageBytes);
      load_stage<Config, Epilogue::kScattered>(tile, runs, shared + ring.stage * Config::kStageBytes, full,
                                               from);
      ring.advance();
    };
    const ColumnRuns runs = Epilogue::columns(params, tile);
    for (int block = 0; block < params.k_blocks; ++block) {
      const int k = block * Config::kBlockElements;
      load({&tile.group->a, &tile.group->w, k, k}, runs);
    }
    if (params.low_blocks == 0) continue;
    // By this thread alone: whatever the tile stores comes after the sums that these stages end.
    wait_for_predecessors();
    const int visits = Low::visits(params, tile.column_block);
#pragma unroll 1
    for (int i = 0; i < visits; ++i) {
#pragma unroll 1
      for (int rank = 0; rank < params.low_rank; rank += 64) {
        const LowVisit low = Low::visit(params, tile, i);  // anew each time: registers are too few to keep it
        load({&tile.group->low, &tile.group->up, low.part * params.low_rank + rank, rank}, low.runs);
      }
    }
  }
}

}  // namespace flux::kernels::gemm
