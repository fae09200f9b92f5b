// The kernel for head_dim below 128 other than 64, any architecture; arguments as attention_bf16 has checked them.
#pragma once

#include "attention/attention.h"

namespace flux::kernels::attention {

Status run_narrow(const AttentionBf16& call, cudaStream_t stream);

}  // namespace flux::kernels::attention
