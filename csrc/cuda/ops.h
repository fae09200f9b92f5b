// The ops of the CUDA backend: each checks nothing but what its kernel needs beyond the CPU op's checks, and launches. What
// an op means is written in csrc/cpu/ops.h. Activations are bf16 here; accumulation is f32. What e4m3 weights multiply is
// e4m3 with one scale a row: x with xScale [rows] f32. linear's y may be so, too (y with yScale, and bounds from weightBounds):
// its rows are quantised with the scale of the most that they can reach; so may qkvLinear's mlp (mlpScale), beside which
// attentionPacked then writes its y by the same scale (yScale), or by one that it finds and writes (ownScale [B, T], attention/attention.h).
// xScale may be a part of such a one: [B, T] with any stride.
// A low-rank branch's low comes from a linear with weightScale and without xScale; its x is what the branch's linear has, and its
// weight of the same type, codes taken as numbers. With e4m3 weights low and lowUp are summed beside the codes' products, so that both scales apply:
// y = (x·Wᵀ + low·lowUpᵀ)·xScale·weightScale + bias.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <string_view>
#include <vector>

#include "runtime/op.h"

namespace flux::cuda {

// What a launch may use besides its operands.
struct Launch {
  cudaStream_t stream = nullptr;
  void* workspace = nullptr;  // 256-byte aligned; as large as the largest workspace_bytes of the plan's ops
  void* attention_workspace = nullptr;  // zeroed once, then attention's own
  // The op, or the first of those together, right before this one in the stream; null where that is not known.
  const OpCall* before = nullptr;
};

struct Kernel {
  void (*launch)(const OpCall& call, const Launch& launch) = nullptr;
  uint64_t (*workspace_bytes)(const OpCall& call) = nullptr;  // null: needs none
  // Runs calls that touch nothing of each other's as one launch, or returns false when their operands do not allow it and
  // has launched nothing. Null: they are launched one after another.
  bool (*launch_together)(const std::vector<const OpCall*>& calls, const Launch& launch) = nullptr;
};

// nullptr when the backend has no such op.
const Kernel* find_kernel(std::string_view kind);

}  // namespace flux::cuda
