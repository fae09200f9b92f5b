// The shape of one convolution kernel: tile, rings, shared-memory map, register budgets.
#pragma once

#include <cstdint>

namespace flux::kernels::conv {

// What every kernel has. For 64 input channels (128 bytes, one row of the 128-byte swizzle) a tile and the pixels around it,
// the halo, are loaded once. A tap's operand is then that halo seen from another pixel: its groups of 8 pixels lie one halo row
// apart and may start at any pixel, since the swizzle goes by address.
//
// The two CTAs of a cluster have neighbouring tiles and the same channels; each loads half of W, which goes to both.
template <int kTileWidth_, int kTileHeight_, bool kNormalises_>
struct CommonShape {
  static constexpr bool kNormalises = kNormalises_;  // x becomes SiLU(x·multiplier + addend) in shared memory
  static constexpr int kCluster = 2;

  static constexpr int kMathGroups = 2;
  static constexpr int kMathWarps = 4 * kMathGroups;
  static constexpr int kThreads = 128 * (1 + kMathGroups);  // warpgroup 0 produces
  // The kernel starts with 168 registers a thread, and the warpgroups trade.
  static constexpr int kProducerRegisters = kNormalises ? 72 : 40;
  static constexpr int kMathRegisters = kNormalises ? 216 : 232;
  static_assert(128 * (kProducerRegisters + kMathGroups * kMathRegisters) <= 168 * kThreads);

  static constexpr int kTileWidth = kTileWidth_, kTileHeight = kTileHeight_;
  static constexpr int kHaloWidth = kTileWidth + 2, kHaloHeight = kTileHeight + 2;
  static constexpr int kPixelBytes = 128;
  static constexpr int kHaloPixels = kHaloWidth * kHaloHeight;
  static constexpr int kHaloBytes = (kHaloPixels * kPixelBytes + 1023) / 1024 * 1024;
  static constexpr int kHalos = 2;

  // How far, in k-blocks, the second math warpgroup starts a tile behind the first: its products hide the first one's epilogue.
  static constexpr int kLag = 1;

  // Shared memory, from a 1024-byte aligned start: halos, stages of W, panels and what the epilogue needs, barriers.
  static constexpr int kStagesAt = kHalos * kHaloBytes;
};

// A tile is 16 × 8·kBlocks output pixels × kTileN output channels; math warpgroup g has the pixels of columns 8g to 8g + 7,
// in blocks of 8 × 8, the 64 rows of one wgmma, whose operand A is the halo.
template <int kBlocks_, int kTileN_, bool kNormalises_>
struct PixelRows : CommonShape<16, 8 * kBlocks_, kNormalises_> {
  using Common = CommonShape<16, 8 * kBlocks_, kNormalises_>;
  static constexpr int kBlocks = kBlocks_;
  static constexpr int kTileN = kTileN_;
  static constexpr bool kChannelRows = false;  // a row of wgmma is a pixel

  // A k-block is one tap of 64 channels. Its stage of W also takes the epilogue's residual, in boxes of 16 × 8 pixels × 64
  // channels.
  static constexpr int kWeightBytes = kTileN * 128;
  static constexpr int kBoxHeight = 8;
  static constexpr int kBoxBytes = Common::kTileWidth * kBoxHeight * 128;
  static constexpr bool kTakesResidual = kTileN >= 64;
  static constexpr int kStageBytes = kTakesResidual && kWeightBytes < kBoxBytes ? kBoxBytes : kWeightBytes;
  static constexpr int kBoxesPerStage = kStageBytes / kBoxBytes;
  static constexpr int kStages = kTileN == 256 ? 4 : 6;

  // Results leave through panels of 16 pixels × 64 channels, two for every math warp; what has no panel free waits in
  // registers. A panel leaves every kDeferBlocks k-blocks of the next tile.
  static constexpr int kPanelBytes = 2048;
  static constexpr int kPanelBuffers = 2;
  static constexpr int kColumnPanels = kTileN / 64;
  static constexpr int kPanels = kColumnPanels * kBlocks;
  static constexpr int kDeferBlocks = 2;

