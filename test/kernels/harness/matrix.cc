#include "harness/matrix.h"

#include <cmath>

namespace flux::testing {
namespace {

// splitmix64's finaliser over a counter.
uint64_t mixed(uint64_t counter) {
  counter += 0x9e3779b97f4a7c15ull;
  counter = (counter ^ (counter >> 30)) * 0xbf58476d1ce4e5b9ull;
  counter = (counter ^ (counter >> 27)) * 0x94d049bb133111ebull;
  return counter ^ (counter >> 31);
}

// In (0, 1).
double unit(uint64_t counter) { return (double(mixed(counter) >> 11) + 0.5) * 0x1p-53; }

}  // namespace

Matrix normal(int64_t rows, int64_t cols, uint64_t seed, float deviation, float mean) {
  Matrix matrix(rows, cols);
  const uint64_t base = mixed(seed);
  const int64_t count = rows * cols;
  for (int64_t i = 0; i < count; i += 2) {
    const double radius = std::sqrt(-2.0 * std::log(unit(base + uint64_t(i))));
    const double angle = 6.283185307179586 * unit(base + uint64_t(i) + 1);
    matrix.values[size_t(i)] = mean + deviation * float(radius * std::cos(angle));
    if (i + 1 < count) matrix.values[size_t(i + 1)] = mean + deviation * float(radius * std::sin(angle));
  }
  return matrix;
}

Matrix uniform(int64_t rows, int64_t cols, uint64_t seed, float low, float high) {
  Matrix matrix(rows, cols);
  const uint64_t base = mixed(seed);
  for (size_t i = 0; i < matrix.values.size(); ++i) {
    matrix.values[i] = low + (high - low) * float(unit(base + i));
  }
  return matrix;
}

Matrix one_hot(int64_t rows, int64_t cols, int64_t hot_row, int64_t hot_col, float value) {
  Matrix matrix(rows, cols);
  matrix.at(hot_row, hot_col) = value;
  return matrix;
}

Matrix index_ramp(int64_t rows, int64_t cols) {
  Matrix matrix(rows, cols);
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < cols; ++c) matrix.at(r, c) = float((r * 37 + c * 11 + (c / 8) * 5) % 127 - 63);
  }
  return matrix;
}

Matrix constant_per_row(int64_t rows, int64_t cols) {
  Matrix matrix(rows, cols);
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < cols; ++c) matrix.at(r, c) = float(r % 113 - 56) * 0.25f;
  }
  return matrix;
}

Matrix rounded_to(Matrix matrix, Element type) {
  for (float& value : matrix.values) value = rounded(value, type);
  return matrix;
}

Matrix heavy_tailed(int64_t rows, int64_t cols, uint64_t seed) {
  Matrix matrix = normal(rows, cols, seed);
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < cols; ++c) {
      if (c % 64 == 5) matrix.at(r, c) *= 20.0f;
      if (r % 16 == 3) matrix.at(r, c) *= 8.0f;
    }
  }
  return matrix;
}

}  // namespace flux::testing
