// The sm_90a kernel for head_dim 512; arguments as attention_bf16 has checked them.
#pragma once

#include "attention/attention.h"

namespace flux::kernels::attention {

Status run_wide(const AttentionBf16& call, cudaStream_t stream);

}  // namespace flux::kernels::attention
