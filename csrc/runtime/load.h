// LoadRequest: one tensor on its way into a Buffer, from a mapped file or made up, converted as it goes.
#pragma once

#include <array>
#include <cstdint>
#include <memory>

#include "runtime/dtype.h"
#include "runtime/mapping.h"
#include "runtime/memory.h"
#include "runtime/random_values.h"

namespace flux {

struct LoadRequest {
  std::shared_ptr<Mapping> file;   // null: the values are `random`, in bf16
  uint64_t begin = 0;              // absolute offset of the tensor's first byte
  RandomValues random;             // its index is the element's, as stored
  DType from = DType::kF32;        // as stored
  std::array<int64_t, 4> shape{};  // outermost first, padded with ones at the end
  bool convolution = false;        // stored [Co, Ci, kh, kw], wanted [Co, kh, kw, Ci]

  // What the stored values are to be multiplied by: one number, or an f32 for each row.
  float factor = 1.0f;
  std::shared_ptr<Mapping> factors;  // null: `factor`
  uint64_t factors_begin = 0;

  std::shared_ptr<Memory> target;
  uint64_t target_offset = 0;     // bytes
  DType to = DType::kF32;         // f32, bf16, or f8e4m3 (one scale per row, rows = shape[0])
  std::shared_ptr<Memory> scale;  // f32 per row, with f8e4m3 only
  uint64_t scale_offset = 0;      // bytes

  int64_t elements() const { return shape[0] * shape[1] * shape[2] * shape[3]; }
};

}  // namespace flux
