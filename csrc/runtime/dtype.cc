#include "runtime/dtype.h"

#include <array>
#include <string>

#include "runtime/error.h"

namespace flux {

namespace {

struct DTypeRow {
  std::string_view name;
  size_t bytes;
};

// In the order of the enum.
constexpr std::array<DTypeRow, 8> kTypes{{
    {"f32", 4},
    {"bf16", 2},
    {"f16", 2},
    {"f8e4m3", 1},
    {"i32", 4},
    {"i8", 1},
    {"u8", 1},
    {"f8e5m2", 1},
}};

}  // namespace

size_t size_of(DType dtype) { return kTypes[static_cast<size_t>(dtype)].bytes; }

std::string_view name_of(DType dtype) { return kTypes[static_cast<size_t>(dtype)].name; }

DType dtype_from_name(std::string_view name) {
  for (size_t i = 0; i < kTypes.size(); ++i) {
    if (kTypes[i].name == name) return static_cast<DType>(i);
  }
  throw FluxError(code::kBadArgument, "unknown dtype '" + std::string(name) +
                                          "'; use f32, bf16, f16, f8e4m3, i32, i8, u8 or f8e5m2");
}

float f16_to_f32(uint16_t bits) {
  const uint32_t sign = static_cast<uint32_t>(bits & 0x8000u) << 16;
  const uint32_t magnitude = bits & 0x7fffu;
  if (magnitude >= 0x7c00u) {  // infinity and NaN keep their payload
    return std::bit_cast<float>(sign | 0x7f800000u | ((magnitude & 0x3ffu) << 13));
  }
  if (magnitude < 0x400u) {  // subnormal: a multiple of 2^-24, exact in f32
    const float value = static_cast<float>(magnitude) * 0x1p-24f;
    return std::bit_cast<float>(sign | std::bit_cast<uint32_t>(value));
  }
  return std::bit_cast<float>(sign | ((magnitude << 13) + (112u << 23)));  // bias 15 becomes 127
}

float e4m3_to_f32(uint8_t code) {
  const uint32_t sign = static_cast<uint32_t>(code & 0x80u) << 24;
  const uint32_t magnitude = code & 0x7fu;
  if (magnitude == 0x7fu) return std::bit_cast<float>(sign | 0x7fc00000u);
  if (magnitude < 8u) {  // subnormal: a multiple of 2^-9
    const float value = static_cast<float>(magnitude) * 0x1p-9f;
    return std::bit_cast<float>(sign | std::bit_cast<uint32_t>(value));
  }
  return std::bit_cast<float>(sign | ((magnitude << 20) + (120u << 23)));  // bias 7 becomes 127
}

uint8_t f32_to_e4m3(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const uint8_t sign = static_cast<uint8_t>((bits >> 24) & 0x80u);
  const uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return 0x7f;
  const float absolute = std::bit_cast<float>(magnitude);
  if (absolute >= 448.0f) return sign | 0x7e;
  if (absolute < 0x1p-6f) {
    // 2^14 has an ulp of 2^-9, the step of the subnormal codes: the addition rounds to nearest even for us.
    const uint32_t rounded = std::bit_cast<uint32_t>(absolute + 0x1p14f) - std::bit_cast<uint32_t>(0x1p14f);
    return sign | static_cast<uint8_t>(rounded);
  }
  const uint32_t rounded = magnitude + 0x7ffffu + ((magnitude >> 20) & 1u);
  return sign | static_cast<uint8_t>((rounded >> 20) - (120u << 3));
}

}  // namespace flux
