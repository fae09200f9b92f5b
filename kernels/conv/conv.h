// Channels-last convolution in bf16 with f32 accumulation: y = conv(x, weight) + bias + residual.
//
// An implicit matrix product: a row for each output pixel, a column for each output channel, and taps × channels to sum over.
// Nothing is unfolded in memory.
#pragma once

#include "status.h"

namespace flux::kernels {

// All arrays are contiguous and 16-byte aligned.
struct Conv2d {
  const void* x = nullptr;  // bf16 [batch, height, width, channels]
  const void* weight =
      nullptr;  // bf16 [out_channels, kernel_height, kernel_width, channels]; by phases: see below
  const float* bias = nullptr;     // [out_channels], or none
  const void* residual = nullptr;  // bf16 [batch, out_height, out_width, out_channels], or none; may be y
  void* y = nullptr;               // bf16 [batch, out_height, out_width, out_channels]
  int batch = 1, height = 0, width = 0, channels = 0;
  int out_height = 0, out_width = 0, out_channels = 0;
  int kernel_height = 0, kernel_width = 0;
  int stride = 1;
  int pad_top = 0, pad_left = 0;  // zeros; what the output's size needs below and on the right are zeros too
  bool upsample = false;          // x is doubled first, each pixel becoming 2 × 2
  // Upsampling and a 3 × 3 kernel with padding 1 as four 2 × 2 kernels on x as it is, one for each position of an output
  // pixel in its 2 × 2: rows y − 1 and y of x for even output rows, y and y + 1 for odd ones. kernel_height and _width are
  // then 2 and weight is [out_channels, 4 phases (row, column), 4 taps (row, column), channels], where taps that fall on
  // the same pixel have been summed: even rows (w0, w1 + w2), odd rows (w0 + w1, w2), columns alike.
  bool phases = false;
};

// By mma.sync, on every GPU from sm_80 on.
Status conv2d_portable(const Conv2d& conv, cudaStream_t stream);

Status conv2d(const Conv2d& conv, cudaStream_t stream);

}  // namespace flux::kernels
