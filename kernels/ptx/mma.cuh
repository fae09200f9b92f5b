// mma.sync: a warp multiplies 16 × k by k × 8 into 16 × 8 f32 accumulators. Every GPU from sm_80 on has the bf16 form.
//
// Lane l, with g = l / 4 and t = l % 4, holds
//   a (bf16, k = 16): rows g, g + 8, g, g + 8; columns 2t, 2t + 1 and, in a[2] and a[3], 8 more
//   b (bf16, k = 16): column g; rows 2t, 2t + 1 and, in b[1], 8 more
//   d: row g columns 2t, 2t + 1, then row g + 8 the same
// With e4m3 (k = 32) a register holds four codes at 4t in place of two values at 2t, and the other half is 16 further.
#pragma once

#include <cstdint>

namespace flux::ptx {

__device__ __forceinline__ void mma_m16n8k16_bf16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0,
                                                  uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 890
__device__ __forceinline__ void mma_m16n8k32_e4m3(float (&d)[4], const uint32_t (&a)[4], uint32_t b0,
                                                  uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k32.row.col.f32.e4m3.e4m3.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
#endif

}  // namespace flux::ptx
