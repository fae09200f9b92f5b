// Weights that are made up: bf16 numbers that are about normal, each a function of a key and its position alone. So any part
// of a tensor can be drawn anywhere, by any thread, on any machine, with the same bits: nothing but integers and one f32
// multiply-add, both exactly rounded, goes into them.
#pragma once

#include <cstdint>

#include "runtime/dtype.h"

namespace flux {

struct RandomValues {
  uint64_t key = 0;
  float mean = 0.0f;
  float deviation = 1.0f;

  // A 64-bit hash of key and position (the finaliser of SplitMix64: Steele, Lea and Flood, 2014), as four 16-bit uniforms whose
  // sum is near normal (Irwin and Hall): no value is further than 3.46 deviations from the mean.
  uint16_t at(uint64_t index) const {
    uint64_t word = key + (index + 1) * 0x9e3779b97f4a7c15ull;
    word = (word ^ (word >> 30)) * 0xbf58476d1ce4e5b9ull;
    word = (word ^ (word >> 27)) * 0x94d049bb133111ebull;
    word ^= word >> 31;
    const auto sum = static_cast<int32_t>((word & 0xffff) + ((word >> 16) & 0xffff) +
                                          ((word >> 32) & 0xffff) + (word >> 48));
    constexpr int32_t kMiddle = 2 * 65535;
    constexpr float kDeviation = 37837.227f;  // √(4 · (65536² − 1) / 12)
    const float scaled = static_cast<float>(sum - kMiddle) * (deviation / kDeviation);
    return f32_to_bf16(mean + scaled);
  }
};

}  // namespace flux
