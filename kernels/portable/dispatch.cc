// The choice between Hopper's GEMM and the portable one.
#include "launch.cuh"
#include "portable/portable.h"

namespace flux::kernels {

Status gemm(const Gemm& call, cudaStream_t stream) {
  return device_architecture() == 90 ? gemm_hopper(call, stream) : gemm_portable(call, stream);
}

}  // namespace flux::kernels
