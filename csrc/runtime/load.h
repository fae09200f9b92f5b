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

// How a weight is kept, beside its dtype.
enum class WeightLayout {
  kAsStored,
  kChannelsLast,  // stored [Co, Ci, kh, kw], kept [Co, kh, kw, Ci]
  // A 3 × 3 kernel behind nearest-neighbour doubling, as four 2 × 2 kernels on the image before it: stored [Co, Ci, 3, 3],
  // kept [Co, 4 phases, 4 taps, Ci]. An even row of the doubled image sees kernel rows {0} and {1, 2} of two neighbouring
  // rows, an odd one {0, 1} and {2}; columns alike; what falls together is summed in f32.
  kUpsamplePhases,
};

struct LoadRequest {
  std::shared_ptr<Mapping> file;   // null: the values are `random`, in bf16
  uint64_t begin = 0;              // absolute offset of the tensor's first byte
  RandomValues random;             // its index is the element's, as stored
  DType from = DType::kF32;        // as stored
  std::array<int64_t, 4> shape{};  // outermost first, padded with ones at the end
  WeightLayout layout = WeightLayout::kAsStored;

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
  int64_t kept_elements() const {
    return layout == WeightLayout::kUpsamplePhases ? shape[0] * shape[1] * 16 : elements();
  }
};

}  // namespace flux
