// e4m3 codes to bf16, exactly and without a conversion instruction, which only sm_89 and later have.
//
// A code s eeee mmm moved to s 0000eeee mmm0000 is the bf16 number of value code · 2^-120, subnormals included (both
// formats are linear there), so one multiplication by 2^120 finishes it. Code 0x7f and 0xff (NaN) become ±480: weights and
// activations that hold NaN codes must not get here.
#pragma once

#include <cuda_bf16.h>

#include <cstdint>

namespace flux::kernels {

// Of four codes 0, 1, 2, 3 (from the low byte up): `first` holds 0 and 1, `second` 2 and 3, the earlier in the low half.
__device__ __forceinline__ void expand_e4m3(uint32_t codes, uint32_t& first, uint32_t& second) {
  const auto finish = [](uint32_t in_upper_bytes) {
    constexpr uint32_t kTo120 = 0x7b807b80u;  // 2^120, twice
    const uint32_t bits = (in_upper_bytes & 0x80008000u) | ((in_upper_bytes >> 4) & 0x07f007f0u);
    const __nv_bfloat162 product = __hmul2(*reinterpret_cast<const __nv_bfloat162*>(&bits),
                                           *reinterpret_cast<const __nv_bfloat162*>(&kTo120));
    return *reinterpret_cast<const uint32_t*>(&product);
  };
  first = finish(__byte_perm(codes, 0, 0x1404));
  second = finish(__byte_perm(codes, 0, 0x3424));
}

}  // namespace flux::kernels
