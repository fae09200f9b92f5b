// LoadRequest: one tensor of a mapped file on its way into a Buffer, converted as it goes.
#pragma once

#include <array>
#include <cstdint>
#include <memory>

#include "runtime/dtype.h"
#include "runtime/mapping.h"
#include "runtime/memory.h"

namespace flux {

struct LoadRequest {
  std::shared_ptr<Mapping> file;
  uint64_t begin = 0;              // absolute offset of the tensor's first byte
  DType from = DType::kF32;        // as stored
  std::array<int64_t, 4> shape{};  // outermost first, padded with ones at the end
  bool convolution = false;        // stored [Co, Ci, kh, kw], wanted [Co, kh, kw, Ci]
  std::shared_ptr<Memory> target;
  uint64_t target_offset = 0;     // bytes
  DType to = DType::kF32;         // f32, bf16, or f8e4m3 (one scale per row, rows = shape[0])
  std::shared_ptr<Memory> scale;  // f32 per row, with f8e4m3 only
  uint64_t scale_offset = 0;      // bytes

  int64_t elements() const { return shape[0] * shape[1] * shape[2] * shape[3]; }
};

}  // namespace flux
