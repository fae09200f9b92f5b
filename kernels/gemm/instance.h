// The compiled GEMM kernels, by what they compute and with which tile.
#pragma once

#include "gemm/gemm.h"

namespace flux::kernels::gemm {

struct GemmParams;

// Rows × columns of a CTA's tile, and CTAs of a cluster (neighbours in M that share W's tile by multicast).
struct TileShape {
  int rows;
  int columns;
  int cluster;

  bool operator==(const TileShape&) const = default;
};

inline constexpr TileShape kTile128x256{128, 256, 2};
inline constexpr TileShape kTile192x192{192, 192, 2};
inline constexpr TileShape kTile128x128{128, 128, 1};

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
