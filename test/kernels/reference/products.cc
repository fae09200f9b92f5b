#include "reference/products.h"

#include <algorithm>
#include <cmath>
#include <thread>

#include "reference/norms.h"

namespace flux::testing::reference {
namespace {

double dot(const float* a, const float* b, int64_t count) {
  double sums[8] = {};
  for (int64_t i = 0; i < count; i += 8) {
    for (int64_t j = 0; j < std::min<int64_t>(8, count - i); ++j)
      sums[j] += double(a[i + j]) * double(b[i + j]);
  }
  double sum = 0;
  for (const double part : sums) sum += part;
  return sum;
}

}  // namespace

Matrix product(const ProductOperands& operands) {
  const Matrix& a = operands.a;
  const Matrix& w = operands.w;
  Matrix x(a.rows, w.rows);
  const auto rows = [&](int64_t begin, int64_t end) {
    for (int64_t n = 0; n < w.rows; ++n) {
      for (int64_t m = begin; m < end; ++m) {
        double value = dot(a.row(m), w.row(n), a.cols);
        if (!operands.a_scale.empty()) value *= operands.a_scale[size_t(m)];
        if (!operands.w_scale.empty()) value *= operands.w_scale[size_t(n)];
        if (!operands.bias.empty()) value += operands.bias[size_t(n)];
        x.at(m, n) = float(value);
      }
    }
  };
  const int64_t workers = std::clamp<int64_t>(std::thread::hardware_concurrency(), 1, a.rows);
  std::vector<std::thread> threads;
  for (int64_t i = 0; i < workers; ++i)
    threads.emplace_back(rows, a.rows * i / workers, a.rows * (i + 1) / workers);
  for (std::thread& thread : threads) thread.join();
  return x;
}

Matrix activated(Matrix x, kernels::Activation activation) {
  for (float& value : x.values) value = float(activate(activation, value));
  return x;
}

void normalise_and_rotate(Matrix& x, int heads, const std::vector<float>& norm_q,
                          const std::vector<float>& norm_k, const std::vector<float>& rope, double eps) {
  const int64_t tokens = int64_t(rope.size()) / 128;
  for (int64_t row = 0; row < x.rows; ++row) {
    for (int head = 0; head < 2 * heads; ++head) {
      const std::vector<float>& norm = head < heads ? norm_q : norm_k;
      double squares = 0;
      for (int c = 0; c < 128; ++c) squares += std::pow(double(x.at(row, head * 128 + c)), 2);
      const double inverse = 1 / std::sqrt(squares / 128 + eps);
      for (int pair = 0; pair < 64; ++pair) {
        float& left = x.at(row, head * 128 + 2 * pair);
        float& right = x.at(row, head * 128 + 2 * pair + 1);
        const double u = left * inverse * norm[size_t(2 * pair)],
                     v = right * inverse * norm[size_t(2 * pair + 1)];
        const double cosine = rope[size_t((row % tokens * 64 + pair) * 2)];
        const double sine = rope[size_t((row % tokens * 64 + pair) * 2 + 1)];
        left = float(u * cosine - v * sine);
        right = float(v * cosine + u * sine);
      }
    }
  }
}

}  // namespace flux::testing::reference