  static constexpr int kMostChannels = 2048;  // whose bias fits

  static constexpr int kPanelsAt = Common::kStagesAt + kStages * kStageBytes;
  static constexpr int kSumsAt =
      kPanelsAt + (kPanels > 0 ? Common::kMathWarps * kPanelBuffers * kPanelBytes : 0);
  static constexpr int kBiasAt = kSumsAt + kColumnPanels * Common::kMathWarps * 32 * 8;
  static constexpr int kBarriersAt = kBiasAt + (kPanels > 0 ? kMostChannels * 4 : 0);
};

// The other way round: a row of wgmma is an output channel, a column a pixel. A tile is 8 × 32 pixels × 128 channels, math warpgroup g
// has channels 64g to 64g + 63. Operand B is then the halo seen from another pixel, 32 groups of 8 pixels one halo row apart.
// m64n256 reads 80 bytes a clock from shared memory where two m64n128 read 96 of the 128 that it gives, which the copies and
// the norm need too; and a thread has all pixels of two channels, so bias and GroupNorm's sums stay in registers.
template <bool kNormalises_>
struct ChannelRows : CommonShape<8, 32, kNormalises_> {
  using Common = CommonShape<8, 32, kNormalises_>;
  static constexpr int kBlocks = 2;  // halves of 16 rows of pixels
  static constexpr int kTileN = 128;
  static constexpr bool kChannelRows = true;

  static constexpr int kWeightBytes = kTileN * 128;
  static constexpr int kBoxHeight = 16;
  static constexpr int kBoxBytes = Common::kTileWidth * kBoxHeight * 128;
  static constexpr bool kTakesResidual = true;
  static constexpr int kStageBytes = kWeightBytes;
  static constexpr int kBoxesPerStage = kStageBytes / kBoxBytes;
  static_assert(kBoxesPerStage == 1);
  static constexpr int kStages = 6;

  // Results leave by TMA from one panel of 8 × 16 pixels × 64 channels for each math warpgroup; the lower half of the tile waits in
  // registers for kDeferBlocks k-blocks of the next tile.
  static constexpr int kPanelBytes = kBoxBytes;
  static constexpr int kColumnPanels = kTileN / 64;
  static constexpr int kPanels = kColumnPanels * kBlocks;
  static constexpr int kDeferBlocks = 3;

  static constexpr int kPanelsAt = Common::kStagesAt + kStages * kStageBytes;
  static constexpr int kBarriersAt = kPanelsAt + Common::kMathGroups * kPanelBytes;
};

// A shape and its barriers, the last in shared memory.
template <typename Shape>
struct WithBarriers : Shape {
  static constexpr int kFullAt = Shape::kBarriersAt;             // a stage's bytes have arrived
  static constexpr int kEmptyAt = kFullAt + 8 * Shape::kStages;  // the cluster's math warps are done with it
  static constexpr int kHaloFullAt = kEmptyAt + 8 * Shape::kStages;     // a halo's bytes have arrived
  static constexpr int kHaloReadyAt = kHaloFullAt + 8 * Shape::kHalos;  // and have been normalised
  static constexpr int kHaloEmptyAt =
      kHaloReadyAt + 8 * Shape::kHalos;  // the CTA's math warps are done with it
  static constexpr int kSharedBytes = kHaloEmptyAt + 8 * Shape::kHalos;
  static_assert(kSharedBytes <= 232448, "a Hopper CTA has 227 KiB");
};

template <int kBlocks, int kTileN, bool kNormalises>
using ConvConfig = WithBarriers<PixelRows<kBlocks, kTileN, kNormalises>>;
template <bool kNormalises>
using TallConfig = WithBarriers<ChannelRows<kNormalises>>;

}  // namespace flux::kernels::conv
