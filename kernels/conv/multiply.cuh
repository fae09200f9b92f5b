// The main loop of one math warpgroup over all taps and input channels: kBlocks blocks of 8 × 8 pixels × kTileN channels, or, where
// channels are rows, 64 channels × 8 × 32 pixels.
#pragma once

#include <utility>

#include "conv/produce.cuh"
#include "ptx/barrier.cuh"
#include "ptx/wgmma.cuh"

namespace flux::kernels::conv {

template <typename Config>
class MainLoop {
 public:
  static constexpr int kAccumulators = Config::kChannelRows ? 1 : Config::kBlocks;
  using Accumulator = float[kAccumulators][Config::kChannelRows ? 128 : Config::kTileN / 2];

  __device__ __forceinline__ MainLoop(const ConvParams& params, uint32_t shared, uint32_t math_group)
      : params_(params),
        shared_(shared),
        math_group_(math_group),
        halos_(uint32_t(ptx::wgmma_descriptor(
            shared + (Config::kChannelRows ? 0 : math_group * 8 * Config::kPixelBytes)))),
        weights_(uint32_t(ptx::wgmma_descriptor(shared + Config::kStagesAt +
                                                (Config::kChannelRows ? math_group * 64 * 128 : 0)))) {
    // Lane r of every math warp releases stages in CTA r of the cluster.
    const uint32_t lane = threadIdx.x % 32;
    releases_ = lane < Config::kCluster;
    empty_ = ptx::mapa(shared + Config::kEmptyAt, releases_ ? lane : 0);
  }

  // Sums one tile. Waits on halo_ready (halo_full) and full; arrives on empty and halo_empty once the wgmmas that read are
  // complete.
  //   between  called with std::integral_constant<int, 0> … <kCalls − 1>, one every kDeferBlocks k-blocks
  template <int kCalls, typename Between>
  __device__ __forceinline__ void run(Accumulator& sums, Between&& between) {
    first_tap_ = tap_ = chunk_ = segment_ = 0;
    taps_ = params_.segments[0].taps;
    const int k_blocks = params_.k_blocks;
    staggered_ = k_blocks >= 2 * Config::kStages;
    if (staggered_ && math_group_ > 0) ptx::bar_sync(kLagBarrier, 256);
    int block = 0;
    if (k_blocks >= kCalls * Config::kDeferBlocks) {
      unrolled(sums, between, std::make_integer_sequence<int, kCalls>());
      block = kCalls * Config::kDeferBlocks;
    } else {
      call_all(between, std::make_integer_sequence<int, kCalls>());
    }
#pragma unroll 1
    for (; block < k_blocks; ++block) step(sums, block);
    ptx::wgmma_wait_group<0>();
    release_previous();
  }

  // For stages that hold the residual's boxes: wait for the next one, and give it back.
  __device__ __forceinline__ uint32_t wait_stage() {
    ptx::mbarrier_wait(shared_ + Config::kFullAt + 8 * ring_.stage, ring_.parity);
    return ring_.stage;
  }
  __device__ __forceinline__ void release_stage() {
    __syncwarp();
    release(ring_.stage);
    ring_.advance();
  }

 private:
  static constexpr uint32_t kLagBarrier =
      1;  // group 0 arrives after its k-block kLag, group 1 waits before its first

  template <typename Between, int... kCall>
  __device__ __forceinline__ void unrolled(Accumulator& sums, Between& between,
                                           std::integer_sequence<int, kCall...>) {
    const auto blocks = [&](auto call) {
      constexpr int kFirst = decltype(call)::value * Config::kDeferBlocks;
#pragma unroll
      for (int i = 0; i < Config::kDeferBlocks; ++i) step(sums, kFirst + i);
      between(call);
    };
    (blocks(std::integral_constant<int, kCall>()), ...);
  }

  template <typename Between, int... kCall>
  __device__ __forceinline__ void call_all(Between& between, std::integer_sequence<int, kCall...>) {
    (between(std::integral_constant<int, kCall>()), ...);
  }

