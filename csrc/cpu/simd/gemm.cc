// The micro-kernel of every matrix product: a tile of kTileRows × kTileColumns sums held in registers.
// Each step of k takes one vector pair from the right panel and kTileRows broadcasts from the left one.
#include <utility>

#include "cpu/simd/variant.h"

namespace flux::cpu::FLUX_SIMD {

namespace {

template <int rows>
void tile_of(const float* left, const float* right, int64_t k, bool accumulate, float* c, int64_t ldc) {
  Vec sum[rows][kTileVectors] = {};
  for (int64_t step = 0; step < k; ++step) {
    const Vec b0 = load(right);
    const Vec b1 = load(right + kLanes);
#pragma GCC unroll 16
    for (int i = 0; i < rows; ++i) {
      const Vec a = splat(left[i]);
      sum[i][0] = fma(a, b0, sum[i][0]);
      sum[i][1] = fma(a, b1, sum[i][1]);
    }
    left += kTileRows;
    right += kTileColumns;
  }
#pragma GCC unroll 16
  for (int i = 0; i < rows; ++i) {
#pragma GCC unroll 2
    for (int v = 0; v < kTileVectors; ++v) {
      float* target = c + i * ldc + v * kLanes;
      store(target, accumulate ? load(target) + sum[i][v] : sum[i][v]);
    }
  }
}

using TileKernel = void (*)(const float*, const float*, int64_t, bool, float*, int64_t);

template <int... I>
constexpr TileKernel tile_kernel(int rows, std::integer_sequence<int, I...>) {
  constexpr TileKernel kernels[] = {tile_of<I + 1>...};
  return kernels[rows - 1];
}

}  // namespace

void tile(const float* left, const float* right, int64_t k, int rows, bool accumulate, float* c,
          int64_t ldc) {
  tile_kernel(rows, std::make_integer_sequence<int, kTileRows>{})(left, right, k, accumulate, c, ldc);
}

}  // namespace flux::cpu::FLUX_SIMD
