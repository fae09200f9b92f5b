// small_linear's kernel for e4m3 weights on sm_90: clusters of four blocks split k.
#pragma once

#include "gemv/gemv.h"

namespace flux::kernels {

// Whether cluster_linear does this: on this device, its type and rows, with room for x in shared memory.
bool cluster_linear_takes(const SmallLinear& linear);

// The arguments have been checked by small_linear.
Status cluster_linear(const SmallLinear& linear, cudaStream_t stream);

}  // namespace flux::kernels
