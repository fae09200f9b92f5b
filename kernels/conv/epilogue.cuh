// From sums to pixels: bias, residual, GroupNorm's sums of the result, and the way out through panels.
//
// A panel is 16 pixels (two rows of 8) × 64 channels, one math warp's part of a block; gemm/panels.cuh says how it lies in shared
// memory. Panels of a tile wait for the next tile's main loop, the first two in shared memory and the others in registers.
#pragma once

#include "conv/multiply.cuh"
#include "gemm/panels.cuh"
#include "norm/norm.h"
#include "vector.cuh"

namespace flux::kernels::conv {

// A math warp's 16 pixels of a block: rows 2·warp and 2·warp + 1, columns 8·math_group on. A thread's sums belong to the pixels
// of column lane / 4 in both rows, channels 8·j + 2·(lane % 4) and the next.
struct WarpPlace {
  uint32_t shared;
  uint32_t math_group;
  uint32_t warp;  // of the math group
  uint32_t lane;

  __device__ __forceinline__ int row(const Tile& tile, int block) const {
    return tile.y + 8 * block + 2 * int(warp);
  }
  __device__ __forceinline__ int column(const Tile& tile) const { return tile.x + 8 * int(math_group); }
  __device__ __forceinline__ uint32_t index() const { return math_group * 4 + warp; }
};

inline constexpr uint32_t kMathBarrier = 2;  // of all math warps of a CTA

// Sums of the results and of their squares over all pixels of the tiles that a CTA computes of one image, kept by each math warp
// in shared memory: of a panel's 64 channels lane l has the pair (2l, 2l + 1). f32 without a pivot: bf16 itself loses a channel
// whose mean is 300 deviations.
template <typename Config>
class RunningSums {
 public:
  __device__ __forceinline__ explicit RunningSums(const WarpPlace& place)
      : own_(place.shared + Config::kSumsAt + (place.index() * kPairs + place.lane) * 8) {
    clear();
  }

  // sum, square: of a thread's pixels, for the pairs of eight 8-channel blocks.
  __device__ __forceinline__ void add(int column_panel, float (&sum)[8], float (&square)[8], uint32_t lane) {
    // Lanes of one lane % 4 exchange halves until each has the block of number lane / 4.
#pragma unroll
    for (int count = 4; count > 0; count /= 2) {
      const bool upper = lane & (4 * count);
#pragma unroll
      for (int i = 0; i < count; ++i) {
        const float kept_sum = upper ? sum[i + count] : sum[i];
        const float kept_square = upper ? square[i + count] : square[i];
        sum[i] = kept_sum + __shfl_xor_sync(0xffffffff, upper ? sum[i] : sum[i + count], 4 * count);
        square[i] =
            kept_square + __shfl_xor_sync(0xffffffff, upper ? square[i] : square[i + count], 4 * count);
      }
    }
    const uint32_t at = own_ + column_panel * 256;
    const float2 before = ptx::ld_shared_v2_f32(at);
    ptx::st_shared_v2_f32(at, before.x + sum[0], before.y + square[0]);
  }

  // Adds the math warps' sums up, in one order, and stores them as a part. All math threads call it.
  __device__ __forceinline__ void store(const ConvParams& params, const Tile& tile, int part,
                                        const WarpPlace& place) {
    ptx::bar_sync(kMathBarrier, 32 * Config::kMathWarps);
    const int pair = int(place.index() * 32 + place.lane), pairs_wide = params.out_channels / 2;
    if (pair < kPairs && tile.column / 2 + pair < pairs_wide) {
      float2 total = make_float2(0.0f, 0.0f);
#pragma unroll
      for (int warp = 0; warp < Config::kMathWarps; ++warp) {
        const float2 one = ptx::ld_shared_v2_f32(place.shared + Config::kSumsAt + (warp * kPairs + pair) * 8);
        total.x += one.x;
        total.y += one.y;
      }
      float2* to =
          params.sums + int64_t(tile.batch) * kGroupNormSumParts * pairs_wide + tile.column / 2 + pair;
      to[int64_t(part) * pairs_wide] = total;
      for (int other = part + params.parts; other < kGroupNormSumParts; other += params.parts)
        to[int64_t(other) * pairs_wide] = make_float2(0.0f, 0.0f);
    }
    ptx::bar_sync(kMathBarrier, 32 * Config::kMathWarps);
    clear();
  }

 private:
  static constexpr int kPairs = Config::kTileN / 2;

  __device__ __forceinline__ void clear() {
#pragma unroll
    for (int panel = 0; panel < Config::kColumnPanels; ++panel)
      ptx::st_shared_v2_f32(own_ + panel * 256, 0.0f, 0.0f);
  }

