// Weights on their way from a mapped file to where they are kept: read, checked, reordered, converted.
#pragma once

#include <cstddef>

#include "runtime/load.h"
#include "runtime/thread_pool.h"

namespace flux {

// The rows of one tensor in the form that a LoadRequest asks for.
class StagedRows {
 public:
  explicit StagedRows(
      const LoadRequest& request);  // throws FluxError when the file is too short or a dtype cannot be read

  int64_t rows() const { return request_.shape[0]; }
  // Of one row as it is kept.
  uint64_t row_bytes() const { return static_cast<uint64_t>(width_) * size_of(request_.to); }

  // Writes rows [first, first + count) to `out`, one after another, and with f8e4m3 their scales to `scales`. Returns the
  // number of values that are NaN or infinite.
  uint64_t convert(int64_t first, int64_t count, std::byte* out, float* scales, ThreadPool& pool) const;

 private:
  uint64_t read_row(int64_t row, float* out) const;
  void store_row(const float* values, std::byte* out, float* scale) const;

  const LoadRequest& request_;
  int64_t width_;
  const std::byte* data_;
};

}  // namespace flux
