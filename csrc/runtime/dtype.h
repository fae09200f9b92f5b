// Element types, their names as JS sees them, and the scalar conversions that define them.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <string_view>

namespace flux {

enum class DType : uint8_t { kF32, kBF16, kF16, kF8E4M3, kI32, kI8, kU8, kF8E5M2 };

size_t size_of(DType dtype);
std::string_view name_of(DType dtype);
DType dtype_from_name(std::string_view name);  // throws FluxError(ERR_FLUX_BAD_ARGUMENT)

inline float bf16_to_f32(uint16_t bits) { return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16); }

// Round to nearest even; a NaN stays a NaN.
inline uint16_t f32_to_bf16(float value) {
  uint32_t bits = std::bit_cast<uint32_t>(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>((bits >> 16) | 0x40u);
  return static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

float f16_to_f32(uint16_t bits);
// e5m2 is the upper half of an f16.
inline float e5m2_to_f32(uint8_t code) { return f16_to_f32(static_cast<uint16_t>(code << 8)); }

// e4m3fn: no infinities, 0x7f and 0xff are NaN, largest finite value 448.
float e4m3_to_f32(uint8_t code);
// Round to nearest even, saturating at ±448; a NaN becomes 0x7f.
uint8_t f32_to_e4m3(float value);

}  // namespace flux
