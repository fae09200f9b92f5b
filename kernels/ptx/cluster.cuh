// Thread-block clusters.
#pragma once

#include <cstdint>

namespace flux::ptx {

__device__ __forceinline__ uint32_t cluster_ctarank() {
  uint32_t rank;
  asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return rank;
}

__device__ __forceinline__ void cluster_arrive() {
  asm volatile("barrier.cluster.arrive.release;" ::: "memory");
}

__device__ __forceinline__ void cluster_wait() { asm volatile("barrier.cluster.wait.acquire;" ::: "memory"); }

// The shared::cluster address of `address` (shared::cta) in CTA `rank` of the cluster.
__device__ __forceinline__ uint32_t mapa(uint32_t address, uint32_t rank) {
  uint32_t mapped;
  asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(mapped) : "r"(address), "r"(rank));
  return mapped;
}

// `address` is a shared::cluster address (mapa).
__device__ __forceinline__ float4 ld_shared_cluster_v4_f32(uint32_t address) {
  float4 value;
  asm volatile("ld.shared::cluster.v4.f32 {%0, %1, %2, %3}, [%4];"
               : "=f"(value.x), "=f"(value.y), "=f"(value.z), "=f"(value.w)
               : "r"(address)
               : "memory");
  return value;
}

// Both are shared::cluster addresses (mapa) in one CTA. Completes on `barrier` with 8 bytes, and whoever has waited for them
// sees the values: no fence on either side, where a release to the cluster would wait for all of a thread's stores.
__device__ __forceinline__ void st_async_v2_f32(uint32_t address, float x, float y, uint32_t barrier) {
  asm volatile(
      "st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.v2.f32 [%0], {%1, %2}, [%3];" ::"r"(
          address),
      "f"(x), "f"(y), "r"(barrier)
      : "memory");
}

}  // namespace flux::ptx
