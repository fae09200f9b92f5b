// The compiled GEMM kernels, by what they compute and with which tile.
#pragma once

#include "gemm/gemm.h"

namespace flux::kernels::gemm {

struct GemmParams;

// How the math warpgroups of a CTA share its tiles (config.cuh).
enum class Order : uint8_t { kTogether, kInTurn };

// Which operand the two CTAs of a cluster share: W as neighbours in M, A as neighbours in N.
enum class Multicast : uint8_t { kNone, kA, kW };

inline constexpr int kTileColumns = 192;

// A CTA's tile: rows × 192.
struct TileShape {
  Order order;
  int rows;
  Multicast multicast;

  int cluster() const { return multicast == Multicast::kNone ? 1 : 2; }
  int cluster_rows() const { return rows * (multicast == Multicast::kW ? 2 : 1); }
  int cluster_columns() const { return kTileColumns * (multicast == Multicast::kA ? 2 : 1); }
  bool operator==(const TileShape&) const = default;
};

inline constexpr TileShape kTile192{Order::kTogether, 192, Multicast::kW};
inline constexpr TileShape kTile128{Order::kInTurn, 128, Multicast::kW};
inline constexpr TileShape kTile128Heads{Order::kInTurn, 128, Multicast::kA};  // kQkv's
inline constexpr TileShape kTile64{Order::kInTurn, 64, Multicast::kNone};

struct Instance {
  Element operand;
  GemmEpilogue epilogue;
  QkvHeads heads_as;
  Element output;
  TileShape tile;
  Status (*launch)(const GemmParams& params, int clusters, cudaStream_t stream);

  bool computes(const Gemm& call) const {
    return operand == call.operand && epilogue == call.epilogue && output == call.output &&
           (epilogue != GemmEpilogue::kQkv || heads_as == call.heads_as);
  }
};

struct InstanceList {
  const Instance* data;
  int count;
};

// One file each in instances/, so that they compile side by side.
InstanceList linear_e4m3();
InstanceList linear_bf16();
InstanceList gate_residual();
InstanceList qkv();

}  // namespace flux::kernels::gemm
