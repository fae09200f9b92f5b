// The inner loops of the CPU backend, as a table of functions for each instruction set.
//
// Every .cc file of this folder is compiled once for each variant with -DFLUX_SIMD=<variant>; all that it
// defines is in the namespace flux::cpu::<variant>. These files see no standard containers or algorithms: an
// inline function that the compiler builds with AVX-512 must never be the copy that the linker keeps for the
// rest of the program.
//
// Panels. Both sides of a matrix product are packed: panel `p` of the left matrix holds its rows
// [p·tile_rows, …) as [k][tile_rows], panel `p` of the right one its rows as [k][tile_columns]; missing rows
// are zero. All pointers may be unaligned. Each output element is summed over k in ascending order whatever
// the tile's height, so results depend on neither the tiling nor the threads.
#pragma once

#include <cstdint>

namespace flux::cpu {

enum class Activation { kNone = 0, kGeluTanh = 1, kSilu = 2, kQuickGelu = 3 };

// What follows the sum of a linear or a convolution on a run of columns; null pointers are left out.
//   y = residual + gate · act(sum · row_scale · column_scale + low + bias)
struct Epilogue {
  const float* low = nullptr;  // the low-rank branch
  const float* bias = nullptr;
  const float* gate = nullptr;
  const float* residual = nullptr;
  const float* column_scale = nullptr;
  float row_scale = 1.0f;  // used with column_scale only
  Activation activation = Activation::kNone;
};

// Packs `count` rows of `k` elements each into a panel [k][width]; width is tile_rows or tile_columns, count
// ≤ width. Writes up to kPanelSlack floats past the end of the panel.
using PackRows = void (*)(const void* const* rows, int count, int width, int64_t k, float* panel);

inline constexpr int kPanelSlack = 16;

struct SimdKernels {
  const char* name;
  int tile_rows;
  int tile_columns;

  PackRows pack_f32, pack_bf16, pack_f8;
  // Packs the columns of a row-major matrix [rows, columns] as left-hand panels of ⌈columns / tile_rows⌉ ·
  // rows · tile_rows.
  void (*pack_columns)(const float* x, int64_t ld, int64_t rows, int64_t columns, float* panels);
  // c[rows][tile_columns] (= or +=) Σ_k left[k][rows] · right[k][tile_columns]; rows ≤ tile_rows.
  void (*tile)(const float* left, const float* right, int64_t k, int rows, bool accumulate, float* c,
               int64_t ldc);

  // One block of keys of an online softmax, for tile_columns queries side by side. scores
  // [keys][tile_columns] become exp(scale·score + bias − max); maximum and sum are updated; correction =
  // exp(old maximum − new maximum). Query j sees the first visible + j keys of the block, which may be none
  // (visible < 0) or all. bias may be null.
  void (*softmax_block)(float* scores, const float* bias, int64_t keys, float scale, int64_t visible,
                        float* maximum, float* sum, float* correction);
  // x [rows][tile_columns] *= factor[tile_columns]
  void (*scale_columns)(float* x, int64_t rows, const float* factor);
  // y[j · ldy + i] = x[i][j] / sum[j] for i < rows, j < columns ≤ tile_columns; x is [rows][tile_columns].
  void (*store_transposed)(const float* x, int64_t rows, int columns, const float* sum, float* y,
                           int64_t ldy);

  void (*epilogue)(const float* sum, const Epilogue& epilogue, int64_t n, float* y);
  // y = x̂ · (unit + weight) + bias with x̂ = (x − mean) / sqrt(variance + eps); unit is 0 or 1, null weight
  // and bias are 0 (with a null weight y = x̂ + bias).
  void (*layer_norm)(const float* x, const float* weight, float unit, const float* bias, float eps, int64_t n,
                     float* y);
  // y = x / sqrt(mean(x²) + eps) · weight
  void (*rms_norm)(const float* x, const float* weight, float eps, int64_t n, float* y);
  // Rotates adjacent pairs: table holds n/2 pairs (cos, sin).
  void (*rotate_pairs)(const float* x, const float* table, int64_t n, float* y);
  // y = act((x − mean) · scale + bias), all per column
  void (*normalise_columns)(const float* x, const float* mean, const float* scale, const float* bias,
                            int64_t n, Activation activation, float* y);
  // mean[c] and m2[c] = Σ (x − mean)² over `rows` rows of n columns
  void (*column_moments)(const float* x, int64_t ld, int64_t rows, int64_t n, float* mean, float* m2);

  void (*activate)(const float* x, int64_t n, Activation activation, float* y);
  void (*multiply)(const float* a, const float* b, int64_t n, Activation activation, float* y);  // act(a) · b
  void (*add_scaled)(const float* a, const float* b, float factor, int64_t n, float* y);   // a + factor · b
  void (*interpolate)(const float* a, const float* b, float t, int64_t n, float* y);       // a + t · (b − a)
  void (*combine)(const float* a, float p, const float* b, float q, int64_t n, float* y);  // p · a + q · b
  // Returns max|x| / 448, or 1 where that is zero; codes = e4m3(x / scale).
  float (*quantise_row)(const float* x, int64_t n, uint8_t* codes);
  // Values [first, first + n) of the stream of a key, in bf16: runtime/random_values.h.
  void (*random_bf16)(uint64_t key, uint64_t first, float mean, float deviation, int64_t n, uint16_t* out);
};

// The variant for this processor, chosen once; the environment variable FLUX_SIMD may ask for a lower one.
const SimdKernels& simd();

}  // namespace flux::cpu
