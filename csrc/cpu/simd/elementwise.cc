// Element-wise kernels on runs of f32. Outputs may alias inputs exactly: each vector is read before it is
// written.
#include "cpu/simd/activation.h"
#include "cpu/simd/variant.h"

namespace flux::cpu::FLUX_SIMD {

void epilogue(const float* sum, const Epilogue& e, int64_t n, float* y) {
  with_activation(e.activation, [&](auto act) {
    for_each_vector(n, [&](int64_t i, auto access) {
      Vec v = access.load(sum + i);
      if (e.column_scale != nullptr) v = v * (access.load(e.column_scale + i) * e.row_scale);
      if (e.low != nullptr) v = v + access.load(e.low + i);
      if (e.bias != nullptr) v = v + access.load(e.bias + i);
      v = act(v);
      if (e.gate != nullptr) v = v * access.load(e.gate + i);
      if (e.residual != nullptr) v = v + access.load(e.residual + i);
      access.store(y + i, v);
    });
  });
}

void activate(const float* x, int64_t n, Activation activation, float* y) {
  with_activation(activation, [&](auto act) {
    for_each_vector(n, [&](int64_t i, auto access) { access.store(y + i, act(access.load(x + i))); });
  });
}

void multiply(const float* a, const float* b, int64_t n, Activation activation, float* y) {
  with_activation(activation, [&](auto act) {
    for_each_vector(n, [&](int64_t i, auto access) {
      access.store(y + i, act(access.load(a + i)) * access.load(b + i));
    });
  });
}

void add_scaled(const float* a, const float* b, float factor, int64_t n, float* y) {
  for_each_vector(n, [&](int64_t i, auto access) {
    access.store(y + i, fma(access.load(b + i), splat(factor), access.load(a + i)));
  });
}

void interpolate(const float* a, const float* b, float t, int64_t n, float* y) {
  for_each_vector(n, [&](int64_t i, auto access) {
    const Vec from = access.load(a + i);
    access.store(y + i, fma(access.load(b + i) - from, splat(t), from));
  });
}

void combine(const float* a, float p, const float* b, float q, int64_t n, float* y) {
  for_each_vector(n, [&](int64_t i, auto access) {
    access.store(y + i, access.load(a + i) * p + access.load(b + i) * q);
  });
}

namespace {

// The e4m3 codes of a vector, one in each 32-bit lane; round to nearest even, saturating, NaN → 0x7f.
FLUX_INLINE VecU e4m3_codes(Vec v) {
  const VecU bits = reinterpret_cast<VecU>(v);
  const VecU sign = (bits >> 24) & 0x80u;
  const Vec magnitude = min(absolute(v), splat(448.0f));  // a NaN becomes 448 here and is put back below
  const VecU raw = reinterpret_cast<VecU>(magnitude);
  const VecU normal = ((raw + 0x7ffffu + ((raw >> 20) & 1u)) >> 20) - (120u << 3);
  // 2^14 has an ulp of 2^-9, the step of the subnormal codes.
  const VecU subnormal = reinterpret_cast<VecU>(magnitude + 0x1p14f) - 0x46800000u;
  const VecU code = sign | (magnitude < 0x1p-6f ? subnormal : normal);
  return v == v ? code : VecU{} + 0x7fu;
}

}  // namespace

float quantise_row(const float* x, int64_t n, uint8_t* codes) {
  Vec largest = Vec{};
  for_each_vector(n, [&](int64_t i, auto access) { largest = max(absolute(access.load(x + i)), largest); });
  const float peak = max_lanes(largest) / 448.0f;
  const float scale = peak == 0.0f ? 1.0f : peak;
  for_each_vector(n, [&](int64_t i, auto access) {
    uint32_t lanes[kLanes];
    const VecU code = e4m3_codes(access.load(x + i) / scale);
    __builtin_memcpy(lanes, &code, sizeof(lanes));
    const int64_t count = n - i < kLanes ? n - i : kLanes;
    for (int64_t lane = 0; lane < count; ++lane) codes[i + lane] = static_cast<uint8_t>(lanes[lane]);
  });
  return scale;
}

}  // namespace flux::cpu::FLUX_SIMD
