// layerNorm (with affine weights or modulation) and rmsNorm, a row at a time.
#include "cpu/checks.h"
#include "cpu/kernels.h"
#include "cpu/rows.h"

namespace flux::cpu {

void layer_norm(const OpCall& call, ThreadPool& pool) {
  const TensorView& x = operand(call, "x");
  const TensorView& y = operand(call, "y");
  expect_same_shape(call, "y", y, "x", x);
  const int64_t width = x.inner(), batch = batch_of(x);
  const float* weight = vector_operand(call, "weight", width);
  const float* bias = vector_operand(call, "bias", width);
  const TensorView* shift = optional_operand(call, "shift");
  const TensorView* scale = optional_operand(call, "scale");
  if ((weight != nullptr || bias != nullptr) && (shift != nullptr || scale != nullptr)) {
    fail(call, "takes weight and bias, or shift and scale, not both");
  }
  if (shift != nullptr) expect_shape(call, "shift", *shift, {batch, width});
  if (scale != nullptr) expect_shape(call, "scale", *scale, {batch, width});
  const float eps = float_attribute(call, "eps");
  const int64_t rows_per_batch = x.rows() / std::max<int64_t>(batch, 1);
  const RowOffsets x_rows(x), y_rows(y);
  pool.parallel_for(x.rows(), rows_per_chunk(width), [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const int64_t b = row / rows_per_batch;
      const float* factor = scale == nullptr ? weight : scale->as<const float>() + b * scale->stride[0];
      const float* offset = shift == nullptr ? bias : shift->as<const float>() + b * shift->stride[0];
      simd().layer_norm(x.as<const float>() + x_rows[row], factor, scale == nullptr ? 0.0f : 1.0f, offset,
                        eps, width, y.as<float>() + y_rows[row]);
    }
  });
}

void rms_norm(const OpCall& call, ThreadPool& pool) {
  const TensorView& x = operand(call, "x");
  const TensorView& y = operand(call, "y");
  expect_same_shape(call, "y", y, "x", x);
  call.tensor("weight");  // not optional
  const float* weight = vector_operand(call, "weight", x.inner());
  const float eps = float_attribute(call, "eps");
  const RowOffsets x_rows(x), y_rows(y);
  pool.parallel_for(x.rows(), rows_per_chunk(x.inner()), [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      simd().rms_norm(x.as<const float>() + x_rows[row], weight, eps, x.inner(), y.as<float>() + y_rows[row]);
    }
  });
}

}  // namespace flux::cpu
