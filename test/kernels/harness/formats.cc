#include "harness/formats.h"

#include <array>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

namespace flux::testing {

int size_of(Element type) {
  switch (type) {
    case Element::kF32:
    case Element::kI32:
      return 4;
    case Element::kBF16:
    case Element::kF16:
      return 2;
    default:
      return 1;
  }
}

const char* name_of(Element type) {
  static constexpr const char* kNames[] = {"f32", "bf16", "f16", "e4m3", "i32", "u8"};
  return kNames[int(type)];
}

float bf16_to_float(uint16_t bits) { return std::bit_cast<float>(uint32_t(bits) << 16); }

uint16_t float_to_bf16(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  if (std::isnan(value)) return uint16_t((bits >> 16) | 0x40);
  const uint32_t below = bits & 0xffff;
  uint32_t upper = bits >> 16;
  if (below > 0x8000 || (below == 0x8000 && (upper & 1))) ++upper;
  return uint16_t(upper);
}

float f16_to_float(uint16_t bits) {
  const int exponent = (bits >> 10) & 31;
  const int fraction = bits & 1023;
  const float sign = bits & 0x8000 ? -1.0f : 1.0f;
  if (exponent == 31) return fraction ? std::nanf("") : sign * std::numeric_limits<float>::infinity();
  if (exponent == 0) return sign * std::ldexp(float(fraction), -24);
  return sign * std::ldexp(float(1024 + fraction), exponent - 25);
}

uint16_t float_to_f16(float value) {
  if (std::isnan(value)) return 0x7e00;
  const uint16_t sign = std::signbit(value) ? 0x8000 : 0;
  const float magnitude = std::fabs(value);
  if (magnitude >= 65520.0f) return sign | 0x7c00;
  const int exponent = magnitude < 0x1p-14f ? -14 : std::ilogb(magnitude);
  // The quotient is exact; nearbyint rounds to nearest even. A carry into the exponent is the next format value.
  const int steps = int(std::nearbyint(std::ldexp(magnitude, 10 - exponent)));
  return uint16_t(sign | (((exponent + 14) << 10) + steps));
}

float e4m3_to_float(uint8_t code) {
  static const std::array<float, 256> kValues = [] {
    std::array<float, 256> values{};
    for (int c = 0; c < 256; ++c) {
      const int exponent = (c >> 3) & 15, fraction = c & 7;
      float magnitude =
          exponent == 0 ? std::ldexp(float(fraction), -9) : std::ldexp(float(8 + fraction), exponent - 10);
      if (exponent == 15 && fraction == 7) magnitude = std::nanf("");
      values[size_t(c)] = c & 0x80 ? -magnitude : magnitude;
    }
    return values;
  }();
  return kValues[code];
}

uint8_t float_to_e4m3(float value) {
  if (std::isnan(value)) return 0x7f;
  const double magnitude = std::fabs(double(value));
  // Codes 0 … 126 are in ascending order. Find the first at or above the magnitude, then choose the nearer neighbour.
  int above = 0;
  for (int step = 64; step > 0; step /= 2) {
    if (above + step <= 126 && e4m3_to_float(uint8_t(above + step - 1)) < magnitude) above += step;
  }
  int best = above;
  if (above > 0) {
    const double up = e4m3_to_float(uint8_t(above)) - magnitude;
    const double down = magnitude - e4m3_to_float(uint8_t(above - 1));
    if (up > 0 && (down < up || (down == up && above % 2 == 1))) best = above - 1;
  }
  return uint8_t(best | (std::signbit(value) ? 0x80 : 0));
}

float rounded(float value, Element type) {
  switch (type) {
    case Element::kBF16:
      return bf16_to_float(float_to_bf16(value));
    case Element::kF16:
      return f16_to_float(float_to_f16(value));
    case Element::kE4M3:
      return e4m3_to_float(float_to_e4m3(value));
    case Element::kI32:
    case Element::kU8:
      return std::nearbyint(value);
    default:
      return value;
  }
}

namespace {

template <typename Stored, typename Convert>
void write_all(const float* values, int64_t count, std::vector<uint8_t>& bytes, Convert convert) {
  for (int64_t i = 0; i < count; ++i) {
    const Stored stored = convert(values[i]);
    std::memcpy(bytes.data() + i * sizeof(Stored), &stored, sizeof(Stored));
  }
}

template <typename Stored, typename Convert>
void read_all(const uint8_t* bytes, int64_t count, std::vector<float>& values, Convert convert) {
  for (int64_t i = 0; i < count; ++i) {
    Stored stored;
    std::memcpy(&stored, bytes + i * sizeof(Stored), sizeof(Stored));
    values[i] = convert(stored);
  }
}

}  // namespace

std::vector<uint8_t> encode(const float* values, int64_t count, Element type) {
  std::vector<uint8_t> bytes(size_t(count * size_of(type)));
  switch (type) {
    case Element::kF32:
      std::memcpy(bytes.data(), values, bytes.size());
      break;
    case Element::kBF16:
      write_all<uint16_t>(values, count, bytes, float_to_bf16);
      break;
    case Element::kF16:
      write_all<uint16_t>(values, count, bytes, float_to_f16);
      break;
    case Element::kE4M3:
      write_all<uint8_t>(values, count, bytes, float_to_e4m3);
      break;
    case Element::kI32:
      write_all<int32_t>(values, count, bytes, [](float v) { return int32_t(v); });
      break;
    case Element::kU8:
      write_all<uint8_t>(values, count, bytes, [](float v) { return uint8_t(v); });
      break;
  }
  return bytes;
}

std::vector<float> decode(const uint8_t* bytes, int64_t count, Element type) {
  std::vector<float> values(static_cast<size_t>(count));
  switch (type) {
    case Element::kF32:
      std::memcpy(values.data(), bytes, size_t(count) * 4);
      break;
    case Element::kBF16:
      read_all<uint16_t>(bytes, count, values, bf16_to_float);
      break;
    case Element::kF16:
      read_all<uint16_t>(bytes, count, values, f16_to_float);
      break;
    case Element::kE4M3:
      read_all<uint8_t>(bytes, count, values, e4m3_to_float);
      break;
    case Element::kI32:
      read_all<int32_t>(bytes, count, values, [](int32_t v) { return float(v); });
      break;
    case Element::kU8:
      read_all<uint8_t>(bytes, count, values, [](uint8_t v) { return float(v); });
      break;
  }
  return values;
}

}  // namespace flux::testing
