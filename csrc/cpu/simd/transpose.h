// Transposition of kLanes × kLanes floats in registers: pairs within 128-bit blocks first, then the blocks
// themselves. Every step is one unpack or block shuffle of the instruction set.
#pragma once

#include <utility>

#include "cpu/simd/vector.h"

namespace flux::cpu::FLUX_SIMD {
namespace {

// A two-source shuffle: lane l of the result is lane Pattern::lane(l) of (a, b), those of b counted from
// kLanes.
template <typename Pattern, int... L>
FLUX_INLINE Vec shuffle(Vec a, Vec b, std::integer_sequence<int, L...>) {
  return __builtin_shufflevector(a, b, Pattern::lane(L)...);
}
template <typename Pattern>
FLUX_INLINE Vec shuffle(Vec a, Vec b) {
  return shuffle<Pattern>(a, b, std::make_integer_sequence<int, kLanes>{});
}

// {a0, b0, a1, b1} (half 0) or {a2, b2, a3, b3} (half 1) in each 128-bit block
template <int half>
struct UnpackSingles {
  static constexpr int lane(int l) { return (l & 1) * kLanes + (l & ~3) + 2 * half + ((l & 3) >> 1); }
};
// {a0, a1, b0, b1} or {a2, a3, b2, b3} in each 128-bit block
template <int half>
struct UnpackPairs {
  static constexpr int lane(int l) { return ((l >> 1) & 1) * kLanes + (l & ~3) + 2 * half + (l & 1); }
};
// Blocks of 128 bits: the lower (half 0) or upper half of a, then that of b.
template <int half>
struct JoinHalves {
  static constexpr int lane(int l) {
    const int within = l % (kLanes / 2);
    return (l >= kLanes / 2 ? kLanes : 0) + half * (kLanes / 2) + within;
  }
};
// Blocks of 128 bits: the even (parity 0) or odd blocks of a, then those of b.
template <int parity>
struct JoinAlternate {
  static constexpr int lane(int l) {
    const int block = (l % (kLanes / 2)) / 4;
    return (l >= kLanes / 2 ? kLanes : 0) + (2 * block + parity) * 4 + (l & 3);
  }
};

FLUX_INLINE void transpose(Vec (&rows)[kLanes]) {
  for (int q = 0; q < kLanes;
       q += 4) {  // 4×4 within blocks: rows[q + c] then holds, in block b, column 4b + c
    const Vec s0 = shuffle<UnpackSingles<0>>(rows[q], rows[q + 1]);
    const Vec s1 = shuffle<UnpackSingles<1>>(rows[q], rows[q + 1]);
    const Vec s2 = shuffle<UnpackSingles<0>>(rows[q + 2], rows[q + 3]);
    const Vec s3 = shuffle<UnpackSingles<1>>(rows[q + 2], rows[q + 3]);
    rows[q] = shuffle<UnpackPairs<0>>(s0, s2);
    rows[q + 1] = shuffle<UnpackPairs<1>>(s0, s2);
    rows[q + 2] = shuffle<UnpackPairs<0>>(s1, s3);
    rows[q + 3] = shuffle<UnpackPairs<1>>(s1, s3);
  }
  if constexpr (kLanes == 8) {
    for (int c = 0; c < 4; ++c) {
      const Vec low = rows[c], high = rows[4 + c];
      rows[c] = shuffle<JoinHalves<0>>(low, high);
      rows[4 + c] = shuffle<JoinHalves<1>>(low, high);
    }
  }
  if constexpr (kLanes == 16) {
    for (int c = 0; c < 4; ++c) {
      const Vec a = shuffle<JoinHalves<0>>(rows[c], rows[4 + c]);
      const Vec b = shuffle<JoinHalves<1>>(rows[c], rows[4 + c]);
      const Vec d = shuffle<JoinHalves<0>>(rows[8 + c], rows[12 + c]);
      const Vec e = shuffle<JoinHalves<1>>(rows[8 + c], rows[12 + c]);
      rows[c] = shuffle<JoinAlternate<0>>(a, d);
      rows[4 + c] = shuffle<JoinAlternate<1>>(a, d);
      rows[8 + c] = shuffle<JoinAlternate<0>>(b, e);
      rows[12 + c] = shuffle<JoinAlternate<1>>(b, e);
    }
  }
}

}  // namespace
}  // namespace flux::cpu::FLUX_SIMD
