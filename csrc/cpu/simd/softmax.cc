// The online softmax of attention on transposed scores: queries lie side by side in the vector lanes and keys
// follow one another, so that maximum, sum and correction are element-wise and nothing is ever reduced across
// lanes.
#include "cpu/simd/transpose.h"
#include "cpu/simd/variant.h"

namespace flux::cpu::FLUX_SIMD {

namespace {

const float kMinusInfinity = -__builtin_inff();

// For lanes [first, first + kLanes): is key `key` among the first visible + lane keys?
FLUX_INLINE Vec mask_hidden(Vec score, int64_t key, int64_t visible, int first) {
  VecI lane;
  for (int i = 0; i < kLanes; ++i) lane[i] = first + i;
  return lane + static_cast<int32_t>(visible) > static_cast<int32_t>(key) ? score : splat(kMinusInfinity);
}

}  // namespace

void softmax_block(float* scores, const float* bias, int64_t keys, float scale, int64_t visible,
                   float* maximum, float* sum, float* correction) {
  const bool masked = visible < keys;  // lane 0 sees the fewest keys
  for (int first = 0; first < kTileColumns; first += kLanes) {
    float* column = scores + first;
    const Vec before = load(maximum + first);
    Vec largest = before;
    for (int64_t key = 0; key < keys; ++key) {
      float* target = column + key * kTileColumns;
      Vec score = load(target) * scale;
      if (bias != nullptr) score += load(bias + first + key * kTileColumns);
      if (masked) score = mask_hidden(score, key, visible, first);
      largest = max(score, largest);
      store(target, score);
    }
    // A query that has seen only −∞ keeps that maximum; subtracting 0 instead makes its weights 0 rather than
    // NaN.
    const Vec centre = largest == kMinusInfinity ? Vec{} : largest;
    const Vec factor = exp(before - centre);
    Vec total = load(sum + first) * factor;
    for (int64_t key = 0; key < keys; ++key) {
      const Vec weight = exp(load(column + key * kTileColumns) - centre);
      total += weight;
      store(column + key * kTileColumns, weight);
    }
    store(maximum + first, largest);
    store(sum + first, total);
    store(correction + first, factor);
  }
}

void scale_columns(float* x, int64_t rows, const float* factor) {
  const Vec low = load(factor), high = load(factor + kLanes);
  for (int64_t row = 0; row < rows; ++row, x += kTileColumns) {
    store(x, load(x) * low);
    store(x + kLanes, load(x + kLanes) * high);
  }
}

void store_transposed(const float* x, int64_t rows, int columns, const float* sum, float* y, int64_t ldy) {
  for (int first = 0; first < columns; first += kLanes) {
    const Vec divisor = load(sum + first);
    const int count = columns - first < kLanes ? columns - first : kLanes;
    for (int64_t row = 0; row < rows; row += kLanes) {
      const int64_t part = rows - row < kLanes ? rows - row : kLanes;
      Vec block[kLanes];
      for (int i = 0; i < kLanes; ++i) {
        block[i] = i < part ? load(x + (row + i) * kTileColumns + first) / divisor : Vec{};
      }
      transpose(block);
      for (int j = 0; j < count; ++j) {
        float* target = y + (first + j) * ldy + row;
        if (part == kLanes) {
          store(target, block[j]);
        } else {
          store_part(target, block[j], part);
        }
      }
    }
  }
}

}  // namespace flux::cpu::FLUX_SIMD
