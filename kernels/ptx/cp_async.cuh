// cp.async: 16 bytes from global to shared memory without passing through registers, by each thread for itself.
#pragma once

#include <cstdint>

namespace flux::ptx {

// Copies `bytes` (0 to 16) and fills the rest of the 16 with zeros; with 0 the source is not read. Past L1.
__device__ __forceinline__ void cp_async_16(uint32_t shared, const void* global, uint32_t bytes = 16) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared), "l"(global), "r"(bytes)
               : "memory");
}

__device__ __forceinline__ void cp_async_commit_group() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}

// Until at most kPending of this thread's groups are unfinished.
template <int kPending>
__device__ __forceinline__ void cp_async_wait_group() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

// Starts bringing `bytes`, a multiple of 16, to L2; nothing before sm_90. It reads nothing: the memory may still be written.
__device__ __forceinline__ void prefetch_bulk_l2([[maybe_unused]] const void* global,
                                                 [[maybe_unused]] uint32_t bytes) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"(global), "r"(bytes) : "memory");
#endif
}

}  // namespace flux::ptx
