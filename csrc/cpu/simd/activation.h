// The activations, all of the form x · σ(g(x)) = x / (1 + exp(−g)):
//   SiLU g = x; quick GELU g = 1.702 x; GELU's tanh form ½x(1 + tanh u) = x · σ(2u), u = √(2/π) (x + 0.044715
//   x³).
#pragma once

#include "cpu/simd/kernels.h"
#include "cpu/simd/vector.h"

namespace flux::cpu::FLUX_SIMD {
namespace {

template <Activation activation>
FLUX_INLINE Vec apply(Vec x) {
  if constexpr (activation == Activation::kNone) return x;
  Vec negated = -x;
  if constexpr (activation == Activation::kQuickGelu) negated = x * -1.702f;
  if constexpr (activation == Activation::kGeluTanh)
    negated = x * fma(x * x, splat(-0.0713548162726f), splat(-1.5957691216057f));
  return x / (exp(negated) + 1.0f);
}

// Calls body(apply<activation>) with the activation as a constant, so that loops are compiled for each.
template <typename Body>
FLUX_INLINE void with_activation(Activation activation, const Body& body) {
  switch (activation) {
    case Activation::kNone:
      return body([](Vec x) { return x; });
    case Activation::kGeluTanh:
      return body([](Vec x) { return apply<Activation::kGeluTanh>(x); });
    case Activation::kSilu:
      return body([](Vec x) { return apply<Activation::kSilu>(x); });
    case Activation::kQuickGelu:
      return body([](Vec x) { return apply<Activation::kQuickGelu>(x); });
  }
}

// The loop of every element-wise kernel: step(offset, load, store), whole vectors first, then what is left.
struct WholeVector {
  FLUX_INLINE Vec load(const float* p) const { return FLUX_SIMD::load(p); }
  FLUX_INLINE void store(float* p, Vec v) const { FLUX_SIMD::store(p, v); }
};
struct PartVector {
  int64_t count;
  FLUX_INLINE Vec load(const float* p) const { return load_part(p, count); }
  FLUX_INLINE void store(float* p, Vec v) const { store_part(p, v, count); }
};
template <typename Step>
FLUX_INLINE void for_each_vector(int64_t n, const Step& step) {
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) step(i, WholeVector{});
  if (i < n) step(i, PartVector{n - i});
}

}  // namespace
}  // namespace flux::cpu::FLUX_SIMD
