// The main loop of one math warpgroup: its row blocks of a tile, over all of K.
//
// In turn, the ring holds one tile's k-blocks after another's, and a warpgroup may wait for its own stages only when the
// other one has seen all of the tile before, or it would take an older phase of a barrier for its own. It hands on at its
// last k-block, whose wgmmas are still in flight then, so the tensor cores never run dry.
#pragma once

#include "gemm/produce.cuh"
#include "ptx/barrier.cuh"
#include "ptx/wgmma.cuh"

namespace flux::kernels::gemm {

// Where a math warp is: it has 16 rows of each row block of its group. A thread's accumulators lie in rows `lane / 4` and
// `lane / 4 + 8` of them.
struct WarpPlace {
  uint32_t math_group;
  uint32_t warp;  // of the math group
  uint32_t lane;
};

// Computed anew at every call: registers are too few to keep it.
__device__ __forceinline__ WarpPlace warp_place() {
  uint32_t thread;
  asm volatile("mov.u32 %0, %%tid.x;" : "=r"(thread));
  return {thread / 128 - 1, thread / 32 % 4, thread % 32};
}

template <typename Config>
using RowBlockSums = float[Config::kTileN / 2];
template <typename Config>
using Accumulator = RowBlockSums<Config>[Config::kRowBlocks];

template <typename Config>
class MainLoop {
 public:
  // In turn, before the second warpgroup's first tile, and after each tile: the other warpgroup's tile lies between.
  __device__ __forceinline__ void begin() { ptx::bar_arrive(kTurnBarrier, 256); }
  __device__ __forceinline__ void skip(int stages) { ring_.skip(uint32_t(stages)); }

  // Multiplies all of K, then the low-rank branch. Waits on full[stage]; arrives on empty[stage] once the wgmmas that read
  // the stage are complete.
  //   row_blocks    of the accumulator that are wanted
  //   column_block  gives that of the tile
  //   hand_on       another tile of the CTA comes after this one
  //   meanwhile     called while the last k-block is multiplied
  template <typename Low, typename ColumnBlock, typename Meanwhile>
  __device__ __forceinline__ void run(Accumulator<Config>& accumulator, const GemmParams& params,
                                      int row_blocks, const ColumnBlock& column_block, uint32_t shared,
                                      bool hand_on, Meanwhile&& meanwhile) {
    const WarpPlace place = warp_place();
    // Lane r of every math warp releases stages in CTA r of the cluster.
    const bool releases = place.lane < Config::kCluster;
    const uint32_t empty = ptx::mapa(shared + Config::kEmptyAt, releases ? place.lane : 0);
    const uint32_t rows = Config::kInTurn ? 0 : place.math_group * 64 * Config::kBlockBytes;
    const auto release = [&](uint32_t stage) {
      if (releases) ptx::mbarrier_arrive_cluster(empty + 8 * stage);
    };
    if (Config::kInTurn) ptx::bar_sync(kTurnBarrier + place.math_group, 256);
    if constexpr (Config::kPromoteBlocks > 0) {
      sum_promoting(accumulator, params.k_blocks, shared, rows, release);
    } else {
      if (Config::kRowBlocks == 1 || row_blocks == Config::kRowBlocks) {
        sum<Config::kRowBlocks>(accumulator, params.k_blocks, shared, rows, release);
      } else {
        sum<1>(accumulator, params.k_blocks, shared, rows, release);
      }
    }
    if (Config::kPromoteBlocks == 0 && params.low_blocks > 0) {
      // Broadcast, so that the compiler sees that no lane parts from the others around a wgmma.
      const int stages = __shfl_sync(0xffffffff, low_stages<Low>(params, column_block()), 0);
      sum_low(accumulator, params, stages, shared, rows, release);
    }
    if (Config::kInTurn && hand_on) ptx::bar_arrive(kTurnBarrier + (place.math_group ^ 1), 256);
    meanwhile();
    ptx::wgmma_wait_group<0>();
    release(ring_.previous());
  }

 private:
  // Named barriers kTurnBarrier + g: the other warpgroup arrives at its last k-block, g waits before its first.
  static constexpr uint32_t kTurnBarrier = 1;

