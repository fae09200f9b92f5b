// From sums to pixels where a row of wgmma is a channel: bias, residual, GroupNorm's sums of the result, and the way out by TMA.
//
// A math warp has 16 channels of all 256 pixels: a thread's sums are of channels lane / 4 and 8 more, of the pixels of columns
// 2·(lane % 4) and the next of every row. A warpgroup's panel is 8 × 16 pixels × 64 channels, 128 bytes a pixel, swizzled as TMA does, and
// written transposed. The upper half of the tile leaves at once, the lower waits in registers for the next tile's main loop.
#pragma once

#include "conv/epilogue.cuh"
#include "ptx/bulk.cuh"
#include "ptx/tma.cuh"

namespace flux::kernels::conv {

inline constexpr uint32_t kPanelBarrier = 3;  // and the next: of the warps of one math warpgroup

template <typename Config>
class ChannelEpilogue {
 public:
  static constexpr int kDeferredPanels = 1;

  __device__ __forceinline__ ChannelEpilogue(const ConvParams& params, const WarpPlace& place)
      : params_(params), place_(place), issues_(threadIdx.x % 128 == 0) {
    const uint32_t row = place.lane / 16 * 8 + place.lane % 8;
    const uint32_t chunk = (2 * place.warp + place.lane / 8 % 2) ^ (place.lane % 8);
    offset_ = row * Config::kPixelBytes + chunk * 16;
    panel_ = place.shared + Config::kPanelsAt + place.math_group * Config::kPanelBytes;
    load_bias(0);
  }

  __device__ __forceinline__ void finish(const typename MainLoop<Config>::Accumulator& sums, const Tile& tile,
                                         MainLoop<Config>& loop) {
    if (tile.column != tile_.column) load_bias(tile.column);
    tile_ = tile;
    waiting_ = true;
    const bool whole = tile.x + Config::kTileWidth <= params_.grid_width &&
                       tile.y + Config::kTileHeight <= params_.grid_height;
    Partial partial;
    open_panel();
    // The residual's boxes: upper and lower half of one warpgroup's channels, then of the other's.
    uint32_t boxes[2] = {0, 0};
    if (params_.adds_residual && place_.math_group == 1) skip_boxes(loop);
    if (params_.adds_residual)
      boxes[0] = place_.shared + Config::kStagesAt + loop.wait_stage() * Config::kStageBytes;
    finish_half<0>(sums[0], boxes[0], whole, partial);
    if (params_.adds_residual) {
      loop.release_stage();
      boxes[1] = place_.shared + Config::kStagesAt + loop.wait_stage() * Config::kStageBytes;
    }
    close_panel(0);
    finish_half<1>(sums[0], boxes[1], whole, partial);
    if (params_.adds_residual) loop.release_stage();
    if (params_.adds_residual && place_.math_group == 0) skip_boxes(loop);
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      running_.sum[i] += partial.sum[i];
      running_.square[i] += partial.square[i];
    }
  }

