// The products that the GEMM kernels are held against, in double precision from the values that the kernels read.
#pragma once

#include <vector>

#include "harness/matrix.h"

namespace flux::testing::reference {

// a [M, K] and w [N, K] as decoded values. A scale of no entries is 1.
struct ProductOperands {
  Matrix a, w;
  std::vector<float> a_scale, w_scale, bias;
};

// x[m][n] = Σ a·w · a_scale[m] · w_scale[n] + bias[n]
Matrix product(const ProductOperands& operands);

// activation(x), GELU in its tanh form.
Matrix activated(Matrix x, kernels::Activation activation);

// RMSNorm over each 128 columns of the first 2·heads·128 (norm_q, then norm_k), then RoPE by rope [rows · 64 · 2]
// (cos, sin) on adjacent pairs; row r of x uses row r % (rope rows) of the table.
void normalise_and_rotate(Matrix& x, int heads, const std::vector<float>& norm_q,
                          const std::vector<float>& norm_k, const std::vector<float>& rope, double eps);

}  // namespace flux::testing::reference
