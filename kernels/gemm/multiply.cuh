// The main loop of one math warpgroup: 64 rows × kTileN columns over all of K.
#pragma once

#include <utility>

#include "gemm/produce.cuh"
#include "ptx/barrier.cuh"
#include "ptx/wgmma.cuh"

namespace flux::kernels::gemm {

template <typename Config>
class MainLoop {
 public:
  __device__ __forceinline__ MainLoop(uint32_t shared, uint32_t math_group)
      : full_(shared + Config::kFullAt),
        math_group_(math_group),
        a_(uint32_t(ptx::wgmma_descriptor(shared + math_group * 64 * Config::kBlockBytes))),
        b_(uint32_t(ptx::wgmma_descriptor(shared + Config::kABytes))) {
    // Lane r of every math warp releases stages in CTA r of the cluster.
    const uint32_t lane = threadIdx.x % 32;
    releases_ = lane < Config::kCluster;
    empty_ = ptx::mapa(shared + Config::kEmptyAt, releases_ ? lane : 0);
  }

  // Multiplies all of K. Waits on full[stage]; arrives on empty[stage] once the wgmmas that read the stage are complete.
  //   between           called with std::integral_constant<int, 0> … <kCalls − 1>, one every kDeferBlocks k-blocks
  //   before_last_wait  called while the last k-blocks are still being multiplied
  template <int kCalls, typename Between, typename BeforeLastWait>
  __device__ __forceinline__ void run(float (&accumulator)[Config::kTileN / 2], int k_blocks,
                                      Between&& between, BeforeLastWait&& before_last_wait) {
    staggered_ = k_blocks >= 2 * Config::kStages;
    if (staggered_ && math_group_ > 0) ptx::bar_sync(kLagBarrier + math_group_ - 1, 256);
    int block = 0;
    if (k_blocks >= kCalls * Config::kDeferBlocks) {
      unrolled(accumulator, between, std::make_integer_sequence<int, kCalls>());
      block = kCalls * Config::kDeferBlocks;
    } else {
      call_all(between, std::make_integer_sequence<int, kCalls>());
    }
#pragma unroll 1
    for (; block < k_blocks; ++block) step(accumulator, block);
    before_last_wait();
    ptx::wgmma_wait_group<0>();
    release(previous_);
  }

  // For stages that hold an epilogue's boxes: wait for the next one, and give it back.
  __device__ __forceinline__ uint32_t wait_stage() {
    ptx::mbarrier_wait(full_ + 8 * ring_.stage, ring_.parity);
    return ring_.stage;
  }
  __device__ __forceinline__ void release_stage() {
    __syncwarp();
    release(ring_.stage);
    ring_.advance();
  }

 private:
  // Named barriers kLagBarrier + g: warpgroup g arrives after its k-block kLag of a tile, g + 1 waits before its first.
  static constexpr uint32_t kLagBarrier = 1;

  template <typename Between, int... kCall>
  __device__ __forceinline__ void unrolled(float (&accumulator)[Config::kTileN / 2], Between& between,
                                           std::integer_sequence<int, kCall...>) {
    const auto blocks = [&](auto call) {
      constexpr int kFirst = decltype(call)::value * Config::kDeferBlocks;
#pragma unroll
      for (int i = 0; i < Config::kDeferBlocks; ++i) step(accumulator, kFirst + i);
      between(call);
    };
    (blocks(std::integral_constant<int, kCall>()), ...);
  }

  template <typename Between, int... kCall>
  __device__ __forceinline__ void call_all(Between& between, std::integer_sequence<int, kCall...>) {
    (between(std::integral_constant<int, kCall>()), ...);
  }

  __device__ __forceinline__ void step(float (&accumulator)[Config::kTileN / 2], int block) {
    ptx::mbarrier_wait(full_ + 8 * ring_.stage, ring_.parity);
    multiply_stage(accumulator, block);
    if (block == Config::kLag && staggered_ && math_group_ + 1 < Config::kMathGroups) {
      ptx::bar_arrive(kLagBarrier + math_group_, 256);
    }
    if (block > 0) {
      ptx::wgmma_wait_group<1>();
      release(previous_);
    }
    previous_ = ring_.stage;
    ring_.advance();
  }

  __device__ __forceinline__ void multiply_stage(float (&accumulator)[Config::kTileN / 2], int block) {
    // Descriptors differ in their low words alone, which no sum here overflows.
    constexpr uint64_t kHigh = ptx::wgmma_descriptor(0) >> 32 << 32;
    const uint32_t a = a_ + ring_.stage * (Config::kStageBytes >> 4);
    const uint32_t b = b_ + ring_.stage * (Config::kStageBytes >> 4);
    ptx::wgmma_fence();
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      ptx::Wgmma<typename Config::Operand, Config::kTileN>::mma_async(
          accumulator, kHigh | (a + 2 * i), kHigh | (b + 2 * i), block > 0 || i > 0);
    }
    ptx::wgmma_commit_group();
  }

  __device__ __forceinline__ void release(uint32_t stage) {
    if (releases_) ptx::mbarrier_arrive_cluster(empty_ + 8 * stage);
  }

  RingPosition<Config::kStages> ring_;
  uint32_t previous_ = 0;  // the stage before ring_'s
  bool staggered_ = false;
  uint32_t full_;
  uint32_t empty_;
  uint32_t math_group_;
  bool releases_;
  uint32_t a_, b_;  // low words of the first stage's descriptors
};

}  // namespace flux::kernels::gemm
