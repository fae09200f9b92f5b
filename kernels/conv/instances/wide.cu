#include "conv/instance.cuh"

namespace flux::kernels::conv {
namespace {

constexpr Instance kInstances[] = {
    instance<ConvConfig<1, 256, false>>(),
    instance<ConvConfig<1, 256, true>>(),
};

}  // namespace

InstanceList wide() { return {kInstances, 2}; }

}  // namespace flux::kernels::conv