  // All k-blocks but for the wait for the last one. `rows`: where this warpgroup's rows of A begin in a stage.
  template <int kRows, typename Release>
  __device__ __forceinline__ void sum(Accumulator<Config>& accumulator, int k_blocks, uint32_t shared,
                                      uint32_t rows, const Release& release) {
#pragma unroll 1
    for (int block = 0; block < k_blocks; ++block) {
      multiply_stage<kRows>(accumulator, shared, rows, block > 0);
      if (block > 0) {
        ptx::wgmma_wait_group<1>();
        release(ring_.previous());
      }
      ring_.advance();
    }
  }

  template <typename Release>
  __device__ __forceinline__ void sum_promoting(Accumulator<Config>& accumulator, int k_blocks,
                                                uint32_t shared, uint32_t rows, const Release& release) {
    Accumulator<Config> part;
#pragma unroll
    for (int r = 0; r < Config::kRowBlocks; ++r) {
#pragma unroll
      for (int i = 0; i < Config::kTileN / 2; ++i) accumulator[r][i] = 0.0f;
    }
#pragma unroll 1
    for (int block = 0; block < k_blocks; ++block) {
      multiply_stage<Config::kRowBlocks>(part, shared, rows, block % Config::kPromoteBlocks > 0);
      ptx::wgmma_wait_group<0>();
      if (block > 0) release(ring_.previous());
      ring_.advance();
      if ((block + 1) % Config::kPromoteBlocks > 0 && block + 1 < k_blocks) continue;
#pragma unroll
      for (int r = 0; r < Config::kRowBlocks; ++r) {
#pragma unroll
        for (int i = 0; i < Config::kTileN / 2; ++i) accumulator[r][i] += part[r][i];
      }
    }
  }

  // The branch's stages, as `sum` has those of K, by all row blocks whatever is wanted.
  template <typename Release>
  __device__ __forceinline__ void sum_low(Accumulator<Config>& accumulator, const GemmParams& params,
                                          int stages, uint32_t shared, uint32_t rows,
                                          const Release& release) {
    int ranks = params.low_rank;
#pragma unroll 1
    for (; stages > 0; --stages) {
      ptx::mbarrier_wait(shared + Config::kFullAt + 8 * ring_.stage, ring_.parity);
      const uint32_t stage = shared + ring_.stage * Config::kStageBytes;
      multiply_low<Config>(accumulator, min(4, ranks / 16), stage + rows, stage + Config::kABytes);
      ptx::wgmma_wait_group<1>();
      release(ring_.previous());
      ring_.advance();
      ranks = ranks > 64 ? ranks - 64 : params.low_rank;
    }
  }

  // Waits for the stage and multiplies it, by the first kRows row blocks.
  template <int kRows>
  __device__ __forceinline__ void multiply_stage(Accumulator<Config>& accumulator, uint32_t shared,
                                                 uint32_t rows, bool accumulate) {
    ptx::mbarrier_wait(shared + Config::kFullAt + 8 * ring_.stage, ring_.parity);
    const uint32_t a = shared + rows + ring_.stage * Config::kStageBytes;
    const uint32_t b = shared + ring_.stage * Config::kStageBytes + Config::kABytes;
    // Descriptors differ in their low words alone, which no sum here overflows.
    constexpr uint64_t kHigh = ptx::wgmma_descriptor(0) >> 32 << 32;
    const uint32_t a_low = uint32_t(ptx::wgmma_descriptor(a)), b_low = uint32_t(ptx::wgmma_descriptor(b));
    ptx::wgmma_fence();
#pragma unroll
    for (int i = 0; i < 4; ++i) {
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        ptx::Wgmma<typename Config::Operand, Config::kTileN>::mma_async(
            accumulator[r], kHigh | (a_low + r * (64 * Config::kBlockBytes >> 4) + 2 * i),
            kHigh | (b_low + 2 * i), accumulate || i > 0);
      }
    }
    ptx::wgmma_commit_group();
  }

  RingPosition<Config::kStages> ring_;
};

}  // namespace flux::kernels::gemm
