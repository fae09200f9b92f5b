// wgmma as attention uses it: scores = Q·Kᵀ with both operands in shared memory (bf16, e4m3 or int8), and values = P·V
// with P in registers. ptx/wgmma.cuh has the fences, the accumulator's layout and the GEMM's forms.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp8.h>

#include <cstdint>

namespace flux::ptx {

// Shared-memory layouts of an operand; strides in bytes.
//   kSwizzle128: rows of 128 bytes in 1024-byte groups of 8, the 128-byte swizzle applied by TMA. K-major operands: `outer`
//     is the distance between groups of 8 rows. MN-major ones (bf16 only): rows are 128 bytes of the M or N axis, `outer`
//     the distance between groups of 8 k, `leading` that between blocks of 128 bytes of the M or N axis.
//   kCoreMatrices: no swizzle. K-major: blocks of 8 rows × 16 bytes, 128 bytes each; `leading` is the distance between
//     blocks along k, `outer` that along rows.
enum class OperandLayout : uint64_t { kCoreMatrices = 0, kSwizzle128 = 1 };

template <OperandLayout kLayout>
struct WgmmaOperand {
  uint32_t low, high;  // of the descriptor

  __device__ __forceinline__ WgmmaOperand(uint32_t address, uint32_t leading, uint32_t outer)
      : low((address & 0x3ffff) >> 4 | leading << 12),  // in a cluster, an address has the block's rank above
        high(uint32_t(kLayout) << 30 | outer >> 4) {}

