// Bulk tensor copies (TMA) between global and shared memory. Coordinates are in elements, innermost first.
#pragma once

#include <cuda.h>

#include <cstdint>

namespace flux::ptx {

__device__ __forceinline__ void prefetch_tensormap(const CUtensorMap* map) {
  asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory");
}

// Loads complete on `barrier` with the box's bytes; what lies outside the tensor arrives as zeros and counts.
__device__ __forceinline__ void cp_async_bulk_tensor_2d_load(uint32_t destination, const CUtensorMap* map,
                                                             uint32_t barrier, int32_t x, int32_t y) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%3, "
      "%4}], [%2];" ::"r"(destination),
      "l"(map), "r"(barrier), "r"(x), "r"(y)
      : "memory");
}

__device__ __forceinline__ void cp_async_bulk_tensor_3d_load(uint32_t destination, const CUtensorMap* map,
                                                             uint32_t barrier, int32_t x, int32_t y,
                                                             int32_t z) {
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, "
      "%5}], "
      "[%2];" ::"r"(destination),
      "l"(map), "r"(barrier), "r"(x), "r"(y), "r"(z)
      : "memory");
}

// Writes the box to the same offset of every CTA in `mask`, and completes on the barrier at the same offset there.
__device__ __forceinline__ void cp_async_bulk_tensor_2d_multicast(uint32_t destination,
                                                                  const CUtensorMap* map, uint32_t barrier,
                                                                  int32_t x, int32_t y, uint16_t mask) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.multicast::cluster "
      "[%0], "
      "[%1, {%3, %4}], [%2], %5;" ::"r"(destination),
      "l"(map), "r"(barrier), "r"(x), "r"(y), "h"(mask)
      : "memory");
}

__device__ __forceinline__ void cp_async_bulk_tensor_3d_multicast(uint32_t destination,
                                                                  const CUtensorMap* map, uint32_t barrier,
                                                                  int32_t x, int32_t y, int32_t z,
                                                                  uint16_t mask) {
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.multicast::cluster "
      "[%0], "
      "[%1, {%3, %4, %5}], [%2], %6;" ::"r"(destination),
      "l"(map), "r"(barrier), "r"(x), "r"(y), "r"(z), "h"(mask)
      : "memory");
}

// Stores join the calling thread's bulk group; what lies outside the tensor is not written.
__device__ __forceinline__ void cp_async_bulk_tensor_3d_store(const CUtensorMap* map, uint32_t source,
                                                              int32_t x, int32_t y, int32_t z) {
  asm volatile(
      "cp.async.bulk.tensor.3d.global.shared::cta.tile.bulk_group [%0, {%2, %3, %4}], [%1];" ::"l"(map),
      "r"(source), "r"(x), "r"(y), "r"(z)
      : "memory");
}

// The same, added to what is there, each sum rounded once.
__device__ __forceinline__ void cp_async_bulk_tensor_3d_add(const CUtensorMap* map, uint32_t source,
                                                            int32_t x, int32_t y, int32_t z) {
  asm volatile(
      "cp.reduce.async.bulk.tensor.3d.global.shared::cta.add.tile.bulk_group [%0, {%2, %3, %4}], [%1];" ::"l"(
          map),
      "r"(source), "r"(x), "r"(y), "r"(z)
      : "memory");
}

__device__ __forceinline__ void cp_async_bulk_commit_group() {
  asm volatile("cp.async.bulk.commit_group;" ::: "memory");
}

// Until at most `kPending` of the thread's groups still have to read shared memory.
template <int kPending>
__device__ __forceinline__ void cp_async_bulk_wait_group_read() {
  asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(kPending) : "memory");
}

// Orders this thread's accesses to its CTA's shared memory before later ones by TMA and wgmma (and the reverse).
__device__ __forceinline__ void fence_proxy_async() {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

}  // namespace flux::ptx
