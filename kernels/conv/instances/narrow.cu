#include "conv/instance.cuh"

namespace flux::kernels::conv {
namespace {

constexpr Instance kInstances[] = {
    instance<ConvConfig<2, 64, false>>(),
    instance<ConvConfig<2, 64, true>>(),
    instance<ConvConfig<2, 16, false>, NarrowEpilogue>(),
    instance<ConvConfig<2, 16, true>, NarrowEpilogue>(),
};

}  // namespace

InstanceList narrow() { return {kInstances, 4}; }

}  // namespace flux::kernels::conv
