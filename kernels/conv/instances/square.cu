#include "conv/instance.cuh"

namespace flux::kernels::conv {
namespace {

constexpr Instance kInstances[] = {
    instance<TallConfig<false>, ChannelEpilogue>(),
    instance<TallConfig<true>, ChannelEpilogue>(),
    instance<ConvConfig<1, 128, false>>(),
    instance<ConvConfig<1, 128, true>>(),
};

}  // namespace

InstanceList square() { return {kInstances, 4}; }

}  // namespace flux::kernels::conv