  __device__ __forceinline__ void step(Accumulator& sums, int block) {
    if (tap_ == 0) {
      const int ready = Config::kNormalises ? Config::kHaloReadyAt : Config::kHaloFullAt;
      ptx::mbarrier_wait(shared_ + ready + 8 * halo_.stage, halo_.parity);
    }
    ptx::mbarrier_wait(shared_ + Config::kFullAt + 8 * ring_.stage, ring_.parity);
    multiply(sums, block > 0);
    if (block == Config::kLag && staggered_ && math_group_ == 0) ptx::bar_arrive(kLagBarrier, 256);
    if (block > 0) {
      ptx::wgmma_wait_group<1>();
      release_previous();
    }
    previous_ = ring_.stage;
    ring_.advance();
    finished_halo_ = -1;
    if (++tap_ == taps_) {
      finished_halo_ = int(halo_.stage);
      halo_.advance();
      next_chunk();
    }
  }

  __device__ __forceinline__ void next_chunk() {
    tap_ = 0;
    if constexpr (Config::kNormalises) return;  // stride 1: a single segment
    if (++chunk_ < params_.chunks || segment_ + 1 >= params_.segment_count) return;
    chunk_ = 0;
    first_tap_ += taps_;
    taps_ = params_.segments[++segment_].taps;
  }

  __device__ __forceinline__ void multiply(Accumulator& sums, bool accumulates) {
    // Descriptors differ in their low words alone, which no sum here overflows; groups of 8 pixels are a halo row apart.
    constexpr uint64_t kHighW = ptx::wgmma_descriptor(0) >> 32 << 32;
    constexpr uint64_t kHighX = uint64_t{1} << 62 | uint64_t{Config::kHaloWidth * Config::kPixelBytes >> 4}
                                                        << 32;
    constexpr uint32_t kBlockStep = 8 * Config::kHaloWidth * Config::kPixelBytes >> 4;
    const uint32_t x =
        halos_ + halo_.stage * (Config::kHaloBytes >> 4) + params_.taps[first_tap_ + tap_].halo;
    const uint32_t w = weights_ + ring_.stage * (Config::kStageBytes >> 4);
    ptx::wgmma_fence();
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if constexpr (Config::kChannelRows) {
        ptx::Wgmma<__nv_bfloat16, 256>::mma_async(sums[0], kHighW | (w + 2 * i), kHighX | (x + 2 * i),
                                                  accumulates || i > 0);
      } else {
#pragma unroll
        for (int b = 0; b < Config::kBlocks; ++b) {
          ptx::Wgmma<__nv_bfloat16, Config::kTileN>::mma_async(sums[b], kHighX | (x + b * kBlockStep + 2 * i),
                                                               kHighW | (w + 2 * i), accumulates || i > 0);
        }
      }
    }
    ptx::wgmma_commit_group();
  }

  // What the k-block before this one read.
  __device__ __forceinline__ void release_previous() {
    release(previous_);
    if (finished_halo_ >= 0 && threadIdx.x % 32 == 0) {
      ptx::mbarrier_arrive(shared_ + Config::kHaloEmptyAt + 8 * finished_halo_);
    }
  }

  __device__ __forceinline__ void release(uint32_t stage) {
    if (releases_) ptx::mbarrier_arrive_cluster(empty_ + 8 * stage);
  }

  const ConvParams& params_;
  RingPosition<Config::kStages> ring_;
  RingPosition<Config::kHalos> halo_;
  uint32_t previous_ = 0;   // the stage before ring_'s
  int finished_halo_ = -1;  // the halo whose last tap was in it, or -1
  int first_tap_ = 0, tap_ = 0, taps_ = 0, chunk_ = 0, segment_ = 0;
  bool staggered_ = false;
  uint32_t shared_;
  uint32_t empty_;
  uint32_t math_group_;
  bool releases_;
  uint32_t halos_, weights_;  // low words of the first descriptors
};

}  // namespace flux::kernels::conv
