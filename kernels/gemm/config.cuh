// The shape of one GEMM kernel: tile, ring of stages, shared-memory map, register budgets.
#pragma once

#include <cstdint>

#include "gemm/instance.h"

namespace flux::kernels::gemm {

// A tile is 192 columns wide and is made of row blocks of 64 rows, one wgmma each. Two ways to share it out:
//   kTogether  three warpgroups have a row block each and multiply side by side: 192 × 192, the fewest bytes a product. The
//              tensor cores wait for the epilogue, so it is for light ones and long K.
//   kInTurn    two warpgroups take tiles in turn (ping-pong), both row blocks of 128 × 192, or the one of 64 × 192: one
//              multiplies while the other one's results leave, whatever the epilogue does.
// A k-block is 128 bytes of K: 128 e4m3 or 64 bf16 elements, one row of the 128-byte swizzle. The CTAs of a cluster have
// neighbouring tiles; each loads its share of the operand that they have in common, which is multicast to all, and its own
// part of the other one.
template <typename Operand_, Order kOrder_, int kRowBlocks_, int kStages_, Multicast kMulticast_,
          int kPromoteBlocks_ = 0, int kPanelBuffers_ = 3>
struct GemmConfig {
  using Operand = Operand_;
  static constexpr bool kInTurn = kOrder_ == Order::kInTurn;
  static constexpr int kMathGroups = kInTurn ? 2 : kRowBlocks_;
  static constexpr int kRowBlocks = kInTurn ? kRowBlocks_ : 1;  // of one math warpgroup
  static constexpr int kTileM = 64 * kRowBlocks_;
  static constexpr int kTileN = 192;
  static constexpr int kStages = kStages_;
  static constexpr int kCluster = kMulticast_ == Multicast::kNone ? 1 : 2;
  static constexpr bool kSharesW = kMulticast_ == Multicast::kW;  // neighbours in rows
  static constexpr bool kSharesA = kMulticast_ == Multicast::kA;  // neighbours in columns
  static constexpr int kClusterRows = kTileM * (kSharesW ? kCluster : 1);
  static constexpr int kClusterColumns = kTileN * (kSharesA ? kCluster : 1);
  static constexpr TileShape kShape{kOrder_, kTileM, kMulticast_};
  // Every so many k-blocks the tensor cores' sums are added to others in f32: their own keep about 13 bits. 0: never.
  static constexpr int kPromoteBlocks = kPromoteBlocks_;

  static constexpr int kMathWarps = 4 * kMathGroups;
  static constexpr int kThreads = 128 * (1 + kMathGroups);  // warpgroup 0 produces
  // Registers a thread. The kernel starts with 65536 / kThreads (rounded down to 8) and the warpgroups trade. A tile of heads
  // has its columns in runs, which the producer keeps.
  static constexpr int kProducerRegisters = kMathGroups == 3 ? 32 : kSharesA ? 40 : 24;
  static constexpr int kMathRegisters = kMathGroups == 3 ? 160 : kSharesA ? 232 : 240;
  static_assert(128 * (kProducerRegisters + kMathGroups * kMathRegisters) <= 65536,
                "the register file has 65536 words");

  static constexpr int kBlockBytes = 128;
  static constexpr int kBlockElements = kBlockBytes / int(sizeof(Operand));
  static constexpr int kABytes = kTileM * kBlockBytes;
  static constexpr int kBBytes = kTileN * kBlockBytes;
  static constexpr int kStageBytes = kABytes + kBBytes;
  // What one CTA loads of its tile of A and of W.
  static constexpr int kLoadRowsA = kTileM / (kSharesA ? kCluster : 1);
  static constexpr int kLoadRowsW = kTileN / (kSharesW ? kCluster : 1);
  static_assert(kLoadRowsA % 8 == 0 && kLoadRowsW % 8 == 0, "swizzle atoms are 8 rows, 1024 bytes");

  // What leaves (and residuals that come) goes through panels of 16 rows × 128 bytes. Every math warp has room for a row
  // block's three, or for one where another stage is worth more.
  static constexpr int kPanelBytes = 2048;
  static constexpr int kPanels = kTileN / 64;
  static constexpr int kPanelBuffers = kPanelBuffers_;

  static constexpr int kHeadVectorBytes = 656;  // int8_heads.cuh

  // Shared memory, from a 1024-byte aligned start.
  static constexpr int kPanelsAt = kStages * kStageBytes;
  // A math warpgroup's vectors: (multiplier, addend) of every column of its tile, scale of each of its rows, and small things.
  static constexpr int kVectorsAt = kPanelsAt + kMathWarps * kPanelBuffers * kPanelBytes;
  static constexpr int kRowScalesAt = kTileN * 8;
  static constexpr int kScratchAt = kRowScalesAt + kRowBlocks * 64 * 4;
  static constexpr int kTileAt = kScratchAt + 128;  // which tile it is
  static constexpr int kVectorBytes = kTileAt + 16;
  static constexpr int kFullAt = kVectorsAt + kMathGroups * kVectorBytes;  // a stage's bytes have arrived
  static constexpr int kEmptyAt = kFullAt + 8 * kStages;        // the cluster's CTAs are done with a stage
  static constexpr int kPanelsFullAt = kEmptyAt + 8 * kStages;  // of a math warp: its residual has arrived
  static constexpr int kExchangeAt = kPanelsFullAt + 8 * kMathWarps;  // two of a math group: see qkv.cuh
  // Of a math warp, where tiles are heads.
  static constexpr int kHeadVectorsAt = (kExchangeAt + 16 * kMathGroups + 15) / 16 * 16;
  static constexpr int kSharedBytes = kHeadVectorsAt + (kSharesA ? kMathWarps * kHeadVectorBytes : 0);
  static_assert(kSharedBytes <= 232448, "a Hopper CTA has 227 KiB");
};

}  // namespace flux::kernels::gemm
