// Packing into panels: rows are transposed, columns are copied. bf16 and e4m3 elements become f32 on the way.
#include "cpu/simd/transpose.h"
#include "cpu/simd/variant.h"

namespace flux::cpu::FLUX_SIMD {

namespace {

FLUX_INLINE Vec load_as_f32(const float* p) { return load(p); }
FLUX_INLINE Vec load_as_f32(const uint16_t* p) { return load_bf16(p); }
FLUX_INLINE Vec load_as_f32(const uint8_t* p) { return load_f8(p); }

template <typename Element>
FLUX_INLINE Vec load_part_as_f32(const Element* p, int64_t count) {
  Element lanes[kLanes] = {};
  for (int64_t i = 0; i < count; ++i) lanes[i] = p[i];
  return load_as_f32(lanes);
}

// `count` rows become lanes [0, kLanes) of each step; whole vectors are stored, so a panel that is not a
// multiple of kLanes wide has the lanes beyond it overwritten by what is stored next.
template <typename Element, int width>
FLUX_INLINE void pack_group(const void* const* rows, int count, int64_t k, float* panel) {
  Vec block[kLanes];
  int64_t step = 0;
  for (; step + kLanes <= k; step += kLanes) {
#pragma GCC unroll 16
    for (int i = 0; i < kLanes; ++i) {
      block[i] = i < count ? load_as_f32(static_cast<const Element*>(rows[i]) + step) : Vec{};
    }
    transpose(block);
#pragma GCC unroll 16
    for (int i = 0; i < kLanes; ++i) store(panel + (step + i) * width, block[i]);
  }
  if (step == k) return;
  for (int i = 0; i < kLanes; ++i) {
    block[i] = i < count ? load_part_as_f32(static_cast<const Element*>(rows[i]) + step, k - step) : Vec{};
  }
  transpose(block);
  for (int64_t i = 0; i < k - step; ++i) store(panel + (step + i) * width, block[i]);
}

// The last group comes first: what it stores past the panel's width is then overwritten by the groups before
// it.
template <typename Element, int width>
void pack_panel(const void* const* rows, int count, int64_t k, float* panel) {
  constexpr int kLast = (width - 1) / kLanes * kLanes;
  for (int first = kLast; first >= 0; first -= kLanes) {
    // Full groups, nearly all, have their count as a constant and stay in registers.
    if (count == width && first == kLast) {
      pack_group<Element, width>(rows + first, width - kLast, k, panel + first);
    } else if (count >= first + kLanes) {
      pack_group<Element, width>(rows + first, kLanes, k, panel + first);
    } else {
      pack_group<Element, width>(rows + first, count - first, k, panel + first);
    }
  }
}

template <typename Element>
void pack(const void* const* rows, int count, int width, int64_t k, float* panel) {
  if (width == kTileRows) {
    pack_panel<Element, kTileRows>(rows, count, k, panel);
  } else {
    pack_panel<Element, kTileColumns>(rows, count, k, panel);
  }
}

}  // namespace

void pack_f32(const void* const* rows, int count, int width, int64_t k, float* panel) {
  pack<float>(rows, count, width, k, panel);
}
void pack_bf16(const void* const* rows, int count, int width, int64_t k, float* panel) {
  pack<uint16_t>(rows, count, width, k, panel);
}
void pack_f8(const void* const* rows, int count, int width, int64_t k, float* panel) {
  pack<uint8_t>(rows, count, width, k, panel);
}

void pack_columns(const float* x, int64_t ld, int64_t rows, int64_t columns, float* panels) {
  for (int64_t first = 0; first < columns; first += kTileRows, panels += rows * kTileRows) {
    const int64_t width = columns - first < kTileRows ? columns - first : kTileRows;
    for (int64_t row = 0; row < rows; ++row) {
      const float* source = x + row * ld + first;
      float* target = panels + row * kTileRows;
      if (width == kTileRows) {
        for (int i = 0; i < kTileRows; ++i) target[i] = source[i];
      } else {
        for (int64_t i = 0; i < kTileRows; ++i) target[i] = i < width ? source[i] : 0.0f;
      }
    }
  }
}

}  // namespace flux::cpu::FLUX_SIMD
