#include "runtime/widen.h"

#include <cstring>
#include <string>

#include "runtime/error.h"

namespace flux {
namespace {

// The file's elements may lie at any address, so they are read byte-wise.
template <typename Stored>
Stored stored_at(const std::byte* data, int64_t index) {
  Stored value;
  std::memcpy(&value, data + index * static_cast<int64_t>(sizeof(Stored)), sizeof(Stored));
  return value;
}

FluxError cannot_read(DType from) {
  return {code::kUnsupported, "weights of dtype " + std::string(name_of(from)) + " cannot be loaded"};
}

}  // namespace

void widen(const std::byte* data, int64_t count, DType from, float* out) {
  switch (from) {
    case DType::kF32:
      std::memcpy(out, data, static_cast<size_t>(count) * sizeof(float));
      return;
    case DType::kBF16:
      for (int64_t i = 0; i < count; ++i) out[i] = bf16_to_f32(stored_at<uint16_t>(data, i));
      return;
    case DType::kF16:
      for (int64_t i = 0; i < count; ++i) out[i] = f16_to_f32(stored_at<uint16_t>(data, i));
      return;
    case DType::kF8E4M3:
      for (int64_t i = 0; i < count; ++i) out[i] = e4m3_to_f32(stored_at<uint8_t>(data, i));
      return;
    case DType::kF8E5M2:
      for (int64_t i = 0; i < count; ++i) out[i] = e5m2_to_f32(stored_at<uint8_t>(data, i));
      return;
    default:
      throw cannot_read(from);
  }
}

namespace {

// Elements whose exponent says NaN or infinity: all its bits set, in e4m3 with all bits of the mantissa.
template <typename Stored>
uint64_t count_special(const std::byte* data, int64_t count, Stored exponent) {
  uint64_t special = 0;
  for (int64_t i = 0; i < count; ++i) special += (stored_at<Stored>(data, i) & exponent) == exponent ? 1 : 0;
  return special;
}

}  // namespace

uint64_t count_not_finite(const std::byte* data, int64_t count, DType from) {
  switch (from) {
    case DType::kF32:
      return count_special<uint32_t>(data, count, 0x7f800000u);
    case DType::kBF16:
      return count_special<uint16_t>(data, count, 0x7f80u);
    case DType::kF16:
      return count_special<uint16_t>(data, count, 0x7c00u);
    case DType::kF8E4M3:
      return count_special<uint8_t>(data, count, 0x7fu);
    case DType::kF8E5M2:
      return count_special<uint8_t>(data, count, 0x7cu);
    default:
      throw cannot_read(from);
  }
}

}  // namespace flux
