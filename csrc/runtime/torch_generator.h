// TorchGenerator: the normal numbers that torch.Generator("cpu").manual_seed(seed) gives in float32, so that a seed starts from the
// same noise as in PyTorch. Sources: MT19937 (Matsumoto and Nishimura, 1998); ATen/native/cpu/DistributionTemplates.h for how
// its 32-bit words become normals (Box-Muller over blocks of sixteen; double precision below sixteen values).
#pragma once

#include <array>
#include <cstdint>

namespace flux {

class TorchGenerator {
 public:
  explicit TorchGenerator(uint64_t seed);

  // The next `count` values of torch.randn(count): one call here is one randn call there.
  void normal(float* out, int64_t count);

 private:
  uint32_t next();
  uint64_t next64();
  float uniform();          // [0, 1) with 24 bits
  double uniform_double();  // [0, 1) with 53 bits
  double normal_double();
  void twist();
  void box_muller_16(float* block);

  static constexpr int kWords = 624;
  std::array<uint32_t, kWords> state_{};
  int position_ = kWords;
  bool cached_ = false;  // the second value of the last double-precision pair
  double cache_ = 0.0;
};

}  // namespace flux
