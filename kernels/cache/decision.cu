// One thread: a comparison and a few counters. It runs between two kernels of a graph, so it is the launch that costs.
#include "cache/cache.h"
#include "launch.cuh"

namespace flux::kernels {
namespace {

__global__ void decide(const CacheDecision d) {
  wait_for_predecessors();
  let_successor_start();
  const int step = d.state[0], skipped = d.state[1], computed = d.state[2], distance = d.state[3];
  const float difference = *d.difference;
  const bool skips = step > 0 && step >= d.limits[0] && skipped < d.limits[1] && difference < *d.threshold;
  *d.compute = !skips;
  *d.skip = skips;
  *d.factor = skips && distance > 0 ? float(step - computed) / float(distance) : 0.0f;
  if (step >= 0 && step < d.steps) {
    d.differences[step] = step > 0 ? difference : 0.0f;
    d.decisions[step] = !skips;
  }
  d.state[0] = step + 1;
  d.state[1] = skips ? skipped + 1 : 0;
  d.state[2] = skips ? computed : step;
  d.state[3] = skips ? distance : step > 0 ? step - computed : 0;
}

}  // namespace

Status cache_decision(const CacheDecision& decision, cudaStream_t stream) {
  return launch("cache_decision", decide, dim3(1), dim3(1), 0, stream, decision);
}

}  // namespace flux::kernels
