// A problem of attention on host and device, and rows of it held against the reference.
#pragma once

#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include "harness/case.h"
#include "kernels.h"
#include "reference/attention.h"

namespace flux::testing {

struct AttentionShape {
  int batch = 1, heads = 1, tokens = 1, head_dim = 128;
  int width() const { return heads * head_dim; }
  int rows() const { return batch * tokens; }
  float scale() const { return 1.0f / std::sqrt(float(head_dim)); }
  std::string name() const {
    return std::to_string(batch) + "x" + std::to_string(heads) + "x" + std::to_string(tokens) + "x" +
           std::to_string(head_dim);
  }
};

// What is done to unit-normal q, k, v: the rows of the error table.
struct AttentionData {
  const char* name = "normal";
  float query = 1, key = 1, value = 1;  // deviations
  float common_mean = 0;                // deviation of a vector that all k of a head share
  bool outliers = false;                // one channel of k × 20, one of q × 8
};

class AttentionProblem {
 public:
  AttentionProblem(const AttentionShape& shape, const AttentionData& data = {})
      : shape_(shape),
        query_(make(shape, 21, data.query, data.outliers ? 77 : -1, 8)),
        key_(make(shape, 22, data.key, data.outliers ? 5 : -1, 20, data.common_mean)),
        value_(make(shape, 23, data.value)),
        inputs_{std::make_unique<Input>(query_, Element::kBF16),
                std::make_unique<Input>(key_, Element::kBF16),
                std::make_unique<Input>(value_, Element::kBF16)},
        output_(shape.rows(), shape.width(), Element::kBF16),
        log_sum_exp_(int64_t(shape.batch) * shape.heads, shape.tokens, Element::kF32) {}

  const AttentionShape& shape() const { return shape_; }
  Output& output() { return output_; }
  Output& log_sum_exp() { return log_sum_exp_; }

  kernels::AttentionTensor tensor(const void* data) const {
    return {const_cast<void*>(data), int64_t(shape_.tokens) * shape_.width(), shape_.width(),
            shape_.head_dim};
  }
  kernels::AttentionTensor query() const { return tensor(inputs_[0]->data()); }
  kernels::AttentionTensor key() const { return tensor(inputs_[1]->data()); }
  kernels::AttentionTensor value() const { return tensor(inputs_[2]->data()); }
  kernels::AttentionTensor result() const { return tensor(output_.data()); }

  kernels::AttentionBf16 bf16() const {
    kernels::AttentionBf16 call;
    call.query = query();
    call.key = key();
    call.value = value();
    call.output = result();
    call.batch = shape_.batch;
    call.heads = shape_.heads;
    call.queries = call.keys = shape_.tokens;
    call.head_dim = shape_.head_dim;
    call.scale = shape_.scale();
    call.log_sum_exp = log_sum_exp_.data<float>();
    return call;
  }

  reference::Attention reference() const {
    return {&query_,       &key_,         &value_,         shape_.batch,  shape_.heads,
            shape_.tokens, shape_.tokens, shape_.head_dim, shape_.scale()};
  }

  const Matrix& value_matrix() const { return value_; }

  // Up to 48 queries, spread over the sequence, of the first, the middle and the last head of every batch.
  std::vector<reference::AttentionRow> sample() const {
    std::vector<reference::AttentionRow> rows;
    const int count = shape_.tokens < 48 ? shape_.tokens : 48;
    for (int b = 0; b < shape_.batch; ++b) {
      for (int head = 0, last = -1; head < 3; ++head) {
        const int h = head * (shape_.heads - 1) / 2;
        if (h == last) continue;
        last = h;
        for (int i = 0; i < count; ++i) {
          rows.push_back({b, h, count == 1 ? 0 : int(int64_t(i) * (shape_.tokens - 1) / (count - 1))});
        }
      }
    }
    return rows;
  }

  // The sampled rows of `output` and `log_sum_exp` as the last run left them.
  reference::AttentionResult sampled(const std::vector<reference::AttentionRow>& rows) const {
    const Matrix all = output_.values(), lse = log_sum_exp_.values();
    reference::AttentionResult result{Matrix(int64_t(rows.size()), shape_.head_dim),
                                      Matrix(int64_t(rows.size()), 1)};
    for (size_t r = 0; r < rows.size(); ++r) {
      const auto [batch, head, query] = rows[r];
      for (int c = 0; c < shape_.head_dim; ++c) {
        result.output.at(int64_t(r), c) =
            all.at(int64_t(batch) * shape_.tokens + query, head * shape_.head_dim + c);
      }
      result.log_sum_exp.at(int64_t(r), 0) = lse.at(int64_t(batch) * shape_.heads + head, query);
    }
    return result;
  }

 private:
  static Matrix make(const AttentionShape& shape, uint64_t seed, float deviation, int channel = -1,
                     float factor = 1, float common_mean = 0) {
    Matrix x = normal(shape.rows(), shape.width(), seed, deviation);
    const Matrix mean = normal(1, shape.width(), seed + 100, common_mean);
    for (int64_t r = 0; r < x.rows; ++r) {
      for (int64_t c = 0; c < x.cols; ++c) {
        if (c % shape.head_dim == channel) x.at(r, c) *= factor;
        if (common_mean != 0) x.at(r, c) += mean.at(0, c);
      }
    }
    return rounded_to(x, Element::kBF16);
  }

  AttentionShape shape_;
  Matrix query_, key_, value_;
  std::unique_ptr<Input> inputs_[3];
  Output output_, log_sum_exp_;
};

// The workspace that lets attention even out its last wave; zeroed once.
class AttentionWorkspace {
 public:
  AttentionWorkspace() : memory_(int64_t(kernels::attention_workspace_bytes())) {
    must(cudaMemset(memory_.data(), 0, size_t(memory_.bytes())), "workspace");
    must(cudaDeviceSynchronize(), "workspace");  // the kernels' stream does not wait for the default one
  }
  void* data() const { return memory_.data(); }

 private:
  DeviceBytes memory_;
};

// 8-bit operands on the device, poisoned.
class PackedMemory {
 public:
  PackedMemory(int batch, int heads, int queries, int keys)
      : PackedMemory(kernels::attention_packed_sizes(batch, heads, queries, keys)) {}
  kernels::PackedQkv operands() const {
    return {query_.data(), key_.data(), value_.data(), reinterpret_cast<float*>(rows_.data()),
            reinterpret_cast<float*>(blocks_.data())};
  }

 private:
  explicit PackedMemory(const kernels::PackedSizes& sizes)
      : query_(int64_t(sizes.query)),
        key_(int64_t(sizes.key)),
        value_(int64_t(sizes.value)),
        rows_(int64_t(sizes.query_rows)),
        blocks_(int64_t(sizes.key_blocks)) {
    for (const DeviceBytes* bytes : {&query_, &key_, &value_, &rows_, &blocks_}) {
      must(cudaMemset(bytes->data(), 0xff, size_t(bytes->bytes())), "poison");
    }
    must(cudaDeviceSynchronize(), "poison");  // the kernels' stream does not wait for the default one
  }
  DeviceBytes query_, key_, value_, rows_, blocks_;
};

}  // namespace flux::testing
