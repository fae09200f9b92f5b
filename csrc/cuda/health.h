// Whether a Device's CUDA context still works. A fault ends it for good; everyone who calls CUDA for the Device shares this, so that
// the first to meet the fault makes all later calls say so.
#pragma once

#include <atomic>

#include "cuda/check.h"

namespace flux::cuda {

class Health {
 public:
  explicit Health(int device) : device_(device) {}

  // Before any use: the right device on this thread, and nothing more after a fault.
  void require() {
    if (lost_) {
      throw FluxError(code::kCuda,
                      "this Device is lost: an earlier CUDA fault ended its context; restart the process");
    }
    guard(cudaSetDevice(device_), "cudaSetDevice");
  }

  // Throws for an error; every one but the want of memory ends the Device.
  void guard(cudaError_t error, const char* what) {
    if (error != cudaSuccess && error != cudaErrorMemoryAllocation) lost_ = true;
    check(error, what);
  }

 private:
  int device_;
  std::atomic<bool> lost_{false};
};

}  // namespace flux::cuda
