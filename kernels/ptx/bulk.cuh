// The copy engine beyond TMA's 2-D and 3-D tiles: tiles of four and five dimensions, and flat runs of bytes.
#pragma once

#include <cuda.h>

#include <cstdint>

namespace flux::ptx {

__device__ __forceinline__ void cp_async_bulk_tensor_4d_load(uint32_t destination, const CUtensorMap* map,
                                                             uint32_t barrier, int32_t x, int32_t y,
                                                             int32_t z, int32_t w) {
  asm volatile(
      "cp.async.bulk.tensor.4d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, "
      "%5, %6}], "
      "[%2];" ::"r"(destination),
      "l"(map), "r"(barrier), "r"(x), "r"(y), "r"(z), "r"(w)
      : "memory");
}

__device__ __forceinline__ void cp_async_bulk_tensor_5d_load(uint32_t destination, const CUtensorMap* map,
                                                             uint32_t barrier, int32_t x, int32_t y,
                                                             int32_t z, int32_t w, int32_t v) {
  asm volatile(
      "cp.async.bulk.tensor.5d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, "
      "%5, %6, %7}], "
      "[%2];" ::"r"(destination),
      "l"(map), "r"(barrier), "r"(x), "r"(y), "r"(z), "r"(w), "r"(v)
      : "memory");
}

// Writes the box to the same offset of every CTA in `mask`, and completes on the barrier at the same offset there.
__device__ __forceinline__ void cp_async_bulk_tensor_4d_multicast(uint32_t destination,
                                                                  const CUtensorMap* map, uint32_t barrier,
                                                                  int32_t x, int32_t y, int32_t z, int32_t w,
                                                                  uint16_t mask) {
  asm volatile(
      "cp.async.bulk.tensor.4d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.multicast::cluster "
      "[%0], "
      "[%1, {%3, %4, %5, %6}], [%2], %7;" ::"r"(destination),
      "l"(map), "r"(barrier), "r"(x), "r"(y), "r"(z), "r"(w), "h"(mask)
      : "memory");
}

__device__ __forceinline__ void cp_async_bulk_tensor_4d_store(const CUtensorMap* map, uint32_t source,
                                                              int32_t x, int32_t y, int32_t z, int32_t w) {
  asm volatile(
      "cp.async.bulk.tensor.4d.global.shared::cta.tile.bulk_group [%0, {%2, %3, %4, %5}], [%1];" ::"l"(map),
      "r"(source), "r"(x), "r"(y), "r"(z), "r"(w)
      : "memory");
}

__device__ __forceinline__ void cp_async_bulk_tensor_5d_store(const CUtensorMap* map, uint32_t source,
                                                              int32_t x, int32_t y, int32_t z, int32_t w,
                                                              int32_t v) {
  asm volatile(
      "cp.async.bulk.tensor.5d.global.shared::cta.tile.bulk_group [%0, {%2, %3, %4, %5, %6}], [%1];" ::"l"(
          map),
      "r"(source), "r"(x), "r"(y), "r"(z), "r"(w), "r"(v)
      : "memory");
}

// `bytes` and both addresses are multiples of 16; completes on `barrier` with the bytes.
__device__ __forceinline__ void cp_async_bulk_load(uint32_t destination, const void* source, uint32_t bytes,
                                                   uint32_t barrier) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(
          destination),
      "l"(source), "r"(bytes), "r"(barrier)
      : "memory");
}

}  // namespace flux::ptx