  uint32_t own_;
};

template <typename Config>
class PanelEpilogue {
 public:
  static constexpr int kDeferredPanels = Config::kPanels;

  __device__ __forceinline__ PanelEpilogue(const ConvParams& params, const WarpPlace& place)
      : params_(params),
        place_(place),
        writer_(place.shared, place.index(), place.lane),
        sums_(place),
        bias_(place.shared + Config::kBiasAt) {
    // All of it, once: a load from global memory in every tile's epilogue would be most of its time.
    for (int i = int(place.index() * 32 + place.lane); i < Config::kMostChannels;
         i += 32 * Config::kMathWarps) {
      const bool exists = params.bias != nullptr && i < params.out_channels;
      ptx::st_shared_b32(bias_ + 4 * i, exists ? __float_as_uint(__ldg(params.bias + i)) : 0u);
    }
    ptx::bar_sync(kMathBarrier, 32 * Config::kMathWarps);
  }
  __device__ __forceinline__ void finish(const typename MainLoop<Config>::Accumulator& sums, const Tile& tile,
                                         MainLoop<Config>& loop) {
    tile_ = tile;
    waiting_ = true;
    uint32_t stage = 0;
#pragma unroll
    for (int panel = 0; panel < Config::kPanels; ++panel) {
      const int in_stage = panel % Config::kBoxesPerStage;
      if (params_.adds_residual && in_stage == 0)
        stage = place_.shared + Config::kStagesAt + loop.wait_stage() * Config::kStageBytes;
      finish_panel(panel, sums[panel % Config::kBlocks], stage + in_stage * Config::kBoxBytes);
      if (params_.adds_residual && (in_stage + 1 == Config::kBoxesPerStage || panel + 1 == Config::kPanels))
        loop.release_stage();
    }
  }

  // After an image's last tile of this CTA.
  __device__ __forceinline__ void store_sums(int part) {
    if (params_.sums != nullptr) sums_.store(params_, tile_, part, place_);
  }

  __device__ __forceinline__ void drain() {}

  template <int kPanel>
  __device__ __forceinline__ void store_deferred(std::integral_constant<int, kPanel>) {
    if (!waiting_) return;
    if constexpr (kPanel >= kInShared)
      writer_.template fill<__nv_bfloat16>(kPanel, words_[kPanel - kInShared]);
    store(kPanel / Config::kBlocks, kPanel % Config::kBlocks, writer_.address(kPanel));
    if constexpr (kPanel + 1 == Config::kPanels) waiting_ = false;
  }

 private:
  static constexpr int kInShared = Config::kPanelBuffers;

  // In pieces of 16 channels: two 8-channel blocks of a thread's sums, one ldmatrix, one stmatrix.
  __device__ __forceinline__ void finish_panel(int panel, const float (&sums)[Config::kTileN / 2],
                                               uint32_t box) {
    const int column_panel = panel / Config::kBlocks, block = panel % Config::kBlocks;
    const int first =
        min(tile_.column + 64 * column_panel, Config::kMostChannels - 64) + 2 * int(place_.lane % 4);
    const int x = place_.column(tile_) + int(place_.lane / 4), y = place_.row(tile_, block);
    const bool upper_exists = x < params_.grid_width && y < params_.grid_height;
    const bool lower_exists = x < params_.grid_width && y + 1 < params_.grid_height;
    const uint32_t at = writer_.address(panel) + gemm::swizzled_lane(place_.lane);
    float sum[8], square[8];
    if (panel < kInShared) __syncwarp();  // what was in the panel has been read
#pragma unroll
    for (int j = 0; j < 8; j += 2) {
      float values[8];
#pragma unroll
      for (int k = 0; k < 2; ++k) {
        const float2 bias = ptx::ld_shared_v2_f32(bias_ + (first + 8 * (j + k)) * 4);
        const float* of_block = sums + 32 * column_panel + 4 * (j + k);
        values[4 * k] = of_block[0] + bias.x;
        values[4 * k + 1] = of_block[1] + bias.y;
        values[4 * k + 2] = of_block[2] + bias.x;
        values[4 * k + 3] = of_block[3] + bias.y;
      }
      if (params_.adds_residual) add_residual(values, box, j);
#pragma unroll
      for (int k = 0; k < 2; ++k) {
        const float* v = values + 4 * k;
        sum[j + k] = (upper_exists ? v[0] + v[1] : 0.0f) + (lower_exists ? v[2] + v[3] : 0.0f);
        square[j + k] = (upper_exists ? fmaf(v[0], v[0], v[1] * v[1]) : 0.0f) +
                        (lower_exists ? fmaf(v[2], v[2], v[3] * v[3]) : 0.0f);
      }
      uint32_t words[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) words[i] = ptx::cvt_rn_bf16x2(values[2 * i], values[2 * i + 1]);
      if (panel < kInShared) {
        ptx::stmatrix_x4(at ^ (j * 16), words);
      } else {
#pragma unroll
        for (int i = 0; i < 4; ++i) words_[panel - kInShared][2 * j + i] = words[i];
      }
    }
    if (params_.sums != nullptr) sums_.add(column_panel, sum, square, place_.lane);
  }