  // The descriptor `bytes` further, a multiple of 16.
  __device__ __forceinline__ uint64_t at(uint32_t bytes) const {
    return uint64_t(high) << 32 | (low + (bytes >> 4));
  }
};

// WgmmaScores<Operand, n>::mma_async(d, a, b, scale_d): D[64 × n] (+)= A·Bᵀ, both K-major in shared memory; K is 32 bytes.
// D is s32 for int8 and f32 otherwise; scale_d 0 overwrites it.
template <typename Operand, int kN>
struct WgmmaScores;

// WgmmaValues<Operand, n>::mma_async(d, a, b): D[64 × n] += A·B, A in registers (four of 32 bits: rows r and r + 8 of the
// first 16 bytes of k, then of the second), B in shared memory: n-major for bf16, k-major for e4m3.
template <typename Operand, int kN>
struct WgmmaValues;

#define FLUX_R0 "%0, %1, %2, %3, %4, %5, %6, %7"
#define FLUX_R1 "%8, %9, %10, %11, %12, %13, %14, %15"
#define FLUX_R2 "%16, %17, %18, %19, %20, %21, %22, %23"
#define FLUX_R3 "%24, %25, %26, %27, %28, %29, %30, %31"
#define FLUX_R4 "%32, %33, %34, %35, %36, %37, %38, %39"
#define FLUX_R5 "%40, %41, %42, %43, %44, %45, %46, %47"
#define FLUX_R6 "%48, %49, %50, %51, %52, %53, %54, %55"
#define FLUX_R7 "%56, %57, %58, %59, %60, %61, %62, %63"
#define FLUX_R8 "%64, %65, %66, %67, %68, %69, %70, %71"
#define FLUX_R9 "%72, %73, %74, %75, %76, %77, %78, %79"
#define FLUX_R10 "%80, %81, %82, %83, %84, %85, %86, %87"
#define FLUX_R11 "%88, %89, %90, %91, %92, %93, %94, %95"
#define FLUX_R12 "%96, %97, %98, %99, %100, %101, %102, %103"
#define FLUX_R13 "%104, %105, %106, %107, %108, %109, %110, %111"
#define FLUX_R14 "%112, %113, %114, %115, %116, %117, %118, %119"
#define FLUX_R15 "%120, %121, %122, %123, %124, %125, %126, %127"
#define FLUX_D8(c, i) \
  c(d[i]), c(d[i + 1]), c(d[i + 2]), c(d[i + 3]), c(d[i + 4]), c(d[i + 5]), c(d[i + 6]), c(d[i + 7])

#define FLUX_SCORES(operand, accumulator, shape, types, scales, n, registers, a, b, p, ...)          \
  template <>                                                                                        \
  struct WgmmaScores<operand, n> {                                                                   \
    __device__ static __forceinline__ void mma_async(accumulator (&d)[n / 2], uint64_t descriptor_a, \
                                                     uint64_t descriptor_b, int scale_d) {           \
      asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, " p                                             \
                   ", 0;\n"                                                                          \
                   "wgmma.mma_async.sync.aligned." shape "." types " {" registers "}, " a ", " b     \
                   ", p" scales ";\n}"                                                               \
                   : __VA_ARGS__                                                                     \
                   : "l"(descriptor_a), "l"(descriptor_b), "r"(scale_d));                            \
    }                                                                                                \
  }

FLUX_SCORES(__nv_bfloat16, float, "m64n64k16", "f32.bf16.bf16", ", 1, 1, 0, 0", 64,
            FLUX_R0 ", " FLUX_R1 ", " FLUX_R2 ", " FLUX_R3, "%32", "%33", "%34", FLUX_D8("+f", 0),
            FLUX_D8("+f", 8), FLUX_D8("+f", 16), FLUX_D8("+f", 24));
FLUX_SCORES(__nv_fp8_e4m3, float, "m64n64k32", "f32.e4m3.e4m3", ", 1, 1", 64,
            FLUX_R0 ", " FLUX_R1 ", " FLUX_R2 ", " FLUX_R3, "%32", "%33", "%34", FLUX_D8("+f", 0),
            FLUX_D8("+f", 8), FLUX_D8("+f", 16), FLUX_D8("+f", 24));
FLUX_SCORES(int8_t, int32_t, "m64n64k32", "s32.s8.s8", "", 64, FLUX_R0 ", " FLUX_R1 ", " FLUX_R2 ", " FLUX_R3,
            "%32", "%33", "%34", FLUX_D8("+r", 0), FLUX_D8("+r", 8), FLUX_D8("+r", 16), FLUX_D8("+r", 24));
FLUX_SCORES(__nv_bfloat16, float, "m64n80k16", "f32.bf16.bf16", ", 1, 1, 0, 0", 80,
            FLUX_R0 ", " FLUX_R1 ", " FLUX_R2 ", " FLUX_R3 ", " FLUX_R4, "%40", "%41", "%42",
            FLUX_D8("+f", 0), FLUX_D8("+f", 8), FLUX_D8("+f", 16), FLUX_D8("+f", 24), FLUX_D8("+f", 32));
FLUX_SCORES(__nv_fp8_e4m3, float, "m64n80k32", "f32.e4m3.e4m3", ", 1, 1", 80,
            FLUX_R0 ", " FLUX_R1 ", " FLUX_R2 ", " FLUX_R3 ", " FLUX_R4, "%40", "%41", "%42",
            FLUX_D8("+f", 0), FLUX_D8("+f", 8), FLUX_D8("+f", 16), FLUX_D8("+f", 24), FLUX_D8("+f", 32));
FLUX_SCORES(int8_t, int32_t, "m64n80k32", "s32.s8.s8", "", 80,
            FLUX_R0 ", " FLUX_R1 ", " FLUX_R2 ", " FLUX_R3 ", " FLUX_R4, "%40", "%41", "%42",
            FLUX_D8("+r", 0), FLUX_D8("+r", 8), FLUX_D8("+r", 16), FLUX_D8("+r", 24), FLUX_D8("+r", 32));
FLUX_SCORES(__nv_bfloat16, float, "m64n96k16", "f32.bf16.bf16", ", 1, 1, 0, 0", 96,
            FLUX_R0 ", " FLUX_R1 ", " FLUX_R2 ", " FLUX_R3 ", " FLUX_R4 ", " FLUX_R5, "%48", "%49", "%50",
            FLUX_D8("+f", 0), FLUX_D8("+f", 8), FLUX_D8("+f", 16), FLUX_D8("+f", 24), FLUX_D8("+f", 32),
            FLUX_D8("+f", 40));
FLUX_SCORES(__nv_fp8_e4m3, float, "m64n96k32", "f32.e4m3.e4m3", ", 1, 1", 96,
            FLUX_R0 ", " FLUX_R1 ", " FLUX_R2 ", " FLUX_R3 ", " FLUX_R4 ", " FLUX_R5, "%48", "%49", "%50",
            FLUX_D8("+f", 0), FLUX_D8("+f", 8), FLUX_D8("+f", 16), FLUX_D8("+f", 24), FLUX_D8("+f", 32),
            FLUX_D8("+f", 40));
FLUX_SCORES(int8_t, int32_t, "m64n96k32", "s32.s8.s8", "", 96,
            FLUX_R0 ", " FLUX_R1 ", " FLUX_R2 ", " FLUX_R3 ", " FLUX_R4 ", " FLUX_R5, "%48", "%49", "%50",
            FLUX_D8("+r", 0), FLUX_D8("+r", 8), FLUX_D8("+r", 16), FLUX_D8("+r", 24), FLUX_D8("+r", 32),
            FLUX_D8("+r", 40));
FLUX_SCORES(__nv_bfloat16, float, "m64n112k16", "f32.bf16.bf16", ", 1, 1, 0, 0", 112,
            FLUX_R0 ", " FLUX_R1 ", " FLUX_R2 ", " FLUX_R3 ", " FLUX_R4 ", " FLUX_R5 ", " FLUX_R6, "%56",
            "%57", "%58", FLUX_D8("+f", 0), FLUX_D8("+f", 8), FLUX_D8("+f", 16), FLUX_D8("+f", 24),
            FLUX_D8("+f", 32), FLUX_D8("+f", 40), FLUX_D8("+f", 48));
FLUX_SCORES(__nv_fp8_e4m3, float, "m64n112k32", "f32.e4m3.e4m3", ", 1, 1", 112,
            FLUX_R0 ", " FLUX_R1 ", " FLUX_R2 ", " FLUX_R3 ", " FLUX_R4 ", " FLUX_R5 ", " FLUX_R6, "%56",
            "%57", "%58", FLUX_D8("+f", 0), FLUX_D8("+f", 8), FLUX_D8("+f", 16), FLUX_D8("+f", 24),
            FLUX_D8("+f", 32), FLUX_D8("+f", 40), FLUX_D8("+f", 48));
FLUX_SCORES(int8_t, int32_t, "m64n112k32", "s32.s8.s8", "", 112,
            FLUX_R0 ", " FLUX_R1 ", " FLUX_R2 ", " FLUX_R3 ", " FLUX_R4 ", " FLUX_R5 ", " FLUX_R6, "%56",
            "%57", "%58", FLUX_D8("+r", 0), FLUX_D8("+r", 8), FLUX_D8("+r", 16), FLUX_D8("+r", 24),
            FLUX_D8("+r", 32), FLUX_D8("+r", 40), FLUX_D8("+r", 48));
FLUX_SCORES(__nv_bfloat16, float, "m64n128k16", "f32.bf16.bf16", ", 1, 1, 0, 0", 128,
            FLUX_R0 ", " FLUX_R1 ", " FLUX_R2 ", " FLUX_R3 ", " FLUX_R4 ", " FLUX_R5 ", " FLUX_R6
                    ", " FLUX_R7,
            "%64", "%65", "%66", FLUX_D8("+f", 0), FLUX_D8("+f", 8), FLUX_D8("+f", 16), FLUX_D8("+f", 24),
            FLUX_D8("+f", 32), FLUX_D8("+f", 40), FLUX_D8("+f", 48), FLUX_D8("+f", 56));
FLUX_SCORES(__nv_fp8_e4m3, float, "m64n128k32", "f32.e4m3.e4m3", ", 1, 1", 128,
            FLUX_R0 ", " FLUX_R1 ", " FLUX_R2 ", " FLUX_R3 ", " FLUX_R4 ", " FLUX_R5 ", " FLUX_R6
                    ", " FLUX_R7,
            "%64", "%65", "%66", FLUX_D8("+f", 0), FLUX_D8("+f", 8), FLUX_D8("+f", 16), FLUX_D8("+f", 24),
            FLUX_D8("+f", 32), FLUX_D8("+f", 40), FLUX_D8("+f", 48), FLUX_D8("+f", 56));
FLUX_SCORES(int8_t, int32_t, "m64n128k32", "s32.s8.s8", "", 128,
            FLUX_R0 ", " FLUX_R1 ", " FLUX_R2 ", " FLUX_R3 ", " FLUX_R4 ", " FLUX_R5 ", " FLUX_R6
                    ", " FLUX_R7,
            "%64", "%65", "%66", FLUX_D8("+r", 0), FLUX_D8("+r", 8), FLUX_D8("+r", 16), FLUX_D8("+r", 24),
            FLUX_D8("+r", 32), FLUX_D8("+r", 40), FLUX_D8("+r", 48), FLUX_D8("+r", 56));
FLUX_SCORES(__nv_bfloat16, float, "m64n160k16", "f32.bf16.bf16", ", 1, 1, 0, 0", 160,
            FLUX_R0 ", " FLUX_R1 ", " FLUX_R2 ", " FLUX_R3 ", " FLUX_R4 ", " FLUX_R5 ", " FLUX_R6 ", " FLUX_R7
                    ", " FLUX_R8 ", " FLUX_R9,
            "%80", "%81", "%82", FLUX_D8("+f", 0), FLUX_D8("+f", 8), FLUX_D8("+f", 16), FLUX_D8("+f", 24),
            FLUX_D8("+f", 32), FLUX_D8("+f", 40), FLUX_D8("+f", 48), FLUX_D8("+f", 56), FLUX_D8("+f", 64),
            FLUX_D8("+f", 72));
FLUX_SCORES(__nv_fp8_e4m3, float, "m64n160k32", "f32.e4m3.e4m3", ", 1, 1", 160,
            FLUX_R0 ", " FLUX_R1 ", " FLUX_R2 ", " FLUX_R3 ", " FLUX_R4 ", " FLUX_R5 ", " FLUX_R6 ", " FLUX_R7
                    ", " FLUX_R8 ", " FLUX_R9,
            "%80", "%81", "%82", FLUX_D8("+f", 0), FLUX_D8("+f", 8), FLUX_D8("+f", 16), FLUX_D8("+f", 24),
            FLUX_D8("+f", 32), FLUX_D8("+f", 40), FLUX_D8("+f", 48), FLUX_D8("+f", 56), FLUX_D8("+f", 64),
            FLUX_D8("+f", 72));
FLUX_SCORES(int8_t, int32_t, "m64n160k32", "s32.s8.s8", "", 160,
            FLUX_R0 ", " FLUX_R1 ", " FLUX_R2 ", " FLUX_R3 ", " FLUX_R4 ", " FLUX_R5 ", " FLUX_R6 ", " FLUX_R7
                    ", " FLUX_R8 ", " FLUX_R9,
            "%80", "%81", "%82", FLUX_D8("+r", 0), FLUX_D8("+r", 8), FLUX_D8("+r", 16), FLUX_D8("+r", 24),
            FLUX_D8("+r", 32), FLUX_D8("+r", 40), FLUX_D8("+r", 48), FLUX_D8("+r", 56), FLUX_D8("+r", 64),
            FLUX_D8("+r", 72));
FLUX_SCORES(__nv_bfloat16, float, "m64n176k16", "f32.bf16.bf16", ", 1, 1, 0, 0", 176,
            FLUX_R0 ", " FLUX_R1 ", " FLUX_R2 ", " FLUX_R3 ", " FLUX_R4 ", " FLUX_R5 ", " FLUX_R6 ", " FLUX_R7
                    ", " FLUX_R8 ", " FLUX_R9 ", " FLUX_R10,
            "%88", "%89", "%90", FLUX_D8("+f", 0), FLUX_D8("+f", 8), FLUX_D8("+f", 16), FLUX_D8("+f", 24),
            FLUX_D8("+f", 32), FLUX_D8("+f", 40), FLUX_D8("+f", 48), FLUX_D8("+f", 56), FLUX_D8("+f", 64),
            FLUX_D8("+f", 72), FLUX_D8("+f", 80));
FLUX_SCORES(__nv_fp8_e4m3, float, "m64n176k32", "f32.e4m3.e4m3", ", 1, 1", 176,
            FLUX_R0 ", " FLUX_R1 ", " FLUX_R2 ", " FLUX_R3 ", " FLUX_R4 ", " FLUX_R5 ", " FLUX_R6 ", " FLUX_R7
                    ", " FLUX_R8 ", " FLUX_R9 ", " FLUX_R10,
            "%88", "%89", "%90", FLUX_D8("+f", 0), FLUX_D8("+f", 8), FLUX_D8("+f", 16), FLUX_D8("+f", 24),
            FLUX_D8("+f", 32), FLUX_D8("+f", 40), FLUX_D8("+f", 48), FLUX_D8("+f", 56), FLUX_D8("+f", 64),
            FLUX_D8("+f", 72), FLUX_D8("+f", 80));
FLUX_SCORES(int8_t, int32_t, "m64n176k32", "s32.s8.s8", "", 176,
            FLUX_R0 ", " FLUX_R1 ", " FLUX_R2 ", " FLUX_R3 ", " FLUX_R4 ", " FLUX_R5 ", " FLUX_R6 ", " FLUX_R7
                    ", " FLUX_R8 ", " FLUX_R9 ", " FLUX_R10,
            "%88", "%89", "%90", FLUX_D8("+r", 0), FLUX_D8("+r", 8), FLUX_D8("+r", 16), FLUX_D8("+r", 24),
            FLUX_D8("+r", 32), FLUX_D8("+r", 40), FLUX_D8("+r", 48), FLUX_D8("+r", 56), FLUX_D8("+r", 64),
            FLUX_D8("+r", 72), FLUX_D8("+r", 80));

#define FLUX_VALUES(operand, shape, types, transpose, n, registers, a, b, ...)                         \
  template <>                                                                                          \
  struct WgmmaValues<operand, n> {                                                                     \
    __device__ static __forceinline__ void mma_async(float (&d)[n / 2], const uint32_t (&a_)[4],       \
                                                     uint64_t descriptor_b) {                          \
      asm volatile("wgmma.mma_async.sync.aligned." shape ".f32." types " {" registers "}, {" a "}, " b \
                   ", 1, 1, 1" transpose ";\n"                                                         \
                   : __VA_ARGS__                                                                       \
                   : "r"(a_[0]), "r"(a_[1]), "r"(a_[2]), "r"(a_[3]), "l"(descriptor_b));               \
    }                                                                                                  \
  }

FLUX_VALUES(__nv_bfloat16, "m64n64k16", "bf16.bf16", ", 1", 64,
            FLUX_R0 ", " FLUX_R1 ", " FLUX_R2 ", " FLUX_R3, "%32, %33, %34, %35", "%36", FLUX_D8("+f", 0),
            FLUX_D8("+f", 8), FLUX_D8("+f", 16), FLUX_D8("+f", 24));
FLUX_VALUES(__nv_bfloat16, "m64n128k16", "bf16.bf16", ", 1", 128,
            FLUX_R0 ", " FLUX_R1 ", " FLUX_R2 ", " FLUX_R3 ", " FLUX_R4 ", " FLUX_R5 ", " FLUX_R6
                    ", " FLUX_R7,
            "%64, %65, %66, %67", "%68", FLUX_D8("+f", 0), FLUX_D8("+f", 8), FLUX_D8("+f", 16),
            FLUX_D8("+f", 24), FLUX_D8("+f", 32), FLUX_D8("+f", 40), FLUX_D8("+f", 48), FLUX_D8("+f", 56));
FLUX_VALUES(__nv_bfloat16, "m64n256k16", "bf16.bf16", ", 1", 256,
            FLUX_R0 ", " FLUX_R1 ", " FLUX_R2 ", " FLUX_R3 ", " FLUX_R4 ", " FLUX_R5 ", " FLUX_R6 ", " FLUX_R7
                    ", " FLUX_R8 ", " FLUX_R9 ", " FLUX_R10 ", " FLUX_R11 ", " FLUX_R12 ", " FLUX_R13
                    ", " FLUX_R14 ", " FLUX_R15,
            "%128, %129, %130, %131", "%132", FLUX_D8("+f", 0), FLUX_D8("+f", 8), FLUX_D8("+f", 16),
            FLUX_D8("+f", 24), FLUX_D8("+f", 32), FLUX_D8("+f", 40), FLUX_D8("+f", 48), FLUX_D8("+f", 56),
            FLUX_D8("+f", 64), FLUX_D8("+f", 72), FLUX_D8("+f", 80), FLUX_D8("+f", 88), FLUX_D8("+f", 96),
            FLUX_D8("+f", 104), FLUX_D8("+f", 112), FLUX_D8("+f", 120));
FLUX_VALUES(__nv_fp8_e4m3, "m64n128k32", "e4m3.e4m3", "", 128,
            FLUX_R0 ", " FLUX_R1 ", " FLUX_R2 ", " FLUX_R3 ", " FLUX_R4 ", " FLUX_R5 ", " FLUX_R6
                    ", " FLUX_R7,
            "%64, %65, %66, %67", "%68", FLUX_D8("+f", 0), FLUX_D8("+f", 8), FLUX_D8("+f", 16),
            FLUX_D8("+f", 24), FLUX_D8("+f", 32), FLUX_D8("+f", 40), FLUX_D8("+f", 48), FLUX_D8("+f", 56));

// WgmmaWide::mma_async(d, a, b): D[64 × 256] += A·B in bf16, both in shared memory, A k-major and B n-major.
struct WgmmaWide {
  __device__ static __forceinline__ void mma_async(float (&d)[128], uint64_t descriptor_a,
                                                   uint64_t descriptor_b) {
    asm volatile("wgmma.mma_async.sync.aligned.m64n256k16.f32.bf16.bf16 {" FLUX_R0 ", " FLUX_R1 ", " FLUX_R2
                 ", " FLUX_R3 ", " FLUX_R4 ", " FLUX_R5 ", " FLUX_R6 ", " FLUX_R7 ", " FLUX_R8 ", " FLUX_R9
                 ", " FLUX_R10 ", " FLUX_R11 ", " FLUX_R12 ", " FLUX_R13 ", " FLUX_R14 ", " FLUX_R15
                 "}, %128, %129, 1, 1, 1, 0, 1;\n"
                 : FLUX_D8("+f", 0), FLUX_D8("+f", 8), FLUX_D8("+f", 16), FLUX_D8("+f", 24),
                   FLUX_D8("+f", 32), FLUX_D8("+f", 40), FLUX_D8("+f", 48), FLUX_D8("+f", 56),
                   FLUX_D8("+f", 64), FLUX_D8("+f", 72), FLUX_D8("+f", 80), FLUX_D8("+f", 88),
                   FLUX_D8("+f", 96), FLUX_D8("+f", 104), FLUX_D8("+f", 112), FLUX_D8("+f", 120)
                 : "l"(descriptor_a), "l"(descriptor_b));
  }
};

#undef FLUX_R0
#undef FLUX_R1
#undef FLUX_R2
#undef FLUX_R3
#undef FLUX_R4
#undef FLUX_R5
#undef FLUX_R6
#undef FLUX_R7
#undef FLUX_R8
#undef FLUX_R9
#undef FLUX_R10
#undef FLUX_R11
#undef FLUX_R12
#undef FLUX_R13
#undef FLUX_R14
#undef FLUX_R15
#undef FLUX_D8
#undef FLUX_SCORES
#undef FLUX_VALUES

}  // namespace flux::ptx
