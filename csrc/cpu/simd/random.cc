// Weights that are made up: see csrc/runtime/random_values.h.
#include "cpu/simd/variant.h"

namespace flux::cpu::FLUX_SIMD {

void random_bf16(uint64_t key, uint64_t first, float mean, float deviation, int64_t n, uint16_t* out) {
  constexpr int32_t kMiddle = 2 * 65535;
  constexpr float kDeviation = 37837.227f;  // √(4 · (65536² − 1) / 12)
  const float factor = deviation / kDeviation;
  for (int64_t i = 0; i < n; ++i) {
    uint64_t word = key + (first + static_cast<uint64_t>(i) + 1) * 0x9e3779b97f4a7c15ull;
    word = (word ^ (word >> 30)) * 0xbf58476d1ce4e5b9ull;
    word = (word ^ (word >> 27)) * 0x94d049bb133111ebull;
    word ^= word >> 31;
    const auto sum = static_cast<int32_t>((word & 0xffff) + ((word >> 16) & 0xffff) +
                                          ((word >> 32) & 0xffff) + (word >> 48));
    const float value = mean + static_cast<float>(sum - kMiddle) * factor;
    const auto bits = __builtin_bit_cast(uint32_t, value);  // never a NaN
    out[i] = static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
  }
}

}  // namespace flux::cpu::FLUX_SIMD
