// Host inputs and expected values: f32 matrices, and the patterns that reveal layout mistakes.
#pragma once

#include <cstdint>
#include <vector>

#include "harness/formats.h"

namespace flux::testing {

struct Matrix {
  int64_t rows = 0;
  int64_t cols = 0;
  std::vector<float> values;

  Matrix() = default;
  Matrix(int64_t row_count, int64_t col_count, float value = 0.0f)
      : rows(row_count), cols(col_count), values(size_t(row_count * col_count), value) {}
  float& at(int64_t row, int64_t col) { return values[size_t(row * cols + col)]; }
  float at(int64_t row, int64_t col) const { return values[size_t(row * cols + col)]; }
  const float* row(int64_t index) const { return values.data() + index * cols; }
};

// Normal values from a counter-based generator: the same seed gives the same matrix everywhere.
Matrix normal(int64_t rows, int64_t cols, uint64_t seed, float deviation = 1.0f, float mean = 0.0f);
// Uniform in [low, high).
Matrix uniform(int64_t rows, int64_t cols, uint64_t seed, float low, float high);
// Zero but for one element.
Matrix one_hot(int64_t rows, int64_t cols, int64_t hot_row, int64_t hot_col, float value = 1.0f);
// Small integers, exact in bf16, in a pattern that no swap of rows, columns or tiles leaves alone.
Matrix index_ramp(int64_t rows, int64_t cols);
// Row r holds one value that differs from its neighbours' by more than rounding.
Matrix constant_per_row(int64_t rows, int64_t cols);
// Every value after a round trip through `type`: what the kernel will read.
Matrix rounded_to(Matrix matrix, Element type);

// Normal values with the outliers of a transformer's residual stream: every 64th column × 20, every 16th row × 8.
Matrix heavy_tailed(int64_t rows, int64_t cols, uint64_t seed);

}  // namespace flux::testing
