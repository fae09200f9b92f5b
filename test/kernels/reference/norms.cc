#include "reference/norms.h"

#include <cmath>

namespace flux::testing::reference {

using kernels::Activation;

double activate(Activation activation, double x) {
  switch (activation) {
    case Activation::kGelu:
      return 0.5 * x * (1.0 + std::tanh(0.7978845608028654 * (x + 0.044715 * x * x * x)));
    case Activation::kSilu:
      return x / (1.0 + std::exp(-x));
    case Activation::kQuickGelu:
      return x / (1.0 + std::exp(-1.702 * x));
    default:
      return x;
  }
}

Matrix layer_norm(const Matrix& x, double epsilon) {
  Matrix y(x.rows, x.cols);
  for (int64_t r = 0; r < x.rows; ++r) {
    double mean = 0, variance = 0;
    for (int64_t c = 0; c < x.cols; ++c) mean += x.at(r, c);
    mean /= double(x.cols);
    for (int64_t c = 0; c < x.cols; ++c) variance += (x.at(r, c) - mean) * (x.at(r, c) - mean);
    variance /= double(x.cols);
    for (int64_t c = 0; c < x.cols; ++c)
      y.at(r, c) = float((x.at(r, c) - mean) / std::sqrt(variance + epsilon));
  }
  return y;
}

Matrix rms_norm(const Matrix& x, double epsilon) {
  Matrix y(x.rows, x.cols);
  for (int64_t r = 0; r < x.rows; ++r) {
    double squares = 0;
    for (int64_t c = 0; c < x.cols; ++c) squares += double(x.at(r, c)) * x.at(r, c);
    const double rms = std::sqrt(squares / double(x.cols) + epsilon);
    for (int64_t c = 0; c < x.cols; ++c) y.at(r, c) = float(x.at(r, c) / rms);
  }
  return y;
}

Matrix affine(const Matrix& x, const Matrix& multiplier, const Matrix& addend, const std::vector<int>& rows) {
  Matrix y(x.rows, x.cols);
  for (int64_t r = 0; r < x.rows; ++r) {
    for (int64_t c = 0; c < x.cols; ++c) {
      y.at(r, c) =
          float(double(x.at(r, c)) * multiplier.at(rows[size_t(r)], c) + addend.at(rows[size_t(r)], c));
    }
  }
  return y;
}

Matrix group_norm(const Matrix& x, int batch, int groups, const Matrix& weight, const Matrix& bias,
                  double epsilon, Activation activation) {
  Matrix y(x.rows, x.cols);
  const int64_t pixels = x.rows / batch, size = x.cols / groups;
  for (int b = 0; b < batch; ++b) {
    for (int g = 0; g < groups; ++g) {
      const auto for_all = [&](auto visit) {
        for (int64_t p = b * pixels; p < (b + 1) * pixels; ++p) {
          for (int64_t c = g * size; c < (g + 1) * size; ++c) visit(p, c);
        }
      };
      double mean = 0, variance = 0;
      const double count = double(pixels * size);
      for_all([&](int64_t p, int64_t c) { mean += x.at(p, c) / count; });
      for_all([&](int64_t p, int64_t c) { variance += (x.at(p, c) - mean) * (x.at(p, c) - mean) / count; });
      const double rstd = 1.0 / std::sqrt(variance + epsilon);
      for_all([&](int64_t p, int64_t c) {
        y.at(p, c) =
            float(activate(activation, (x.at(p, c) - mean) * rstd * weight.at(0, c) + bias.at(0, c)));
      });
    }
  }
  return y;
}

Codes quantise(const Matrix& x) {
  Codes result{std::vector<uint8_t>(size_t(x.rows * x.cols)), Matrix(x.rows, 1)};
  for (int64_t r = 0; r < x.rows; ++r) {
    float largest = 0;
    for (int64_t c = 0; c < x.cols; ++c) largest = std::fmax(largest, std::fabs(x.at(r, c)));
    const float scale = largest / 448.0f > 0 ? largest / 448.0f : 1.0f;
    result.scale.at(r, 0) = scale;
    for (int64_t c = 0; c < x.cols; ++c)
      result.codes[size_t(r * x.cols + c)] = float_to_e4m3(x.at(r, c) / scale);
  }
  return result;
}

}  // namespace flux::testing::reference
