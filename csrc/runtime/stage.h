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
  int64_t width() const { return width_; }
  // Of one row as it is stored, and as it is kept.
  uint64_t stored_row_bytes() const { return static_cast<uint64_t>(width_) * size_of(request_.from); }
  uint64_t row_bytes() const { return static_cast<uint64_t>(kept_width_) * size_of(request_.to); }
  // The rows' bytes are kept as they are stored; f8e4m3's factors become its scales.
  bool kept_as_stored() const;
  // The rows are stored as floats that are wanted as f8e4m3 with nothing else to be done.
  bool only_quantised() const;

  // Writes rows [first, first + count) to `out` as they are kept, one after another, and with f8e4m3 their scales to `scales`.
  // Returns the number of values that are NaN or infinite.
  uint64_t convert(int64_t first, int64_t count, std::byte* out, float* scales, ThreadPool& pool) const;
  // The same, but as they are stored.
  uint64_t copy(int64_t first, int64_t count, std::byte* out, ThreadPool& pool) const;

 private:
  struct Scratch;
  const std::byte* stored(int64_t first, int64_t count, std::byte* space) const;
  uint64_t read_row(int64_t row, Scratch& scratch) const;
  void store_row(const float* values, std::byte* out, float* scale) const;
  float factor_of(int64_t row) const;
  int64_t grain() const;

  const LoadRequest& request_;
  int64_t width_, kept_width_;          // elements of a row as stored and as kept
  const std::byte* data_ = nullptr;     // null: random
  const std::byte* factors_ = nullptr;  // null: one factor
};

}  // namespace flux
