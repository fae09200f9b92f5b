// Moving rows: copy (with conversion between f32 and bf16), takeRow and gatherRows.
#include <cstring>
#include <string>

#include "cpu/checks.h"
#include "cpu/kernels.h"
#include "cpu/rows.h"

namespace flux::cpu {

namespace {

const auto kEveryType = {DType::kF32, DType::kBF16, DType::kF16, DType::kF8E4M3,
                         DType::kI32, DType::kI8,   DType::kU8};

void copy_run(const TensorView& x, int64_t from, const TensorView& y, int64_t to, int64_t n) {
  const size_t bytes = size_of(x.dtype);
  if (x.dtype == y.dtype) {
    std::memmove(y.as<char>() + static_cast<size_t>(to) * bytes,
                 x.as<const char>() + static_cast<size_t>(from) * bytes, static_cast<size_t>(n) * bytes);
  } else if (x.dtype == DType::kF32) {
    for (int64_t i = 0; i < n; ++i) y.as<uint16_t>()[to + i] = f32_to_bf16(x.as<const float>()[from + i]);
  } else {
    for (int64_t i = 0; i < n; ++i) y.as<float>()[to + i] = bf16_to_f32(x.as<const uint16_t>()[from + i]);
  }
}

void expect_same_dtype(const OpCall& call, std::string_view name, const TensorView& view,
                       const TensorView& y) {
  if (view.dtype != y.dtype) fail(call, describe("y", y) + " must have the dtype of " + describe(name, view));
}

int64_t checked_index(const OpCall& call, int64_t index, int64_t size, const std::string& axis) {
  if (index < 0 || index >= size) {
    fail(call, "index " + std::to_string(index) + " is outside the " + std::to_string(size) + " " + axis);
  }
  return index;
}

}  // namespace

void copy(const OpCall& call, ThreadPool& pool) {
  const TensorView& x = operand(call, "x", kEveryType);
  const TensorView& y = operand(call, "y", kEveryType);
  expect_same_shape(call, "y", y, "x", x);
  const auto floating = [](const TensorView& view) {
    return view.dtype == DType::kF32 || view.dtype == DType::kBF16;
  };
  if (x.dtype != y.dtype && !(floating(x) && floating(y))) {
    fail(call, "converts between f32 and bf16 only, not " + describe("x", x) + " to " + describe("y", y));
  }
  for_each_run<2>(pool, {&x, &y},
                  [&](const std::array<int64_t, 2>& at, int64_t n) { copy_run(x, at[0], y, at[1], n); });
}

void take_row(const OpCall& call, ThreadPool& pool) {
  const TensorView& table = operand(call, "table", kEveryType);
  const TensorView& index = operand(call, "index", {DType::kI32});
  const TensorView& y = operand(call, "y", kEveryType);
  expect_shape(call, "index", index, {1});
  expect_same_dtype(call, "table", table, y);
  if (table.rank < 1) fail(call, describe("table", table) + " must have a row to take");
  TensorView row = table;  // table[index]: the first axis dropped
  row.rank = table.rank - 1;
  for (int axis = 0; axis < row.rank; ++axis) {
    row.shape[axis] = table.shape[axis + 1];
    row.stride[axis] = table.stride[axis + 1];
  }
  expect_same_shape(call, "y", y, "table[index]", row);
  const int64_t taken = checked_index(call, index.as<const int32_t>()[0], table.shape[0],
                                      "rows of " + describe("table", table));
  row.data = table.as<char>() + static_cast<size_t>(taken * table.stride[0]) * size_of(table.dtype);
  for_each_run<2>(pool, {&row, &y},
                  [&](const std::array<int64_t, 2>& at, int64_t n) { copy_run(row, at[0], y, at[1], n); });
}

void gather_rows(const OpCall& call, ThreadPool& pool) {
  const TensorView& x = operand(call, "x", kEveryType);
  const TensorView& index = operand(call, "index", {DType::kI32});
  const TensorView& y = operand(call, "y", kEveryType);
  expect_shape(call, "x", x, {-1, -1, -1});
  expect_shape(call, "index", index, {x.shape[0]});
  expect_shape(call, "y", y, {x.shape[0], x.shape[2]});
  expect_same_dtype(call, "x", x, y);
  pool.parallel_for(x.shape[0], rows_per_chunk(x.inner()), [&](int64_t begin, int64_t end) {
    for (int64_t batch = begin; batch < end; ++batch) {
      const int64_t token =
          checked_index(call, index.as<const int32_t>()[batch], x.shape[1], "tokens of " + describe("x", x));
      copy_run(x, batch * x.stride[0] + token * x.stride[1], y, batch * y.stride[0], x.inner());
    }
  });
}

}  // namespace flux::cpu
