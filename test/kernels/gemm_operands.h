// Operands of a GEMM case: the values, the codes that the kernel reads, and both in device memory.
#pragma once

#include <memory>
#include <vector>

#include "gemm/gemm.h"
#include "harness/case.h"
#include "reference/norms.h"
#include "reference/products.h"

namespace flux::testing {

// `rows` × K in `type` on the device, rows `stride` elements apart; e4m3 with a scale a row.
struct DeviceOperand {
  DeviceOperand(const Matrix& values, Element type, int64_t stride = 0) {
    if (type == Element::kE4M3) {
      const reference::Codes quantised = reference::quantise(values);
      scale = quantised.scale.values;
      seen = Matrix(values.rows, values.cols);
      seen.values = decode(quantised.codes.data(), int64_t(quantised.codes.size()), type);
      scales = std::make_unique<Input>(quantised.scale, Element::kF32);
    } else {
      seen = rounded_to(values, type);
    }
    data = std::make_unique<Input>(seen, type, stride);
  }

  Matrix seen;               // what the kernel reads, before scales
  std::vector<float> scale;  // none with bf16
  std::unique_ptr<Input> data, scales;
  const float* device_scale() const { return scales ? scales->data<float>() : nullptr; }
};

struct GemmShape {
  int64_t m, n, k;
};

inline std::string text(const GemmShape& shape) {
  return std::to_string(shape.m) + "x" + std::to_string(shape.n) + "x" + std::to_string(shape.k);
}

// One group's A, W and bias, with the reference x of gemm.h.
struct ProductCase {
  ProductCase(const Matrix& a_values, const Matrix& w_values, const Matrix& bias_values, Element type,
              int64_t a_stride = 0)
      : a(a_values, type, a_stride),
        w(w_values, type),
        bias(bias_values, Element::kF32),
        stride(a_stride ? a_stride : a_values.cols) {
    x = reference::product({a.seen, w.seen, a.scale, w.scale, bias_values.values});
  }

  // Everything but the outputs and the epilogue's own operands.
  kernels::GemmGroup group(int64_t batches = 1) const {
    kernels::GemmGroup group;
    group.batches = batches;
    group.rows = a.seen.rows / batches;
    group.a = {a.data->data(), stride, group.rows * stride};
    group.a_scale = a.device_scale();
    group.a_scale_batch_stride = group.rows;
    group.w = w.data->data();
    group.w_row_stride = w.seen.cols;
    group.w_scale = w.device_scale();
    group.bias = bias.data<float>();
    return group;
  }

  DeviceOperand a, w;
  Input bias;
  int64_t stride;
  Matrix x;
};

inline ProductCase random_product(const GemmShape& shape, Element type, uint64_t seed, int64_t a_stride = 0) {
  return ProductCase(normal(shape.m, shape.k, seed), normal(shape.n, shape.k, seed + 1, 0.02f),
                     normal(1, shape.n, seed + 2), type, a_stride);
}

inline const char* short_name(Element operand) { return operand == Element::kE4M3 ? "fp8" : "bf16"; }

}  // namespace flux::testing
