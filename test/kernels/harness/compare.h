// How far a result is from its reference.
#pragma once

#include <string>

#include "harness/matrix.h"

namespace flux::testing {

// Errors of a result against its reference, both rows × cols.
struct Difference {
  double relative_l2 = 0;  // ‖got − want‖ / ‖want‖
  double max_abs = 0;      // largest |got − want|
  // Largest ‖got − want‖ / ‖want‖ over tiles of 128 × 128. A tile's denominator is at least a tenth of what it would be
  // if the reference's energy were spread evenly, so that a tile of near zeros cannot dominate.
  double worst_tile = 0;
  int64_t worst_row = 0, worst_col = 0;  // where max_abs is
  int64_t not_finite = 0;  // elements that are NaN or infinite on one side only, or of unlike sign
};

Difference difference(const Matrix& got, const Matrix& want);

// What a result may differ by. A bound of 0 asks for equality; a negative one is not looked at.
struct Tolerance {
  double relative_l2 = -1;
  double max_abs = -1;
  double worst_tile = -1;
};

// The bound after a bf16 store: its own rounding is 1.7e-3, no tile over twice the whole's bound.
inline constexpr Tolerance kAfterBf16{2.5e-3, -1, 5e-3};

// Empty when within, else a sentence.
std::string exceeds(const Difference& difference, const Tolerance& tolerance);

}  // namespace flux::testing
