// Matrices of a file on their way into host memory: rows and columns chosen, converted, perhaps transposed.
#pragma once

#include <memory>
#include <vector>

#include "runtime/dtype.h"
#include "runtime/host_memory.h"
#include "runtime/thread_pool.h"

namespace flux {

struct StoredMatrix {
  std::shared_ptr<ByteSource> source;
  uint64_t begin = 0;  // of its first element, in bytes
  DType dtype = DType::kF32;
  int64_t rows = 0, columns = 0;
};

struct GatherRequest {
  StoredMatrix from;
  std::vector<int32_t> rows, columns;  // of those that are wanted, in order; empty: all
  float factor = 1.0f;                 // what every value is multiplied by
  std::shared_ptr<HostMemory> target;
  uint64_t target_offset = 0;
  DType to = DType::kF32;   // f32 or bf16
  bool transposed = false;  // kept column by column

  int64_t wanted_rows() const { return rows.empty() ? from.rows : static_cast<int64_t>(rows.size()); }
  int64_t wanted_columns() const {
    return columns.empty() ? from.columns : static_cast<int64_t>(columns.size());
  }
};

// Fills all targets, and pins them meanwhile; for each request the number of values that are NaN or infinite. Throws FluxError
// for an index outside its matrix, a target that is too small, or a dtype that cannot be read or kept.
std::vector<uint64_t> gather(const std::vector<GatherRequest>& requests, ThreadPool& pool);

// All values of the matrices as f32, one after another: for few and small ones.
std::vector<float> values_of(const std::vector<StoredMatrix>& matrices);

// Bands of rows of a matrix: band i ends before row ends[i] and begins where the one before it ends.
struct BandsRequest {
  StoredMatrix from;
  std::vector<int32_t> ends;
};

// For each band a byte for each column: 1 when the band holds anything but zeros there.
std::vector<uint8_t> columns_in_use(const BandsRequest& request);

}  // namespace flux
