// Normalisations and rotary embedding of one row, and the statistics of columns that group norm is made of.
#include "cpu/simd/activation.h"
#include "cpu/simd/variant.h"

namespace flux::cpu::FLUX_SIMD {

namespace {

// Σ f(x) with four independent partial sums of vectors, whose order depends on n only.
template <typename Term>
FLUX_INLINE float sum_of(const float* x, int64_t n, const Term& term) {
  Vec partial[4] = {};
  int64_t i = 0;
  for (; i + 4 * kLanes <= n; i += 4 * kLanes) {
    for (int j = 0; j < 4; ++j) partial[j] += term(load(x + i + j * kLanes));
  }
  for (; i + kLanes <= n; i += kLanes) partial[0] += term(load(x + i));
  float sum = sum_lanes((partial[0] + partial[1]) + (partial[2] + partial[3]));
  for (; i < n; ++i) sum += term(splat(x[i]))[0];
  return sum;
}

}  // namespace

void layer_norm(const float* x, const float* weight, float unit, const float* bias, float eps, int64_t n,
                float* y) {
  const float count = static_cast<float>(n);
  const float mean = sum_of(x, n, [](Vec v) { return v; }) / count;
  const float variance = sum_of(x, n, [mean](Vec v) { return (v - mean) * (v - mean); }) / count;
  const float inverse = 1.0f / __builtin_sqrtf(variance + eps);
  for_each_vector(n, [&](int64_t i, auto access) {
    Vec v = (access.load(x + i) - mean) * inverse;
    if (weight != nullptr) v = v * (access.load(weight + i) + unit);
    if (bias != nullptr) v = v + access.load(bias + i);
    access.store(y + i, v);
  });
}

void rms_norm(const float* x, const float* weight, float eps, int64_t n, float* y) {
  const float mean_square = sum_of(x, n, [](Vec v) { return v * v; }) / static_cast<float>(n);
  const float inverse = 1.0f / __builtin_sqrtf(mean_square + eps);
  for_each_vector(n, [&](int64_t i, auto access) {
    access.store(y + i, access.load(x + i) * inverse * access.load(weight + i));
  });
}

void rotate_pairs(const float* x, const float* table, int64_t n, float* y) {
  for (int64_t i = 0; i + 1 < n; i += 2) {
    const float even = x[i], odd = x[i + 1];
    const float cosine = table[i], sine = table[i + 1];
    y[i] = even * cosine - odd * sine;
    y[i + 1] = odd * cosine + even * sine;
  }
}

void normalise_columns(const float* x, const float* mean, const float* scale, const float* bias, int64_t n,
                       Activation activation, float* y) {
  with_activation(activation, [&](auto act) {
    for_each_vector(n, [&](int64_t i, auto access) {
      const Vec centred = access.load(x + i) - access.load(mean + i);
      access.store(y + i, act(fma(centred, access.load(scale + i), access.load(bias + i))));
    });
  });
}

void column_moments(const float* x, int64_t ld, int64_t rows, int64_t n, float* mean, float* m2) {
  const float count = static_cast<float>(rows);
  for_each_vector(n, [&](int64_t i, auto access) {
    Vec sum = Vec{};
    for (int64_t row = 0; row < rows; ++row) sum += access.load(x + row * ld + i);
    const Vec centre = sum / count;
    Vec squares = Vec{};
    for (int64_t row = 0; row < rows; ++row) {
      const Vec distance = access.load(x + row * ld + i) - centre;
      squares = fma(distance, distance, squares);
    }
    access.store(mean + i, centre);
    access.store(m2 + i, squares);
  });
}

}  // namespace flux::cpu::FLUX_SIMD
