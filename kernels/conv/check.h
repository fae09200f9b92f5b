// What every convolution kernel demands of its arguments.
#pragma once

#include "conv/conv.h"

namespace flux::kernels::conv {

inline Status check(const Conv2d& conv) {
  const auto bad = [](const std::string& what) { return Status::bad_argument("conv2d: " + what); };
  if (conv.batch < 1 || conv.height < 1 || conv.width < 1 || conv.channels < 1 || conv.out_height < 1 ||
      conv.out_width < 1 || conv.out_channels < 1 || conv.kernel_height < 1 || conv.kernel_width < 1) {
    return bad("every size must be at least 1");
  }
  const int64_t largest = int64_t{INT32_MAX} / 2;
  if (int64_t(conv.batch) * conv.out_height * conv.out_width > largest ||
      int64_t(conv.batch) * conv.height * conv.width > largest ||
      int64_t(conv.kernel_height) * conv.kernel_width * conv.channels > largest) {
    return bad("more than 2^30 pixels, or terms in a sum; make smaller images or batches");
  }
  if (conv.stride < 1 || conv.pad_top < 0 || conv.pad_left < 0) {
    return bad("the stride must be at least 1 and padding not negative");
  }
  if (conv.phases &&
      (!conv.upsample || conv.kernel_height != 2 || conv.kernel_width != 2 || conv.stride != 1 ||
       conv.out_height != 2 * conv.height || conv.out_width != 2 * conv.width)) {
    return bad("phases are 2 x 2 kernels with stride 1 whose output is twice as high and wide as x");
  }
  if (conv.x == nullptr || conv.weight == nullptr || conv.y == nullptr) return bad("x, weight or y is null");
  for (const void* array : {conv.x, conv.weight, conv.residual, static_cast<const void*>(conv.y)}) {
    if (reinterpret_cast<uintptr_t>(array) % 16 != 0) return bad("arrays must be aligned to 16 bytes");
  }
  return {};
}

}  // namespace flux::kernels::conv
