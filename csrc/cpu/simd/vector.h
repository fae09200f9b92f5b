// Vectors of the widest registers of the variant being compiled, on GCC's vector extensions. fma is one
// instruction where the variant has it; nothing else is contracted (-ffp-contract=off).
#pragma once

#include <cstdint>

#if defined(__FMA__)
#include <immintrin.h>
#elif defined(__ARM_FEATURE_FMA)
#include <arm_neon.h>
#endif

namespace flux::cpu::FLUX_SIMD {
namespace {

#if defined(__AVX512F__)
constexpr int kLanes = 16;
#elif defined(__AVX2__)
constexpr int kLanes = 8;
#else
constexpr int kLanes = 4;
#endif

typedef float Vec __attribute__((vector_size(kLanes * 4)));
typedef int32_t VecI __attribute__((vector_size(kLanes * 4)));
typedef uint32_t VecU __attribute__((vector_size(kLanes * 4)));
typedef float UnalignedVec __attribute__((vector_size(kLanes * 4), aligned(4), may_alias));
typedef uint16_t UnalignedHalves __attribute__((vector_size(kLanes * 2), aligned(2), may_alias));
typedef uint8_t UnalignedBytes __attribute__((vector_size(kLanes), aligned(1), may_alias));

#define FLUX_INLINE [[gnu::always_inline]] inline

FLUX_INLINE Vec splat(float value) { return value - Vec{}; }  // x − 0 is x, −0 included; x + 0 is not
FLUX_INLINE Vec load(const float* p) { return *reinterpret_cast<const UnalignedVec*>(p); }
FLUX_INLINE void store(float* p, Vec v) { *reinterpret_cast<UnalignedVec*>(p) = v; }

// The first `count` < kLanes elements; the other lanes are zero.
FLUX_INLINE Vec load_part(const float* p, int64_t count) {
  float lanes[kLanes] = {};
  for (int64_t i = 0; i < count; ++i) lanes[i] = p[i];
  return load(lanes);
}
FLUX_INLINE void store_part(float* p, Vec v, int64_t count) {
  float lanes[kLanes];
  store(lanes, v);
  for (int64_t i = 0; i < count; ++i) p[i] = lanes[i];
}

FLUX_INLINE Vec load_bf16(const uint16_t* p) {
  const UnalignedHalves halves = *reinterpret_cast<const UnalignedHalves*>(p);
  return reinterpret_cast<Vec>(__builtin_convertvector(halves, VecU) << 16);
}

// Bytes as 32-bit lanes. GCC 12 expands __builtin_convertvector to a load for each byte.
FLUX_INLINE VecU load_bytes(const uint8_t* p) {
#if defined(__AVX512F__)
  return reinterpret_cast<VecU>(
      _mm512_maskz_cvtepu8_epi32(0xffff, _mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
#elif defined(__AVX2__)
  return reinterpret_cast<VecU>(_mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
#else
  return __builtin_convertvector(*reinterpret_cast<const UnalignedBytes*>(p), VecU);
#endif
}

// e4m3: shifting exponent and mantissa into place gives value · 2^-120, for subnormal codes too. 0x7f and
// 0xff are NaN.
FLUX_INLINE Vec load_f8(const uint8_t* p) {
  const VecU code = load_bytes(p);
  const VecU magnitude = code & 0x7fu;
  const Vec value = reinterpret_cast<Vec>(magnitude << 20) * 0x1p120f;
  const VecU bits = reinterpret_cast<VecU>(value) | ((code & 0x80u) << 24);
  const VecU nan = reinterpret_cast<VecU>(magnitude == 0x7fu) & 0x7fc00000u;
  return reinterpret_cast<Vec>(bits | nan);
}

// a · b + c, rounded once on avx512, avx2 and NEON, twice on SSE2.
FLUX_INLINE Vec fma(Vec a, Vec b, Vec c) {
#if defined(__AVX512F__)
  return _mm512_fmadd_ps(a, b, c);
#elif defined(__FMA__)
  return _mm256_fmadd_ps(a, b, c);
#elif defined(__ARM_FEATURE_FMA)
  return vfmaq_f32(c, a, b);
#else
  return a * b + c;
#endif
}

FLUX_INLINE Vec max(Vec a, Vec b) { return a > b ? a : b; }
FLUX_INLINE Vec min(Vec a, Vec b) { return a < b ? a : b; }
FLUX_INLINE Vec absolute(Vec v) { return reinterpret_cast<Vec>(reinterpret_cast<VecU>(v) & 0x7fffffffu); }

// Lanes are added in one fixed order.
FLUX_INLINE float sum_lanes(Vec v) {
  float lanes[kLanes];
  store(lanes, v);
  for (int width = kLanes / 2; width > 0; width /= 2) {
    for (int i = 0; i < width; ++i) lanes[i] += lanes[i + width];
  }
  return lanes[0];
}
FLUX_INLINE float max_lanes(Vec v) {
  float lanes[kLanes];
  store(lanes, v);
  float best = lanes[0];
  for (int i = 1; i < kLanes; ++i) best = lanes[i] > best ? lanes[i] : best;
  return best;
}

// exp for x ≤ 88, zero below −87.3; relative error under 2e-7. x = n·ln 2 + r with |r| ≤ ln 2 / 2; exp(r) by
// its minimax polynomial of degree 6; 2^n is built in the exponent field. A NaN stays a NaN.
FLUX_INLINE Vec exp(Vec x) {
  const Vec limited = x > 88.0f ? splat(88.0f) : x;
  const Vec magic = splat(0x1.8p23f);  // adding it rounds to an integer, held in the low mantissa bits
  const Vec shifted = fma(limited, splat(1.44269504f), magic);
  const Vec n = shifted - magic;
  const Vec r = fma(n, splat(2.12194440e-4f), fma(n, splat(-0.693359375f), limited));
  Vec p = fma(splat(1.9875691500e-4f), r, splat(1.3981999507e-3f));
  p = fma(p, r, splat(8.3334519073e-3f));
  p = fma(p, r, splat(4.1665795894e-2f));
  p = fma(p, r, splat(1.6666665459e-1f));
  p = fma(p, r, splat(5.0000001201e-1f));
  p = fma(p, r * r, r + 1.0f);
  const Vec power = reinterpret_cast<Vec>((reinterpret_cast<VecU>(shifted) << 23) + 0x3f800000u);
  return limited < -87.3f ? Vec{} : p * power;
}

}  // namespace
}  // namespace flux::cpu::FLUX_SIMD
