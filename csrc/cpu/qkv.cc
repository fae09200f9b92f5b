// qkvLinear: one product for q, k, v (and the parallel MLP's first layer), then RMSNorm and RoPE of q and k
// while their heads are still in the cache. Weight rows are q's heads, k's, v's, then the MLP's.
#include "cpu/kernels.h"
#include "cpu/linear_operands.h"

namespace flux::cpu {

namespace {

constexpr int64_t kHeadSize = 128;

class QkvSink final : public TileSink {
 public:
  QkvSink(const OpCall& call, const LinearOperands& operands)
      : operands_(operands),
        qkv_(operand(call, "qkv")),
        mlp_(optional_operand(call, "mlp")),
        rope_(operand(call, "rope")),
        norm_q_(call.tensor("normQ").as<const float>()),
        norm_k_(call.tensor("normK").as<const float>()),
        eps_(float_attribute(call, "eps")),
        activation_(activation_attribute(call)) {
    const TensorView& x = operands.x();
    if (x.rank != 3) fail(call, describe("x", x) + " must be [B, T, K]");
    tokens_ = x.shape[1];
    expect_shape(call, "qkv", qkv_, {x.shape[0], tokens_, 3, -1, kHeadSize});
    heads_ = qkv_.shape[3];
    expect_shape(call, "rope", rope_, {tokens_, kHeadSize / 2, 2});
    vector_operand(call, "normQ", kHeadSize);
    vector_operand(call, "normK", kHeadSize);
    const int64_t mlp_columns = operands.size().n - 3 * heads_ * kHeadSize;
    if (mlp_ != nullptr) {
      expect_shape(call, "mlp", *mlp_, {x.shape[0], tokens_, mlp_columns});
    } else if (mlp_columns != 0) {
      fail(call, describe("weight", call.tensor("weight")) + " must have 3·H·128 = " +
                     std::to_string(3 * heads_ * kHeadSize) + " rows, or mlp must take the others");
    }
  }

  void store(int64_t row, int64_t rows, int64_t column, int64_t columns, const float* sums,
             int64_t ld) const override {
    const int64_t head_columns = 3 * heads_ * kHeadSize;
    const LowTile low = operands_.low_rank().tile(row, rows, column, columns);
    for (int64_t i = 0; i < rows; ++i) {
      const int64_t batch = (row + i) / tokens_, token = (row + i) % tokens_;
      int64_t done = 0;
      for (; done < columns && column + done < head_columns; done += kHeadSize) {
        store_head(row + i, batch, token, column + done, sums + i * ld + done, low.at(i, done));
      }
      if (done == columns) continue;
      Epilogue epilogue = operands_.epilogue(row + i, column + done);
      epilogue.low = low.at(i, done);
      epilogue.activation = activation_;
      float* y = mlp_->as<float>() + batch * mlp_->stride[0] + token * mlp_->stride[1] +
                 (column + done - head_columns);
      simd().epilogue(sums + i * ld + done, epilogue, columns - done, y);
    }
  }

 private:
  void store_head(int64_t row, int64_t batch, int64_t token, int64_t column, const float* sums,
                  const float* low) const {
    const int64_t part = column / kHeadSize / heads_, head = column / kHeadSize % heads_;
    float* y = qkv_.as<float>() + batch * qkv_.stride[0] + token * qkv_.stride[1] + part * qkv_.stride[2] +
               head * qkv_.stride[3];
    Epilogue epilogue = operands_.epilogue(row, column);
    epilogue.low = low;
    simd().epilogue(sums, epilogue, kHeadSize, y);
    if (part == 2) return;
    simd().rms_norm(y, part == 0 ? norm_q_ : norm_k_, eps_, kHeadSize, y);
    simd().rotate_pairs(y, rope_.as<const float>() + token * rope_.stride[0], kHeadSize, y);
  }

  const LinearOperands& operands_;
  const TensorView& qkv_;
  const TensorView* mlp_;
  const TensorView& rope_;
  const float* norm_q_;
  const float* norm_k_;
  float eps_;
  Activation activation_;
  int64_t tokens_ = 0, heads_ = 0;
};

}  // namespace

void qkv_linear(const OpCall& call, ThreadPool& pool) {
  const LinearOperands operands(call, pool);
  const QkvSink sink(call, operands);
  // A tile that begins at a multiple of 128 columns never cuts a head in two.
  gemm(pool, operands.size(), operands.left(), operands.right(), sink, kHeadSize);
}

}  // namespace flux::cpu
