// Weights that are made up: bf16 numbers that are about normal, each a function of a key and its position alone. So any part
// of a tensor can be drawn anywhere, by any thread, on any machine, with the same bits: nothing but integers and one f32
// multiply-add, both exactly rounded, goes into them.
//
// A 64-bit hash of key and position (the finaliser of SplitMix64: Steele, Lea and Flood, 2014), as four 16-bit uniforms whose sum is
// near normal (Irwin and Hall): no value is further than 3.46 deviations from the mean.
#pragma once

#include <cstdint>

#include "cpu/simd/kernels.h"

namespace flux {

struct RandomValues {
  uint64_t key = 0;
  float mean = 0.0f;
  float deviation = 1.0f;

  // The values at positions [first, first + count).
  void draw(uint64_t first, int64_t count, uint16_t* out) const {
    cpu::simd().random_bf16(key, first, mean, deviation, count, out);
  }
};

}  // namespace flux
