// wgmma: the warpgroup's asynchronous matrix multiply, D[64 × N] += A[64 × K]·B[N × K]ᵀ, K = 32 bytes of elements.
//
// A and B lie in shared memory, K-major in rows of 128 bytes with the 128-byte swizzle, described by `wgmma_descriptor`.
// Accumulator of a thread, f32 d[N / 2]: d[4·j + {0, 1}] is row 16·(warp % 4) + lane / 4, columns 8·j + 2·(lane % 4) + {0, 1};
// d[4·j + {2, 3}] the same eight rows below.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp8.h>

#include <cstdint>

namespace flux::ptx {

// `address` is that of a 1024-byte aligned block of 8-row groups, or 32 bytes × k into its rows.
__host__ __device__ constexpr uint64_t wgmma_descriptor(uint32_t address) {
  constexpr uint64_t kSwizzle128 = uint64_t{1} << 62;
  constexpr uint64_t kGroupStride = uint64_t{1024 >> 4} << 32;  // from one group of 8 rows to the next
  constexpr uint64_t kLeadingStride = uint64_t{1} << 16;        // has no meaning with this swizzle
  return kSwizzle128 | kGroupStride | kLeadingStride | ((address & 0x3ffff) >> 4);
}

// Orders register accesses before the wgmmas that follow.
__device__ __forceinline__ void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }

__device__ __forceinline__ void wgmma_commit_group() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}

template <int kPending>
__device__ __forceinline__ void wgmma_wait_group() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
}

#define FLUX_D8(i)                                                                            \
  "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), \
      "+f"(d[i + 6]), "+f"(d[i + 7])
#define FLUX_D32(i) FLUX_D8(i), FLUX_D8(i + 8), FLUX_D8(i + 16), FLUX_D8(i + 24)

#define FLUX_R0_7 "%0, %1, %2, %3, %4, %5, %6, %7"
#define FLUX_R0_31                                               \
  FLUX_R0_7                                                      \
  ", %8, %9, %10, %11, %12, %13, %14, %15, "                     \
  "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, " \
  "%28, %29, %30, %31"
#define FLUX_R0_63                                                                   \
  "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "           \
  "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, " \
  "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, " \
  "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define FLUX_R64_95                                                                  \
  "%64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, " \
  "%80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95"
#define FLUX_R96_111 \
  "%96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111"
#define FLUX_R112_127 \
  "%112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127"

// `scale_d` 0 overwrites D, anything else accumulates. `a`, `b`, `p` are the operand numbers after D's.
#define FLUX_WGMMA(shape, types, transpose, registers, a, b, p, ...)                    \
  asm volatile(                                                                         \
      "{\n"                                                                             \
      ".reg .pred p;\n"                                                                 \
      "setp.ne.b32 p, " p                                                               \
      ", 0;\n"                                                                          \
      "wgmma.mma_async.sync.aligned." shape ".f32." types " {" registers "}, " a ", " b \
      ", p, 1, 1" transpose                                                             \
      ";\n"                                                                             \
      "}"                                                                               \
      : __VA_ARGS__                                                                     \
      : "l"(descriptor_a), "l"(descriptor_b), "r"(int(scale_d)))

#define FLUX_WGMMA_OVERLOADS(n, registers, a, b, p, ...)                                       \
  template <>                                                                                  \
  struct Wgmma<__nv_fp8_e4m3, n> {                                                             \
    __device__ static __forceinline__ void mma_async(float (&d)[n / 2], uint64_t descriptor_a, \
                                                     uint64_t descriptor_b, bool scale_d) {    \
      FLUX_WGMMA("m64n" #n "k32", "e4m3.e4m3", "", registers, a, b, p, __VA_ARGS__);           \
    }                                                                                          \
  };                                                                                           \
  template <>                                                                                  \
  struct Wgmma<__nv_bfloat16, n> {                                                             \
    __device__ static __forceinline__ void mma_async(float (&d)[n / 2], uint64_t descriptor_a, \
                                                     uint64_t descriptor_b, bool scale_d) {    \
      FLUX_WGMMA("m64n" #n "k16", "bf16.bf16", ", 0, 0", registers, a, b, p, __VA_ARGS__);     \
    }                                                                                          \
  }

template <typename Operand, int kN>
struct Wgmma;

FLUX_WGMMA_OVERLOADS(16, FLUX_R0_7, "%8", "%9", "%10", FLUX_D8(0));
FLUX_WGMMA_OVERLOADS(64, FLUX_R0_31, "%32", "%33", "%34", FLUX_D32(0));
FLUX_WGMMA_OVERLOADS(128, FLUX_R0_63, "%64", "%65", "%66", FLUX_D32(0), FLUX_D32(32));
FLUX_WGMMA_OVERLOADS(192, FLUX_R0_63 ", " FLUX_R64_95, "%96", "%97", "%98", FLUX_D32(0), FLUX_D32(32),
                     FLUX_D32(64));
FLUX_WGMMA_OVERLOADS(224, FLUX_R0_63 ", " FLUX_R64_95 ", " FLUX_R96_111, "%112", "%113", "%114", FLUX_D32(0),
                     FLUX_D32(32), FLUX_D32(64), FLUX_D8(96), FLUX_D8(104));
FLUX_WGMMA_OVERLOADS(256, FLUX_R0_63 ", " FLUX_R64_95 ", " FLUX_R96_111 ", " FLUX_R112_127, "%128", "%129",
                     "%130", FLUX_D32(0), FLUX_D32(32), FLUX_D32(64), FLUX_D32(96));

#undef FLUX_WGMMA_OVERLOADS
#undef FLUX_WGMMA
#undef FLUX_R0_7
#undef FLUX_R0_31
#undef FLUX_R0_63
#undef FLUX_R64_95
#undef FLUX_R96_111
#undef FLUX_R112_127
#undef FLUX_D32
#undef FLUX_D8

}  // namespace flux::ptx
