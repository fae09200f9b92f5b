// CUDA errors as FluxErrors. Most are sticky: after one, every call on the context fails, and the Device is lost.
#pragma once

#include <cuda_runtime_api.h>

#include <string>

#include "runtime/error.h"
#include "status.h"

namespace flux::cuda {

inline void check(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  cudaGetLastError();  // an error that is not sticky must not show up in the next call
  const char* code = error == cudaErrorMemoryAllocation ? code::kOutOfMemory : code::kCuda;
  throw FluxError(code, std::string(what) + ": " + cudaGetErrorString(error));
}

inline void check(const kernels::Status& status, const std::string& op) {
  using Code = kernels::Status::Code;
  if (status.ok()) return;
  const char* code = status.code == Code::kBadArgument   ? code::kBadArgument
                     : status.code == Code::kUnsupported ? code::kUnsupported
                                                         : code::kCuda;
  throw FluxError(code, op + ": " + status.message);
}

}  // namespace flux::cuda
