// GEMM by mma.sync: what gemm_hopper computes, on every GPU from sm_80 on, and the choice between the two.
#pragma once

#include "gemm/gemm.h"
#include "status.h"

namespace flux::kernels {

// The same operation as gemm_hopper, with two differences: kQkv writes q, k and v as bf16 rows alone, and codes must hold
// no NaN below sm_89, where they become ±480. Alignment as in gemm.h.
Status gemm_portable(const Gemm& call, cudaStream_t stream);

// The same with e4m3 expanded to bf16 before it is multiplied, as gemm_portable does below sm_89, on any device.
Status gemm_portable_expanded(const Gemm& call, cudaStream_t stream);

// gemm_hopper where it runs (compute capability 9.0), else gemm_portable.
Status gemm(const Gemm& call, cudaStream_t stream);

}  // namespace flux::kernels
