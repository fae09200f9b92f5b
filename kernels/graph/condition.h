// The condition of a graph's conditional node, set on the device.
#pragma once

#include "status.h"

namespace flux::kernels {

// The body of the node of `handle` runs in this replay when *flag is not 0. To be captured before that node.
Status set_condition(cudaGraphConditionalHandle handle, const int32_t* flag, cudaStream_t stream);

}  // namespace flux::kernels