  // After an image's last tile of this CTA: pairs of channels over the pixels of four lanes, then as a part.
  __device__ __forceinline__ void store_sums(int part) {
    if (params_.sums == nullptr) return;
    const int pairs_wide = params_.out_channels / 2;
    float2* to = params_.sums + int64_t(tile_.batch) * kGroupNormSumParts * pairs_wide;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      float sum = running_.sum[i], square = running_.square[i];
#pragma unroll
      for (int distance = 1; distance < 8; distance *= 2) {
        sum += __shfl_xor_sync(0xffffffff, sum, distance);
        square += __shfl_xor_sync(0xffffffff, square, distance);
      }
      const int pair = (first_channel(tile_.column) + 8 * i) / 2;
      if (place_.lane % 8 != 0 || pair >= pairs_wide) continue;
      to[int64_t(part) * pairs_wide + pair] = make_float2(sum, square);
      for (int other = part + params_.parts; other < kGroupNormSumParts; other += params_.parts)
        to[int64_t(other) * pairs_wide + pair] = make_float2(0.0f, 0.0f);
    }
    running_ = Partial();
  }

  template <int kPanel>
  __device__ __forceinline__ void store_deferred(std::integral_constant<int, kPanel>) {
    if (!waiting_) return;
    open_panel();
#pragma unroll
    for (int row = 0; row < 16; row += 2) {
      const uint32_t words[4] = {words_[2 * row], words_[2 * row + 1], words_[2 * row + 2],
                                 words_[2 * row + 3]};
      ptx::stmatrix_x4_trans(panel_ + offset_ + row * kRowBytes, words);
    }
    close_panel(1);
    waiting_ = false;
  }

  // Shared memory must outlive the stores from it.
  __device__ __forceinline__ void drain() {
    if (issues_) ptx::cp_async_bulk_wait_group_read<0>();
  }

 private:
  static constexpr int kRowBytes = Config::kTileWidth * Config::kPixelBytes;

  // Of a thread's two channels.
  struct Partial {
    float sum[2] = {}, square[2] = {};
  };

  // Of a thread's channels the first; the other is eight further.
  __device__ __forceinline__ int first_channel(int column) const {
    return column + 64 * int(place_.math_group) + 16 * int(place_.warp) + int(place_.lane / 4);
  }

  __device__ __forceinline__ void load_bias(int column) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int channel = first_channel(column) + 8 * i;
      const bool exists = params_.bias != nullptr && channel < params_.out_channels;
      bias_[i] = exists ? __ldg(params_.bias + channel) : 0.0f;
    }
  }

  __device__ __forceinline__ void skip_boxes(MainLoop<Config>& loop) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      loop.wait_stage();
      loop.release_stage();
    }
  }

  // Until the panel has been read.
  __device__ __forceinline__ void open_panel() {
    if (issues_) ptx::cp_async_bulk_wait_group_read<0>();
    ptx::bar_sync(kPanelBarrier + place_.math_group, 128);
  }

  __device__ __forceinline__ void close_panel(int half) {
    ptx::fence_proxy_async();
    ptx::bar_sync(kPanelBarrier + place_.math_group, 128);
    if (!issues_) return;
    const int channel = tile_.column + 64 * int(place_.math_group);
    if (channel < params_.out_channels) {
      ptx::cp_async_bulk_tensor_5d_store(&params_.result, panel_,
                                         channel + tile_.phase % 2 * params_.out_channels, tile_.x,
                                         tile_.phase / 2, tile_.y + Config::kBoxHeight * half, tile_.batch);
    }
    ptx::cp_async_bulk_commit_group();
  }

  // Rows of pixels by twos: two 8-column blocks of a thread's sums, one ldmatrix, one stmatrix.
  template <int kHalf>
  __device__ __forceinline__ void finish_half(const float (&sums)[128], uint32_t box, bool whole,
                                              Partial& partial) {
    const int x = tile_.x + 2 * int(place_.lane % 4);
#pragma unroll
    for (int row = 0; row < 16; row += 2) {
      float values[8];
#pragma unroll
      for (int i = 0; i < 8; ++i) values[i] = sums[4 * (16 * kHalf + row) + i] + bias_[i / 2 % 2];
      if (params_.adds_residual) {
        uint32_t packed[4];
        ptx::ldmatrix_x4_trans(packed, box + offset_ + row * kRowBytes);
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          values[2 * i] += low_of(packed[i]);
          values[2 * i + 1] += high_of(packed[i]);
        }
      }
      uint32_t words[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) words[i] = ptx::cvt_rn_bf16x2(values[2 * i], values[2 * i + 1]);
      if constexpr (kHalf == 0) {
        ptx::stmatrix_x4_trans(panel_ + offset_ + row * kRowBytes, words);
      } else {
#pragma unroll
        for (int i = 0; i < 4; ++i) words_[2 * row + i] = words[i];
      }
      if (!whole) {
#pragma unroll
        for (int i = 0; i < 8; ++i) {
          const int y = tile_.y + 16 * kHalf + row + i / 4;
          if (x + i % 2 >= params_.grid_width || y >= params_.grid_height) values[i] = 0.0f;
        }
      }
      // Four of a channel at a time: short chains.
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const float *upper = values + 2 * i, *lower = upper + 4;
        partial.sum[i] += (upper[0] + upper[1]) + (lower[0] + lower[1]);
        partial.square[i] +=
            fmaf(upper[0], upper[0], upper[1] * upper[1]) + fmaf(lower[0], lower[0], lower[1] * lower[1]);
      }
    }
  }

  const ConvParams& params_;
  const WarpPlace& place_;
  bool issues_;
  uint32_t offset_;  // of this lane's row of a matrix, in a panel or box
  uint32_t panel_;
  Tile tile_{};  // of the half that waits, and of the sums
  bool waiting_ = false;
  Partial running_;
  float bias_[2];
  uint32_t words_[32];
};

}  // namespace flux::kernels::conv
