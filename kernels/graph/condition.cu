// One thread: graph conditions can be set by device code only.
#include "graph/condition.h"

namespace flux::kernels {
namespace {

__global__ void condition_kernel(cudaGraphConditionalHandle handle, const int32_t* flag) {
  cudaGraphSetConditional(handle, *flag != 0 ? 1u : 0u);
}

}  // namespace

Status set_condition(cudaGraphConditionalHandle handle, const int32_t* flag, cudaStream_t stream) {
  condition_kernel<<<1, 1, 0, stream>>>(handle, flag);
  return Status::from_cuda(cudaGetLastError(), "set_condition");
}

}  // namespace flux::kernels
