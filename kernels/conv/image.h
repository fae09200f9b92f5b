// Convolutions between a picture, three channels, and many channels: first layer of an encoder, last of a decoder.
#pragma once

#include "conv/conv.h"

namespace flux::kernels {

// 3 channels → a power of two times 64, at most 1024; 3 × 3, stride 1, any padding; neither affine nor residual.
bool conv2d_image_in_takes(const Conv2d& conv);
Status conv2d_image_in(const Conv2d& conv, cudaStream_t stream);

// A multiple of 32, at most 512 channels → up to 3; 3 × 3, stride 1, any padding; neither sums nor residual.
bool conv2d_image_out_takes(const Conv2d& conv);
Status conv2d_image_out(const Conv2d& conv, cudaStream_t stream);

}  // namespace flux::kernels
