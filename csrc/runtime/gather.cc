#include "runtime/gather.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <future>
#include <set>
#include <string>

#include "runtime/error.h"
#include "runtime/widen.h"

namespace flux {
namespace {

const std::byte* bytes_of(const StoredMatrix& matrix) {
  FLUX_CHECK(matrix.rows >= 0 && matrix.columns >= 0, "a matrix has no negative sizes");
  const auto elements = static_cast<uint64_t>(matrix.rows) * static_cast<uint64_t>(matrix.columns);
  return matrix.source->bytes(matrix.begin, elements * size_of(matrix.dtype));
}

void check_indices(const std::vector<int32_t>& indices, int64_t size) {
  for (const int32_t index : indices) {
    FLUX_CHECK(index >= 0 && index < size,
               "index " + std::to_string(index) + " is outside an axis of " + std::to_string(size));
  }
}

void check(const GatherRequest& request) {
  check_indices(request.rows, request.from.rows);
  check_indices(request.columns, request.from.columns);
  if (request.to != DType::kF32 && request.to != DType::kBF16) {
    throw FluxError(code::kUnsupported,
                    "matrices are kept as f32 or bf16, not " + std::string(name_of(request.to)));
  }
  const auto elements =
      static_cast<uint64_t>(request.wanted_rows()) * static_cast<uint64_t>(request.wanted_columns());
  const uint64_t bytes = elements * size_of(request.to);
  FLUX_CHECK(request.target_offset <= request.target->size() &&
                 bytes <= request.target->size() - request.target_offset,
             "the host memory is too small for this matrix");
}

void store(float value, std::byte* out, DType to) {
  if (to == DType::kF32) {
    std::memcpy(out, &value, sizeof(value));
    return;
  }
  const uint16_t bits = f32_to_bf16(value);
  std::memcpy(out, &bits, sizeof(bits));
}

uint64_t gather_one(const GatherRequest& request) {
  const StoredMatrix& from = request.from;
  const std::byte* data = bytes_of(from);
  std::byte* out = request.target->data() + request.target_offset;
  const int64_t rows = request.wanted_rows(), columns = request.wanted_columns();
  if (from.dtype == request.to && request.rows.empty() && request.columns.empty() && !request.transposed &&
      request.factor == 1.0f) {
    std::memcpy(out, data, static_cast<size_t>(rows * columns) * size_of(request.to));
    // What is checked is the copy: the file may change meanwhile.
    return count_not_finite(out, rows * columns, request.to);
  }
  const auto stored = static_cast<int64_t>(size_of(from.dtype)),
             kept = static_cast<int64_t>(size_of(request.to));
  const int64_t row_step = request.transposed ? kept : columns * kept;
  const int64_t column_step = request.transposed ? rows * kept : kept;
  std::vector<float> values(static_cast<size_t>(from.columns));
  uint64_t bad = 0;
  for (int64_t i = 0; i < rows; ++i) {
    const int64_t row = request.rows.empty() ? i : request.rows[static_cast<size_t>(i)];
    widen(data + row * from.columns * stored, from.columns, from.dtype, values.data());
    for (int64_t j = 0; j < columns; ++j) {
      const int64_t column = request.columns.empty() ? j : request.columns[static_cast<size_t>(j)];
      const float value = values[static_cast<size_t>(column)] * request.factor;
      bad += std::isfinite(value) ? 0 : 1;
      store(value, out + i * row_step + j * column_step, request.to);
    }
  }
  return bad;
}

}  // namespace

std::vector<uint64_t> gather(const std::vector<GatherRequest>& requests, ThreadPool& pool) {
  std::set<HostMemory*> targets;
  for (const GatherRequest& request : requests) {
    check(request);
    targets.insert(request.target.get());
  }
  for (HostMemory* target : targets) target->touch(pool);
  auto pinned = std::async(std::launch::async, [&targets] {
    for (HostMemory* target : targets) target->pin();
  });
  std::vector<uint64_t> bad(requests.size());
  pool.parallel_for(static_cast<int64_t>(requests.size()), 1, [&](int64_t begin, int64_t end) {
    for (auto i = static_cast<size_t>(begin); i < static_cast<size_t>(end); ++i)
      bad[i] = gather_one(requests[i]);
  });
  pinned.get();
  return bad;
}

std::vector<float> values_of(const std::vector<StoredMatrix>& matrices) {
  std::vector<float> values;
  for (const StoredMatrix& matrix : matrices) {
    const std::byte* data = bytes_of(matrix);
    const size_t before = values.size();
    values.resize(before + static_cast<size_t>(matrix.rows * matrix.columns));
    widen(data, matrix.rows * matrix.columns, matrix.dtype, values.data() + before);
  }
  return values;
}

std::vector<uint8_t> columns_in_use(const BandsRequest& request) {
  const StoredMatrix& from = request.from;
  const std::byte* data = bytes_of(from);
  const auto width = static_cast<size_t>(from.columns);
  std::vector<uint8_t> used(request.ends.size() * width);
  std::vector<float> values(width);
  int64_t row = 0;
  for (size_t band = 0; band < request.ends.size(); ++band) {
    FLUX_CHECK(request.ends[band] >= row && request.ends[band] <= from.rows,
               "bands are in order, inside the matrix");
    for (; row < request.ends[band]; ++row) {
      widen(data + row * from.columns * static_cast<int64_t>(size_of(from.dtype)), from.columns, from.dtype,
            values.data());
      for (size_t i = 0; i < width; ++i) used[band * width + i] |= values[i] != 0.0f ? 1 : 0;
    }
  }
  return used;
}

}  // namespace flux
