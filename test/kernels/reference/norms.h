// Norms, quantisation and activations in double precision, one value at a time.
#pragma once

#include <vector>

#include "harness/matrix.h"

namespace flux::testing::reference {

double activate(kernels::Activation activation, double x);

// (x − mean) / √(variance + ε) of each row; biased variance.
Matrix layer_norm(const Matrix& x, double epsilon);
// x / √(mean(x²) + ε) of each row.
Matrix rms_norm(const Matrix& x, double epsilon);
// y[r][c] = x[r][c] · multiplier[rows[r]][c] + addend[rows[r]][c]
Matrix affine(const Matrix& x, const Matrix& multiplier, const Matrix& addend, const std::vector<int>& rows);
// x [batch · pixels, channels]; weight and bias [1, channels].
Matrix group_norm(const Matrix& x, int batch, int groups, const Matrix& weight, const Matrix& bias,
                  double epsilon, kernels::Activation activation);

struct Codes {
  std::vector<uint8_t> codes;  // rows × cols
  Matrix scale;                // rows × 1
};
// scale = max|x| / 448 in f32, 1 for a row of zeros; code = e4m3(x / scale).
Codes quantise(const Matrix& x);

}  // namespace flux::testing::reference
