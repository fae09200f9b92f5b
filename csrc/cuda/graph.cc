#include "cuda/graph.h"

#include <memory>

#include "cuda/check.h"
#include "graph/condition.h"

namespace flux::cuda {
namespace {

void record(const std::vector<BoundOp>& ops, const Launch& launch);

struct StreamDeleter {
  void operator()(cudaStream_t stream) const { cudaStreamDestroy(stream); }
};
using OwnedStream = std::unique_ptr<std::remove_pointer_t<cudaStream_t>, StreamDeleter>;

// The graph that a capturing stream records into, and the nodes that its next node depends on.
struct Capture {
  cudaGraph_t graph = nullptr;
  const cudaGraphNode_t* dependencies = nullptr;
  const cudaGraphEdgeData* edges = nullptr;
  size_t count = 0;
};

Capture capture_of(cudaStream_t stream) {
  Capture capture;
  cudaStreamCaptureStatus status{};
  check(cudaStreamGetCaptureInfo(stream, &status, nullptr, &capture.graph, &capture.dependencies,
                                 &capture.edges, &capture.count),
        "cudaStreamGetCaptureInfo");
  return capture;
}

void record_condition(const BoundOp& op, const Launch& launch) {
  cudaGraphConditionalHandle handle{};
  check(cudaGraphConditionalHandleCreate(&handle, capture_of(launch.stream).graph, 0,
                                         cudaGraphCondAssignDefault),
        "cudaGraphConditionalHandleCreate");
  check(kernels::set_condition(handle, op.call.tensor("flag").as<const int32_t>(), launch.stream), "if");

  cudaGraphNodeParams parameters{};
  parameters.type = cudaGraphNodeTypeConditional;
  parameters.conditional.handle = handle;
  parameters.conditional.type = cudaGraphCondTypeIf;
  parameters.conditional.size = 1;
  const Capture now = capture_of(launch.stream);
  cudaGraphNode_t node = nullptr;
  check(cudaGraphAddNode(&node, now.graph, now.dependencies, now.edges, now.count, &parameters),
        "cudaGraphAddNode (if)");
  check(
      cudaStreamUpdateCaptureDependencies(launch.stream, &node, nullptr, 1, cudaStreamSetCaptureDependencies),
      "cudaStreamUpdateCaptureDependencies");

  cudaStream_t stream = nullptr;
  check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "cudaStreamCreate");
  const OwnedStream owned(stream);
  cudaGraph_t body = parameters.conditional.phGraph_out[0];
  check(cudaStreamBeginCaptureToGraph(stream, body, nullptr, nullptr, 0, cudaStreamCaptureModeThreadLocal),
        "cudaStreamBeginCaptureToGraph");
  Launch inner = launch;
  inner.stream = stream;
  try {
    record(op.body, inner);
  } catch (...) {
    cudaStreamEndCapture(stream, &body);
    throw;
  }
  check(cudaStreamEndCapture(stream, &body), "cudaStreamEndCapture (if)");
}

void launch_together(const BoundOp& op, const Launch& launch) {
  std::vector<const OpCall*> calls;
  for (const BoundOp& member : op.body) calls.push_back(&member.call);
  const auto together = op.body.front().kernel->launch_together;
  if (together != nullptr && together(calls, launch)) return;
  Launch alone = launch;
  for (const BoundOp& member : op.body) {
    member.kernel->launch(member.call, alone);
    alone.before = &member.call;
  }
}

void record(const std::vector<BoundOp>& ops, const Launch& launch) {
  Launch now = launch;
  now.before = nullptr;
  for (const BoundOp& op : ops) {
    if (op.kernel != nullptr) {
      op.kernel->launch(op.call, now);
      now.before = &op.call;
    } else if (op.call.kind == "together") {
      launch_together(op, now);
      now.before = &op.body.front().call;
    } else {
      record_condition(op, now);
      now.before = nullptr;
    }
  }
}

}  // namespace

std::vector<BoundOp> bind_ops(const std::vector<OpSpec>& specs, const Program& program, void* arena) {
  std::vector<BoundOp> ops;
  ops.reserve(specs.size());
  for (const OpSpec& spec : specs) {
    BoundOp op;
    op.call = bind_op(spec, program, arena);
    if (spec.kind == "if") {
      op.body = bind_ops(spec.body, program, arena);
    } else if (spec.kind == "together") {
      op.body = bind_ops(spec.body, program, arena);
      for (const BoundOp& member : op.body)
        FLUX_CHECK(member.kernel != nullptr && member.kernel == op.body.front().kernel,
                   "ops that run together must be of one kind");
      FLUX_CHECK(!op.body.empty(), "\"together\" holds no ops");
    } else {
      op.kernel = find_kernel(spec.kind);
      if (op.kernel == nullptr) {
        throw FluxError(code::kUnsupported,
                        "the CUDA backend has no op \"" + spec.kind + "\" yet; use device \"cpu\"");
      }
    }
    ops.push_back(std::move(op));
  }
  return ops;
}

uint64_t workspace_bytes(const std::vector<BoundOp>& ops) {
  uint64_t bytes = 0;
  for (const BoundOp& op : ops) {
    if (op.kernel != nullptr && op.kernel->workspace_bytes != nullptr) {
      bytes = std::max(bytes, op.kernel->workspace_bytes(op.call));
    }
    bytes = std::max(bytes, workspace_bytes(op.body));
  }
  return bytes;
}

cudaGraphExec_t capture(const std::vector<BoundOp>& ops, const Launch& launch) {
  check(cudaStreamBeginCapture(launch.stream, cudaStreamCaptureModeThreadLocal), "cudaStreamBeginCapture");
  cudaGraph_t graph = nullptr;
  try {
    record(ops, launch);
  } catch (...) {
    cudaStreamEndCapture(launch.stream, &graph);
    if (graph != nullptr) cudaGraphDestroy(graph);
    cudaGetLastError();
    throw;
  }
  check(cudaStreamEndCapture(launch.stream, &graph), "cudaStreamEndCapture");
  cudaGraphExec_t executable = nullptr;
  const cudaError_t error = cudaGraphInstantiate(&executable, graph, 0);
  cudaGraphDestroy(graph);
  check(error, "cudaGraphInstantiate");
  return executable;
}

void run_directly(const BoundOp& op, const Launch& launch) {
  if (op.kernel != nullptr) {
    op.kernel->launch(op.call, launch);
    return;
  }
  if (op.call.kind == "together") {
    launch_together(op, launch);
    return;
  }
  int32_t flag = 0;
  check(
      cudaMemcpyAsync(&flag, op.call.tensor("flag").data, sizeof flag, cudaMemcpyDeviceToHost, launch.stream),
      "reading a flag");
  check(cudaStreamSynchronize(launch.stream), "reading a flag");
  if (flag == 0) return;
  for (const BoundOp& inner : op.body) run_directly(inner, launch);
}

}  // namespace flux::cuda
