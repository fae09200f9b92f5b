#include "runtime/torch_generator.h"

#include <cmath>
#include <numbers>

namespace flux {

TorchGenerator::TorchGenerator(uint64_t seed) {
  state_[0] = static_cast<uint32_t>(seed);
  for (uint32_t i = 1; i < kWords; ++i) {
    state_[i] = 1812433253u * (state_[i - 1] ^ (state_[i - 1] >> 30)) + i;
  }
}

void TorchGenerator::twist() {
  constexpr int kShift = 397;
  for (int i = 0; i < kWords; ++i) {
    const uint32_t mixed = (state_[i] & 0x80000000u) | (state_[(i + 1) % kWords] & 0x7fffffffu);
    state_[i] = state_[(i + kShift) % kWords] ^ (mixed >> 1) ^ ((mixed & 1u) != 0 ? 0x9908b0dfu : 0u);
  }
  position_ = 0;
}

uint32_t TorchGenerator::next() {
  if (position_ == kWords) twist();
  uint32_t word = state_[position_++];
  word ^= word >> 11;
  word ^= (word << 7) & 0x9d2c5680u;
  word ^= (word << 15) & 0xefc60000u;
  return word ^ (word >> 18);
}

uint64_t TorchGenerator::next64() {
  const uint64_t high = next();
  return (high << 32) | next();
}

float TorchGenerator::uniform() { return static_cast<float>(next() & 0xffffffu) * 0x1p-24f; }

double TorchGenerator::uniform_double() {
  return static_cast<double>(next64() & ((1ull << 53) - 1)) * 0x1p-53;
}

double TorchGenerator::normal_double() {
  if (cached_) {
    cached_ = false;
    return cache_;
  }
  const double angle = 2.0 * std::numbers::pi * uniform_double();
  const double radius = std::sqrt(-2.0 * std::log1p(-uniform_double()));
  cache_ = radius * std::sin(angle);
  cached_ = true;
  return radius * std::cos(angle);
}

void TorchGenerator::box_muller_16(float* block) {
  for (int i = 0; i < 8; ++i) {
    const float radius = std::sqrt(-2.0f * std::log(1.0f - block[i]));
    const float angle = 2.0f * std::numbers::pi_v<float> * block[i + 8];
    block[i] = radius * std::cos(angle);
    block[i + 8] = radius * std::sin(angle);
  }
}

void TorchGenerator::normal(float* out, int64_t count) {
  if (count < 16) {
    for (int64_t i = 0; i < count; ++i) out[i] = static_cast<float>(normal_double());
    return;
  }
  for (int64_t i = 0; i < count; ++i) out[i] = uniform();
  for (int64_t i = 0; i + 16 <= count; i += 16) box_muller_16(out + i);
  if (count % 16 != 0) {  // the last sixteen are drawn again as a whole block
    float* block = out + count - 16;
    for (int i = 0; i < 16; ++i) block[i] = uniform();
    box_muller_16(block);
  }
}

}  // namespace flux
