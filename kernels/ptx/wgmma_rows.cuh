// wgmma with A in registers and B in shared memory, both K-major bf16: D[64 × n] += A·Bᵀ, k = 16. ptx/wgmma.cuh has the fences, the
// descriptor of B and the accumulator's layout.
//
// A of a thread: rows 16·(warp % 4) + lane / 4, and eight below; a[0] and a[1] (below) hold k = 2·(lane % 4) and the next, a[2] and
// a[3] those eight further. They must stay as they are until the wgmma is complete.
#pragma once

#include <cstdint>

namespace flux::ptx {

template <int kN>
struct WgmmaRows;

#define FLUX_D8(i)                                                                            \
  "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), \
      "+f"(d[i + 6]), "+f"(d[i + 7])
#define FLUX_D32(i) FLUX_D8(i), FLUX_D8(i + 8), FLUX_D8(i + 16), FLUX_D8(i + 24)
#define FLUX_R0_7 "%0, %1, %2, %3, %4, %5, %6, %7"
#define FLUX_R8_31                                          \
  "%8, %9, %10, %11, %12, %13, %14, %15, "                  \
  "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, " \
  "%27, %28, %29, %30, %31"
#define FLUX_R32_63                                                                  \
  "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, " \
  "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"

#define FLUX_WGMMA_ROWS(n, registers, a_, b, ...)                                                           \
  template <>                                                                                               \
  struct WgmmaRows<n> {                                                                                     \
    __device__ static __forceinline__ void mma_async(float (&d)[n / 2], const uint32_t (&a)[4],             \
                                                     uint64_t descriptor_b) {                               \
      asm volatile("wgmma.mma_async.sync.aligned.m64n" #n "k16.f32.bf16.bf16 {" registers "}, {" a_ "}, " b \
                   ", 1, 1, 1, 0;\n"                                                                        \
                   : __VA_ARGS__                                                                            \
                   : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(descriptor_b));                        \
    }                                                                                                       \
  }

FLUX_WGMMA_ROWS(16, FLUX_R0_7, "%8, %9, %10, %11", "%12", FLUX_D8(0));
FLUX_WGMMA_ROWS(64, FLUX_R0_7 ", " FLUX_R8_31, "%32, %33, %34, %35", "%36", FLUX_D32(0));
FLUX_WGMMA_ROWS(128, FLUX_R0_7 ", " FLUX_R8_31 ", " FLUX_R32_63, "%64, %65, %66, %67", "%68", FLUX_D32(0),
                FLUX_D32(32));

#undef FLUX_WGMMA_ROWS
#undef FLUX_R32_63
#undef FLUX_R8_31
#undef FLUX_R0_7
#undef FLUX_D32
#undef FLUX_D8

}  // namespace flux::ptx
