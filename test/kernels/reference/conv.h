// Convolution, the slow and obvious way.
#pragma once

#include "harness/matrix.h"

namespace flux::testing::reference {

struct ConvShape {
  int64_t batch, height, width, channels, out_channels;
  int64_t kernel = 3, stride = 1;
  int64_t pad_top = 1, pad_left = 1, pad_bottom = 1, pad_right = 1;
  bool upsample = false;

  int64_t out_height() const;
  int64_t out_width() const;
  int64_t pixels() const { return batch * out_height() * out_width(); }
  int64_t terms() const { return kernel * kernel * channels; }
};

// x [batch · height · width, channels], weight [out_channels, kernel · kernel · channels] → [pixels, out_channels], summed in
// double. Rows of the result in `only`, or all of them when it is empty.
Matrix conv(const ConvShape& shape, const Matrix& x, const Matrix& weight, const std::vector<float>& bias,
            const std::vector<int64_t>& only = {});

// The 3 × 3 kernels of an upsampling convolution as four 2 × 2 ones (conv/conv.h), [out_channels, 4 · 4 · channels].
Matrix phases_of(const Matrix& weight, int64_t channels);

}  // namespace flux::testing::reference
