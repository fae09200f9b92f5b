// The shape of one GEMM kernel: tile, ring of stages, shared-memory map, register budgets.
#pragma once

#include <cstdint>

namespace flux::kernels::gemm {

// A tile is 64 rows a math warpgroup × kTileN columns. A k-block is 128 bytes of K: 128 e4m3 or 64 bf16 elements, one
// row of the 128-byte swizzle. The CTAs of a cluster have neighbouring rows and the same columns; each loads its own A
// and its share of W, which is multicast to all.
template <typename Operand_, int kMathGroups_, int kTileN_, int kStages_, int kCluster_>
struct GemmConfig {
  using Operand = Operand_;
  static constexpr int kMathGroups = kMathGroups_;
  static constexpr int kTileM = 64 * kMathGroups;
  static constexpr int kTileN = kTileN_;
  static constexpr int kStages = kStages_;
  static constexpr int kCluster = kCluster_;

  static constexpr int kMathWarps = 4 * kMathGroups;
  static constexpr int kThreads = 128 * (1 + kMathGroups);  // warpgroup 0 produces
  // Registers a thread. The kernel starts with 65536 / kThreads (rounded down to 8) and the warpgroups trade.
  static constexpr int kProducerRegisters = kMathGroups == 2 ? 24 : 32;
  static constexpr int kMathRegisters = kMathGroups == 2 ? 240 : 160;
  static_assert(128 * (kProducerRegisters + kMathGroups * kMathRegisters) <= 65536,
                "the register file has 65536 words");

  static constexpr int kBlockBytes = 128;
  static constexpr int kBlockElements = kBlockBytes / int(sizeof(Operand));
  static constexpr int kABytes = kTileM * kBlockBytes;
  static constexpr int kBBytes = kTileN * kBlockBytes;
  static constexpr int kStageBytes = kABytes + kBBytes;
  static constexpr int kLoadRowsB = kTileN / kCluster;  // what one CTA loads of W's tile
  static_assert(kLoadRowsB % 8 == 0 && kABytes % 1024 == 0, "swizzle atoms are 8 rows, 1024 bytes");
  static_assert(kTileM <= 256 && kLoadRowsB <= 256, "a copy's box has at most 256 rows");

  // How far, in k-blocks, each math warpgroup starts a tile behind the one before it: they then end one after another, and
  // the first one's epilogue runs under the last one's multiplications. More costs more stages than it hides.
  static constexpr int kLag = 1;
  static_assert(kLag * (kMathGroups - 1) + 1 < kStages, "the first warpgroup must not run out of stages");

  // Results leave through panels of 16 rows × 64 (f32: 32) columns, up to 2 KiB each, that every math warp has for itself.
  static constexpr int kPanelBytes = 2048;
  static constexpr int kPanelBuffers = kMathGroups == 2 ? 2 : 1;

  // With registers to spare, a tile's results wait as bf16 or e4m3, and leave a panel every second k-block of the
  // next tile. Stored at once they took 3600 clocks (128x256, measured) beside the 24600 of a tile's products at
  // K = 3072: all SMs end together, and even GELU's arithmetic hid behind the wait.
  static constexpr bool kDefers = kMathRegisters >= 240;
  static constexpr int kDeferBlocks = 2;

  // What an epilogue reads tile by tile (the residual) comes through the ring too, after a tile's k-blocks: boxes of
  // kTileM rows × 128 bytes, as many as fit in a stage.
  static constexpr int kBoxBytes = kABytes;
  static constexpr int kBoxesPerStage = kStageBytes / kBoxBytes;

  // Shared memory, from a 1024-byte aligned start.
  static constexpr int kPanelsAt = kStages * kStageBytes;
  static constexpr int kColumnsAt = kPanelsAt + kMathWarps * kPanelBuffers * kPanelBytes;
  static constexpr int kBarriersAt = kColumnsAt + kTileN * 8;  // per column: multiplier, addend
  static constexpr int kFullAt = kBarriersAt;                  // a stage's bytes have arrived
  static constexpr int kEmptyAt =
      kFullAt + 8 * kStages;  // all math warps of the cluster are done with a stage
  static constexpr int kColumnsFullAt = kEmptyAt + 8 * kStages;
  static constexpr int kColumnsEmptyAt = kColumnsFullAt + 8;
  static constexpr int kScratchAt = kColumnsEmptyAt + 8;  // 16 bytes a math warpgroup
  static constexpr int kSharedBytes = kScratchAt + 16 * kMathGroups;
  static_assert(kSharedBytes <= 232448, "a Hopper CTA has 227 KiB");
};

}  // namespace flux::kernels::gemm