  // `box`: 16 × 8 pixels × 64 channels, 128-byte swizzle.
  __device__ __forceinline__ void add_residual(float (&values)[8], uint32_t box, int j) const {
    const uint32_t pixel = place_.lane % 16, column = pixel % 8;
    const uint32_t at = box + (2 * place_.warp + pixel / 8) * 2048 + (8 * place_.math_group + column) * 128 +
                        ((place_.lane / 16) ^ column) * 16;
    uint32_t packed[4];
    ptx::ldmatrix_x4(packed, at ^ (j * 16));
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      values[2 * i] += low_of(packed[i]);
      values[2 * i + 1] += high_of(packed[i]);
    }
  }

  // Eight lanes a pixel, four pixels at a time.
  __device__ __forceinline__ void store(int column_panel, int block, uint32_t panel) const {
    __syncwarp();
    const int chunk = int(place_.lane % 8), pixel = int(place_.lane / 8);
    const int channel = tile_.column + 64 * column_panel + 8 * chunk;
    const int y = place_.row(tile_, block), x = place_.column(tile_) + pixel;
    const int64_t row = int64_t(tile_.batch) * params_.out_height + y * params_.spread + tile_.phase / 2;
    __nv_bfloat16* at =
        params_.y + (row * params_.out_width + x * params_.spread + tile_.phase % 2) * params_.out_channels +
        channel;
    const int four_pixels = 4 * params_.spread * params_.out_channels;
    const int one_row = params_.spread * params_.out_width * params_.out_channels;
#pragma unroll
    for (int pass = 0; pass < 4; ++pass) {
      const int down = pass / 2, right = 4 * (pass % 2), r = 4 * pass + pixel;
      const uint4 bytes = ptx::ld_shared_v4_b32(panel + r * 128 + ((chunk ^ (r % 8)) * 16));
      const bool inside =
          channel < params_.out_channels && y + down < params_.grid_height && x + right < params_.grid_width;
      if (inside) *reinterpret_cast<uint4*>(at + down * one_row + (right / 4) * four_pixels) = bytes;
    }
  }

  const ConvParams& params_;
  const WarpPlace& place_;
  gemm::PanelWriter<Config> writer_;
  RunningSums<Config> sums_;
  uint32_t bias_;
  Tile tile_{};  // of the panels that wait, and of the sums
  bool waiting_ = false;
  uint32_t words_[Config::kPanels > kInShared ? Config::kPanels - kInShared : 1][16];
};

// Up to 16 channels, in any number: stored one by one, at once; neither residual nor sums.
template <typename Config>
class NarrowEpilogue {
 public:
  static constexpr int kDeferredPanels = 0;

  __device__ __forceinline__ NarrowEpilogue(const ConvParams& params, const WarpPlace& place)
      : params_(params), place_(place) {}

  __device__ __forceinline__ void finish(const typename MainLoop<Config>::Accumulator& sums, const Tile& tile,
                                         MainLoop<Config>&) {
    const int x = place_.column(tile) + int(place_.lane / 4);
#pragma unroll
    for (int block = 0; block < Config::kBlocks; ++block) {
#pragma unroll
      for (int i = 0; i < Config::kTileN / 2; ++i) {
        const int y = place_.row(tile, block) + i / 2 % 2;
        const int channel = 8 * (i / 4) + 2 * int(place_.lane % 4) + i % 2;
        if (x >= params_.grid_width || y >= params_.grid_height || channel >= params_.out_channels) continue;
        const float bias = params_.bias == nullptr ? 0.0f : __ldg(params_.bias + channel);
        const int64_t row = int64_t(tile.batch) * params_.out_height + y * params_.spread + tile.phase / 2;
        params_.y[(row * params_.out_width + x * params_.spread + tile.phase % 2) * params_.out_channels +
                  channel] = __float2bfloat16(sums[block][i] + bias);
      }
    }
  }

  __device__ __forceinline__ void store_sums(int) {}
  __device__ __forceinline__ void drain() {}

  template <int kPanel>
  __device__ __forceinline__ void store_deferred(std::integral_constant<int, kPanel>) {}

 private:
  const ConvParams& params_;
  const WarpPlace& place_;
};

}  // namespace flux::kernels::conv
