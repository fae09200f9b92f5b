// Lookups and tables: token embeddings, sinusoidal timestep embeddings, rotary tables and T5's relative
// position bias.
#include <cmath>
#include <string>
#include <vector>

#include "cpu/checks.h"
#include "cpu/kernels.h"
#include "cpu/rows.h"

namespace flux::cpu {

namespace {

float element(const TensorView& table, int64_t offset) {
  return table.dtype == DType::kBF16 ? bf16_to_f32(table.as<const uint16_t>()[offset])
                                     : table.as<const float>()[offset];
}

// T5's bucket of a relative position key − query, bidirectional (transformers,
// T5Attention._relative_position_bucket): half of the buckets for each side, half of those for exact
// distances, the rest logarithmic up to maxDistance. The logarithm is taken in f32, as the reference does,
// since its rounding decides at the boundaries.
int64_t t5_bucket(int64_t relative, int64_t buckets, int64_t max_distance) {
  const int64_t side = buckets / 2, exact = side / 2;
  const int64_t base = relative > 0 ? side : 0, distance = std::abs(relative);
  if (distance < exact) return base + distance;
  const float position = std::log(static_cast<float>(distance) / static_cast<float>(exact));
  const float range =
      static_cast<float>(std::log(static_cast<double>(max_distance) / static_cast<double>(exact)));
  const int64_t large = exact + static_cast<int64_t>(position / range * static_cast<float>(side - exact));
  return base + std::min(large, side - 1);
}

}  // namespace

void embedding(const OpCall& call, ThreadPool& pool) {
  const TensorView& ids = operand(call, "ids", {DType::kI32});
  const TensorView& table = operand(call, "table", {DType::kF32, DType::kBF16});
  const TensorView* positions = optional_operand(call, "positions", {DType::kF32, DType::kBF16});
  const TensorView& y = operand(call, "y");
  expect_shape(call, "ids", ids, {-1, -1});
  expect_shape(call, "table", table, {-1, -1});
  const int64_t tokens = ids.shape[1], width = table.shape[1];
  expect_shape(call, "y", y, {ids.shape[0], tokens, width});
  if (positions != nullptr) {
    expect_shape(call, "positions", *positions, {-1, width});
    if (positions->shape[0] < tokens)
      fail(call, describe("positions", *positions) + " is too short for " + describe("ids", ids));
  }
  const RowOffsets y_rows(y);
  pool.parallel_for(ids.shape[0] * tokens, rows_per_chunk(width), [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const int64_t token = row % tokens;
      const int64_t id = ids.as<const int32_t>()[row / tokens * ids.stride[0] + token];
      if (id < 0 || id >= table.shape[0]) {
        fail(call, "id " + std::to_string(id) + " at position " + std::to_string(token) + " is outside " +
                       describe("table", table));
      }
      float* target = y.as<float>() + y_rows[row];
      for (int64_t i = 0; i < width; ++i) target[i] = element(table, id * table.stride[0] + i);
      if (positions == nullptr) continue;
      for (int64_t i = 0; i < width; ++i) target[i] += element(*positions, token * positions->stride[0] + i);
    }
  });
}

void timestep_embedding(const OpCall& call, ThreadPool& pool) {
  const TensorView& t = operand(call, "t");
  const TensorView& y = operand(call, "y");
  expect_shape(call, "t", t, {-1});
  expect_shape(call, "y", y, {t.shape[0], -1});
  if (y.shape[1] % 2 != 0) fail(call, describe("y", y) + " must have an even number of columns");
  const int64_t half = y.shape[1] / 2;
  const float scale = float_attribute(call, "scale");
  const double max_period = call.number("maxPeriod");
  if (!(max_period > 0)) fail(call, "attribute 'maxPeriod' must be positive");
  const float decay = static_cast<float>(-std::log(max_period));
  pool.parallel_for(t.shape[0], 16, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      float* target = y.as<float>() + row * y.stride[0];
      const float scaled = scale * t.as<const float>()[row];
      for (int64_t i = 0; i < half; ++i) {
        // Each product is rounded to f32, as in PyTorch; the functions themselves are taken in f64.
        const float exponent = decay * static_cast<float>(i) / static_cast<float>(half);
        const float angle = scaled * static_cast<float>(std::exp(static_cast<double>(exponent)));
        target[i] = static_cast<float>(std::cos(static_cast<double>(angle)));
        target[half + i] = static_cast<float>(std::sin(static_cast<double>(angle)));
      }
    }
  });
}

