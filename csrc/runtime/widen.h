// Stored floats of any dtype and at any address: read as f32, and checked.
#pragma once

#include <cstddef>
#include <cstdint>

#include "runtime/dtype.h"

namespace flux {

// Elements [0, count) as f32. Throws FluxError(ERR_FLUX_UNSUPPORTED) for a dtype that is no float.
void widen(const std::byte* data, int64_t count, DType from, float* out);

// How many of the elements are NaN or infinite.
uint64_t count_not_finite(const std::byte* data, int64_t count, DType from);

}  // namespace flux
