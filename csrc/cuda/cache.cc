#include "cache/cache.h"

#include "cuda/check.h"
#include "cuda/launchers.h"
#include "cuda/views.h"

namespace flux::cuda {
namespace {

kernels::RelativeDifference difference_of(const OpCall& call) {
  const TensorView& x = call.tensor("x");
  const TensorView& base = call.tensor("base");
  const TensorView& previous = call.tensor("previous");
  const Folded folded = fold({&x, &base, &previous}, "relativeDifference");
  kernels::RelativeDifference difference;
  difference.x = const_view(x, folded.views[0]);
  difference.base = const_view(base, folded.views[1]);
  difference.previous = const_view(previous, folded.views[2]);
  difference.extent = extent_of(folded);
  return difference;
}

}  // namespace

void relative_difference(const OpCall& call, const Launch& launch) {
  kernels::RelativeDifference difference = difference_of(call);
  difference.y = call.tensor("y").as<float>();
  difference.workspace = launch.workspace;
  check(kernels::relative_difference(difference, launch.stream), "relativeDifference");
}

uint64_t relative_difference_workspace(const OpCall& call) {
  return static_cast<uint64_t>(kernels::relative_difference_workspace_bytes(difference_of(call).extent));
}

void cache_decision(const OpCall& call, const Launch& launch) {
  const TensorView& differences = call.tensor("differences");
  kernels::CacheDecision decision;
  decision.difference = call.tensor("difference").as<const float>();
  decision.threshold = call.tensor("threshold").as<const float>();
  decision.limits = call.tensor("limits").as<const int32_t>();
  decision.state = call.tensor("state").as<int32_t>();
  decision.differences = differences.as<float>();
  decision.decisions = call.tensor("decisions").as<int32_t>();
  decision.steps = static_cast<int>(differences.elements());
  decision.compute = call.tensor("compute").as<int32_t>();
  decision.skip = call.tensor("skip").as<int32_t>();
  decision.factor = call.tensor("factor").as<float>();
  check(kernels::cache_decision(decision, launch.stream), "cacheDecision");
}

}  // namespace flux::cuda