void rope_table(const OpCall& call, ThreadPool& pool) {
  const TensorView& ids = operand(call, "ids");
  const TensorView& y = operand(call, "y");
  expect_shape(call, "ids", ids, {-1, -1});
  const int64_t tokens = ids.shape[0], axes = ids.shape[1];
  const double theta = call.number("theta");
  if (!(theta > 0)) fail(call, "attribute 'theta' must be positive");
  std::vector<int64_t> dims;
  int64_t pairs = 0;
  for (int64_t axis = 0; axis < axes; ++axis) {
    dims.push_back(integer_attribute(call, "dim" + std::to_string(axis), 0, 1 << 20));
    if (dims.back() % 2 != 0) fail(call, "attribute 'dim" + std::to_string(axis) + "' must be even");
    pairs += dims.back() / 2;
  }
  expect_shape(call, "y", y, {tokens, pairs, 2});
  std::vector<double> frequencies;
  for (const int64_t dim : dims) {
    for (int64_t i = 0; i < dim / 2; ++i) {
      frequencies.push_back(1.0 / std::pow(theta, static_cast<double>(2 * i) / static_cast<double>(dim)));
    }
  }
  pool.parallel_for(tokens, 16, [&](int64_t begin, int64_t end) {
    for (int64_t token = begin; token < end; ++token) {
      int64_t pair = 0;
      for (int64_t axis = 0; axis < axes; ++axis) {
        const double position = static_cast<double>(ids.as<const float>()[token * ids.stride[0] + axis]);
        for (int64_t i = 0; i < dims[static_cast<size_t>(axis)] / 2; ++i, ++pair) {
          const double angle = position * frequencies[static_cast<size_t>(pair)];
          float* target = y.as<float>() + token * y.stride[0] + pair * y.stride[1];
          target[0] = static_cast<float>(std::cos(angle));
          target[1] = static_cast<float>(std::sin(angle));
        }
      }
    }
  });
}

void t5_bias(const OpCall& call, ThreadPool& pool) {
  const TensorView& table = operand(call, "table", {DType::kF32, DType::kBF16});
  const TensorView& y = operand(call, "y");
  expect_shape(call, "table", table, {-1, -1});
  const int64_t buckets = table.shape[0], heads = table.shape[1];
  expect_shape(call, "y", y, {heads, -1, -1});
  const int64_t tokens = y.shape[1];
  expect_shape(call, "y", y, {heads, tokens, tokens});
  if (buckets < 4 || buckets % 4 != 0)
    fail(call, describe("table", table) + " must have a multiple of 4 buckets");
  const int64_t max_distance = integer_attribute(call, "maxDistance", buckets / 4 + 1, int64_t{1} << 30);
  std::vector<int64_t> bucket;  // by key − query + tokens − 1
  for (int64_t relative = 1 - tokens; relative < tokens; ++relative)
    bucket.push_back(t5_bucket(relative, buckets, max_distance));
  pool.parallel_for(heads * tokens, rows_per_chunk(tokens), [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const int64_t head = row / tokens, query = row % tokens;
      float* target = y.as<float>() + head * y.stride[0] + query * y.stride[1];
      const int64_t* of_key = bucket.data() + (tokens - 1 - query);
      for (int64_t key = 0; key < tokens; ++key)
        target[key] = element(table, of_key[key] * table.stride[0] + head);
    }
  });
}

}  // namespace flux::cpu
