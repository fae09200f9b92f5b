// Operands of a product with a low-rank branch.
#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include "gemm_operands.h"

namespace flux::testing {

// A product with a branch: low and up as the kernel reads them, and x with the branch in it. Values are such that the branch
// is about as large as the product.
struct LowCase {
  LowCase(const GemmShape& shape, Element type, int64_t rank, const std::vector<int64_t>& begins,
          uint64_t seed)
      : product(random_product(shape, type, seed)),
        low(rounded_to(normal(shape.m, rank * int64_t(begins.size()), seed + 3), Element::kBF16)),
        up(rounded_to(normal(shape.n, rank, seed + 4, type == Element::kE4M3 ? 5000.0f : 1.0f),
                      Element::kBF16)),
        device_low(low, Element::kBF16, low.cols + 16),
        device_up(up, Element::kBF16) {
    for (int64_t n = 0; n < shape.n; ++n) {
      int64_t part = 0;
      while (part + 1 < int64_t(begins.size()) && n >= begins[size_t(part + 1)]) ++part;
      const double column = product.w.scale.empty() ? 1.0 : product.w.scale[size_t(n)];
      for (int64_t m = 0; m < shape.m; ++m) {
        double sum = 0;
        for (int64_t r = 0; r < rank; ++r) sum += double(low.at(m, part * rank + r)) * up.at(n, r);
        product.x.at(m, n) +=
            float(sum * column * (product.a.scale.empty() ? 1.0 : product.a.scale[size_t(m)]));
      }
    }
  }
  kernels::GemmGroup group(int64_t batches = 1) const {
    kernels::GemmGroup group = product.group(batches);
    group.low = {device_low.data(), low.cols + 16, group.rows * (low.cols + 16)};
    group.up = device_up.data();
    return group;
  }
  // For e4m3 output: bounds[0] holds |x − bias| of every row over its scale, bounds[1] random_product's bias.
  Matrix bounds() const {
    constexpr float kBias = 6;
    Matrix bounds(1, 2);
    for (int64_t m = 0; m < product.x.rows; ++m) {
      for (int64_t n = 0; n < product.x.cols; ++n) {
        const float reach = (std::abs(product.x.at(m, n)) + kBias) / product.a.scale[size_t(m)];
        bounds.at(0, 0) = std::max(bounds.at(0, 0), reach);
      }
    }
    bounds.at(0, 1) = kBias;
    return bounds;
  }
  ProductCase product;
  Matrix low, up;
  Input device_low, device_up;
};

}  // namespace flux::testing
