// Tensor maps: how the copy engine (TMA) sees a strided array in global memory.
#pragma once

#include <cuda.h>

#include "status.h"

namespace flux::kernels {

enum class Swizzle : uint8_t { kNone, k64, k128 };

// A window on [batches, rows, columns] (rank 3) or [rows, columns] (rank 2), innermost axis contiguous.
struct TensorMapSpec {
  const void* data = nullptr;  // 16-byte aligned
  Element element = Element::kBF16;
  int rank = 2;
  int64_t columns = 0, rows = 0, batches = 1;
  int64_t row_stride = 0, batch_stride = 0;  // in elements; multiples of 16 bytes
  int box_columns = 0, box_rows = 0;         // of one copy; the box's rows are packed in shared memory
  Swizzle swizzle = Swizzle::kNone;
};

// A window of any rank, innermost axis contiguous. What lies outside it reads as zeros.
struct TensorBoxSpec {
  static constexpr int kMaxRank = 5;
  const void* data = nullptr;  // 16-byte aligned
  Element element = Element::kBF16;
  int rank = 0;
  int64_t size[kMaxRank] = {};        // innermost first
  int64_t stride[kMaxRank - 1] = {};  // in elements, of axes 1 and on; multiples of 16 bytes
  int box[kMaxRank] = {};
  Swizzle swizzle = Swizzle::k128;
};

// Needs no device call beyond the driver's entry point, so it may run while a stream is captured.
Status make_tensor_map(const TensorMapSpec& spec, CUtensorMap* map);
Status make_tensor_map(const TensorBoxSpec& spec, CUtensorMap* map);

}  // namespace flux::kernels
