// Chooses the instruction set once, by what the processor says of itself.
#include <cstdlib>
#include <string_view>

#include "cpu/ops.h"
#include "cpu/simd/kernels.h"

namespace flux::cpu {

// Defined in simd/table.cc, once for each variant.
namespace baseline {
extern const SimdKernels kKernels;
}
#if defined(__x86_64__)
namespace avx2 {
extern const SimdKernels kKernels;
}
namespace avx512 {
extern const SimdKernels kKernels;
}
#endif

namespace {

// From the highest variant to the lowest that this processor runs, starting with the one that FLUX_SIMD
// names, if any.
const SimdKernels& choose() {
#if defined(__x86_64__)
  const char* wanted = std::getenv("FLUX_SIMD");
  const std::string_view limit = wanted == nullptr ? "" : wanted;
  __builtin_cpu_init();
  const bool has_avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  const bool has_avx512 = has_avx2 && __builtin_cpu_supports("avx512f") &&
                          __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
                          __builtin_cpu_supports("avx512dq");
  if (has_avx512 && limit != "avx2" && limit != "baseline") return avx512::kKernels;
  if (has_avx2 && limit != "baseline") return avx2::kKernels;
#endif
  return baseline::kKernels;
}

}  // namespace

const SimdKernels& simd() {
  static const SimdKernels& chosen = choose();
  return chosen;
}

std::string_view simd_name() { return simd().name; }

}  // namespace flux::cpu
