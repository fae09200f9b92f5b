#include "conv/instance.cuh"

namespace flux::kernels::conv {
namespace {

constexpr Instance kInstances[] = {
    instance<ConvConfig<2, 128, false>>(),
    instance<ConvConfig<2, 128, true>>(),
    instance<ConvConfig<1, 128, false>>(),
    instance<ConvConfig<1, 128, true>>(),
};

}  // namespace

InstanceList square() { return {kInstances, 4}; }

}  // namespace flux::kernels::conv
