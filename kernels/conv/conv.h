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

  // GroupNorm and SiLU of x on the way in: with affine [batch, channels, 2] (norm/norm.h: group_norm_affine) x is read as
  // SiLU(x·multiplier + addend); padding stays zero. Optional.
  const float* affine = nullptr;
  // GroupNorm's sums of y on the way out: [batch, kGroupNormSumParts, out_channels / 2, 2] (norm/norm.h). Optional.
  float* sums = nullptr;
};

// By wgmma and TMA on sm_90a. kUnsupported: not a Hopper GPU, or a shape that it has no kernel for (`conv2d_hopper_takes`).
// tile: of conv2d_hopper_tiles() ones, for tests; −1 takes the one that is thought the fastest.
Status conv2d_hopper(const Conv2d& conv, cudaStream_t stream, int tile = -1);
// Whether it has: channels and out_channels multiples of 8 (out_channels up to 16: any, without residual and sums), at most 2048
// of them; kernels up to 3 × 3; stride 1, or 2 with x's sides even and channels a multiple of 64; upsampling by phases, without a residual; affine
// with stride 1; sums with an even number of out_channels.
bool conv2d_hopper_takes(const Conv2d& conv, int tile = -1);
int conv2d_hopper_tiles();

// By mma.sync, on every GPU from sm_80 on; neither affine nor sums.
Status conv2d_portable(const Conv2d& conv, cudaStream_t stream);

// The first that takes it, those of conv/image.h included; around conv2d_portable, affine and sums are passes of their own.
// workspace: conv2d_workspace_bytes on the current device, 256-byte aligned.
Status conv2d(const Conv2d& conv, void* workspace, cudaStream_t stream);
int64_t conv2d_workspace_bytes(const Conv2d& conv);

}  // namespace flux::kernels
