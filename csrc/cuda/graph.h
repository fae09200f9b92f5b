// A program as a CUDA graph: captured once, replayed with one launch. A condition (`if`) is a conditional node whose body is
// captured into its own graph; the flag is read by a kernel, so a replay never asks the host.
#pragma once

#include <cuda_runtime_api.h>

#include <vector>

#include "cuda/ops.h"
#include "runtime/backend.h"

namespace flux::cuda {

struct BoundOp {
  const Kernel* kernel = nullptr;  // null for "if" and "together"
  OpCall call;
  std::vector<BoundOp> body;
};

std::vector<BoundOp> bind_ops(const std::vector<OpSpec>& specs, const Program& program, void* arena);
uint64_t workspace_bytes(const std::vector<BoundOp>& ops);

// Records `ops` into a graph on `launch.stream` and instantiates it. Nothing runs.
cudaGraphExec_t capture(const std::vector<BoundOp>& ops, const Launch& launch);

// Runs one op directly on the stream, outside any graph; an `if` reads its flag on the host.
void run_directly(const BoundOp& op, const Launch& launch);

}  // namespace flux::cuda
