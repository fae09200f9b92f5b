// linear and quantizeRows: y = residual + gate · act(x·Wᵀ + low·lowUpᵀ + bias).
#include <algorithm>
#include <cmath>

#include "cpu/kernels.h"
#include "cpu/linear_operands.h"
#include "cpu/scratch.h"

namespace flux::cpu {

LinearOperands::LinearOperands(const OpCall& call, ThreadPool& pool)
    : x_(operand(call, "x")), weight_(operand(call, "weight", {DType::kF32, DType::kBF16, DType::kF8E4M3})) {
  if (x_.rank < 1 || x_.inner() < 1) fail(call, describe("x", x_) + " must have at least one column");
  rows_ = x_.rows();
  depth_ = x_.inner();
  expect_shape(call, "weight", weight_, {-1, depth_});
  outputs_ = weight_.shape[0];
  bias_ = vector_operand(call, "bias", outputs_);
  column_scale_ = vector_operand(call, "weightScale", outputs_);
  const bool quantised = weight_.dtype == DType::kF8E4M3;
  if (quantised && column_scale_ == nullptr) fail(call, describe("weight", weight_) + " needs weightScale");
  low_rank_ = std::make_unique<LowRank>(call, x_, outputs_);
  right_ = std::make_unique<MatrixRows>(weight_);
  if (quantised) quantise(pool);
  left_ = std::make_unique<MatrixRows>(quantised ? codes_ : x_);
}

void LinearOperands::quantise(ThreadPool& pool) {
  thread_local Scratch code_scratch, scale_scratch;
  auto* codes = code_scratch.reserve<uint8_t>(rows_ * depth_);
  auto* scales = scale_scratch.reserve<float>(rows_);
  const RowOffsets offsets(x_);
  pool.parallel_for(rows_, rows_per_chunk(depth_), [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      scales[row] = simd().quantise_row(x_.as<const float>() + offsets[row], depth_, codes + row * depth_);
    }
  });
  row_scale_ = scales;
  codes_.data = codes;
  codes_.dtype = DType::kF8E4M3;
  codes_.rank = 2;
  codes_.shape = {rows_, depth_};
  codes_.stride = {depth_, 1};
}

Epilogue LinearOperands::epilogue(int64_t row, int64_t column) const {
  Epilogue epilogue;
  if (bias_ != nullptr) epilogue.bias = bias_ + column;
  if (column_scale_ != nullptr) {
    epilogue.column_scale = column_scale_ + column;
    if (row_scale_ != nullptr) epilogue.row_scale = row_scale_[row];
  }
  return epilogue;
}

namespace {

class LinearSink final : public TileSink {
 public:
  LinearSink(const OpCall& call, const LinearOperands& operands)
      : operands_(operands),
        y_(operand(call, "y")),
        residual_(optional_operand(call, "residual")),
        gate_(optional_operand(call, "gate")),
        y_rows_(y_),
        residual_rows_(residual_ == nullptr ? y_ : *residual_),
        activation_(activation_attribute(call)) {
    const TensorView& x = operands.x();
    const int64_t outputs = operands.size().n;
    expect_same_rows(call, "y", y_, "x", x);
    if (y_.inner() != outputs)
      fail(call, describe("y", y_) + " must have " + std::to_string(outputs) + " columns");
    if (residual_ != nullptr) expect_same_shape(call, "residual", *residual_, "y", y_);
    if (gate_ != nullptr) expect_shape(call, "gate", *gate_, {batch_of(x), outputs});
    rows_per_gate_ = operands.size().m / std::max<int64_t>(batch_of(x), 1);
  }

  void store(int64_t row, int64_t rows, int64_t column, int64_t columns, const float* sums,
             int64_t ld) const override {
    const LowTile low = operands_.low_rank().tile(row, rows, column, columns);
    for (int64_t i = 0; i < rows; ++i, ++row) {
      Epilogue epilogue = operands_.epilogue(row, column);
      epilogue.low = low.at(i, 0);
      epilogue.activation = activation_;
      if (gate_ != nullptr)
        epilogue.gate = gate_->as<const float>() + row / rows_per_gate_ * gate_->stride[0] + column;
      if (residual_ != nullptr)
        epilogue.residual = residual_->as<const float>() + residual_rows_[row] + column;
      simd().epilogue(sums + i * ld, epilogue, columns, y_.as<float>() + y_rows_[row] + column);
    }
  }

 private:
  const LinearOperands& operands_;
  const TensorView& y_;
  const TensorView* residual_;
  const TensorView* gate_;
  RowOffsets y_rows_, residual_rows_;
  Activation activation_;
  int64_t rows_per_gate_;
};

}  // namespace

void linear(const OpCall& call, ThreadPool& pool) {
  const LinearOperands operands(call, pool);
  const LinearSink sink(call, operands);
  gemm(pool, operands.size(), operands.left(), operands.right(), sink);
}

void quantize_rows(const OpCall& call, ThreadPool& pool) {
  const TensorView& x = operand(call, "x");
  const TensorView& codes = operand(call, "codes", {DType::kF8E4M3});
  const TensorView& scale = operand(call, "scale");
  expect_same_shape(call, "codes", codes, "x", x);
  expect_shape(call, "scale", scale, {x.rows()});
  const RowOffsets x_rows(x), code_rows(codes);
  pool.parallel_for(x.rows(), rows_per_chunk(x.inner()), [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      scale.as<float>()[row] = simd().quantise_row(x.as<const float>() + x_rows[row], x.inner(),
                                                   codes.as<uint8_t>() + code_rows[row]);
    }
  });
}

void weight_bounds(const OpCall& call, ThreadPool&) {
  const TensorView& weight = operand(call, "weight", {DType::kF8E4M3});
  const TensorView& scale = operand(call, "weightScale");
  const TensorView* bias = optional_operand(call, "bias");
  const TensorView& y = operand(call, "y");
  const int64_t channels = weight.rows(), width = weight.inner();
  expect_shape(call, "weightScale", scale, {channels});
  if (bias != nullptr) expect_shape(call, "bias", *bias, {channels});
  expect_shape(call, "y", y, {2});
  const RowOffsets rows(weight);
  double product = 0.0, addend = 0.0;
  for (int64_t n = 0; n < channels; ++n) {
    double squares = 0.0;
    for (int64_t k = 0; k < width; ++k) {
      const double value = e4m3_to_f32(weight.as<const uint8_t>()[rows[n] + k]);
      squares += value * value;
    }
    product = std::max(product, std::sqrt(static_cast<double>(width) * squares) * scale.as<const float>()[n]);
    if (bias != nullptr) addend = std::max(addend, std::abs(double{bias->as<const float>()[n]}));
  }
  y.as<float>()[0] = static_cast<float>(448.0 * product);
  y.as<float>()[1] = static_cast<float>(addend);
}

}  // namespace flux::cpu
