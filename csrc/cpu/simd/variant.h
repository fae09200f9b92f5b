// The functions that the files of this folder define for one variant; table.cc gathers them.
#pragma once

#include "cpu/simd/kernels.h"
#include "cpu/simd/vector.h"

namespace flux::cpu::FLUX_SIMD {

// Tile sizes: as many accumulators as the registers hold, beside one vector of each side.
//   avx512    32 registers   14 × 2 vectors of 16
//   avx2      16 registers    6 × 2 vectors of 8
//   baseline  16 registers    6 × 2 vectors of 4 (SSE2, NEON)
constexpr int kTileVectors = 2;
constexpr int kTileRows = kLanes == 16 ? 14 : 6;
constexpr int kTileColumns = kTileVectors * kLanes;

// gemm.cc
void tile(const float* left, const float* right, int64_t k, int rows, bool accumulate, float* c, int64_t ldc);
// pack.cc
void pack_f32(const void* const* rows, int count, int width, int64_t k, float* panel);
void pack_bf16(const void* const* rows, int count, int width, int64_t k, float* panel);
void pack_f8(const void* const* rows, int count, int width, int64_t k, float* panel);
void pack_columns(const float* x, int64_t ld, int64_t rows, int64_t columns, float* panels);
// softmax.cc
void softmax_block(float* scores, const float* bias, int64_t keys, float scale, int64_t visible,
                   float* maximum, float* sum, float* correction);
void scale_columns(float* x, int64_t rows, const float* factor);
void store_transposed(const float* x, int64_t rows, int columns, const float* sum, float* y, int64_t ldy);
// norm.cc
void layer_norm(const float* x, const float* weight, float unit, const float* bias, float eps, int64_t n,
                float* y);
void rms_norm(const float* x, const float* weight, float eps, int64_t n, float* y);
void rotate_pairs(const float* x, const float* table, int64_t n, float* y);
void normalise_columns(const float* x, const float* mean, const float* scale, const float* bias, int64_t n,
                       Activation activation, float* y);
void column_moments(const float* x, int64_t ld, int64_t rows, int64_t n, float* mean, float* m2);
// elementwise.cc
void epilogue(const float* sum, const Epilogue& epilogue, int64_t n, float* y);
void activate(const float* x, int64_t n, Activation activation, float* y);
void multiply(const float* a, const float* b, int64_t n, Activation activation, float* y);
void add_scaled(const float* a, const float* b, float factor, int64_t n, float* y);
void interpolate(const float* a, const float* b, float t, int64_t n, float* y);
void combine(const float* a, float p, const float* b, float q, int64_t n, float* y);
float quantise_row(const float* x, int64_t n, uint8_t* codes);
// random.cc
void random_bf16(uint64_t key, uint64_t first, float mean, float deviation, int64_t n, uint16_t* out);

// table.cc
extern const SimdKernels kKernels;

}  // namespace flux::cpu::FLUX_SIMD
