#include "reference/conv.h"

namespace flux::testing::reference {

int64_t ConvShape::out_height() const {
  return (height * (upsample ? 2 : 1) + pad_top + pad_bottom - kernel) / stride + 1;
}

int64_t ConvShape::out_width() const {
  return (width * (upsample ? 2 : 1) + pad_left + pad_right - kernel) / stride + 1;
}

Matrix conv(const ConvShape& s, const Matrix& x, const Matrix& weight, const std::vector<float>& bias,
            const std::vector<int64_t>& only) {
  const int64_t rows = only.empty() ? s.pixels() : int64_t(only.size());
  const int64_t scale = s.upsample ? 2 : 1;
  Matrix y(rows, s.out_channels);
  for (int64_t r = 0; r < rows; ++r) {
    const int64_t index = only.empty() ? r : only[size_t(r)];
    const int64_t column = index % s.out_width(), line = index / s.out_width() % s.out_height(),
                  batch = index / s.out_width() / s.out_height();
    for (int64_t n = 0; n < s.out_channels; ++n) {
      double sum = bias.empty() ? 0.0 : double(bias[size_t(n)]);
      for (int64_t ky = 0; ky < s.kernel; ++ky) {
        for (int64_t kx = 0; kx < s.kernel; ++kx) {
          const int64_t iy = line * s.stride + ky - s.pad_top, ix = column * s.stride + kx - s.pad_left;
          if (iy < 0 || ix < 0 || iy >= s.height * scale || ix >= s.width * scale) continue;
          const float* pixel = x.row((batch * s.height + iy / scale) * s.width + ix / scale);
          const float* taps = weight.row(n) + (ky * s.kernel + kx) * s.channels;
          for (int64_t c = 0; c < s.channels; ++c) sum += double(pixel[c]) * double(taps[c]);
        }
      }
      y.at(r, n) = float(sum);
    }
  }
  return y;
}

Matrix phases_of(const Matrix& weight, int64_t channels) {
  Matrix phases(weight.rows, 16 * channels);
  for (int64_t n = 0; n < weight.rows; ++n) {
    for (int64_t phase = 0; phase < 4; ++phase) {
      for (int64_t ky = 0; ky < 3; ++ky) {
        for (int64_t kx = 0; kx < 3; ++kx) {
          // Output row 2i + p reads row floor((2i + p + k − 1) / 2) of x: i − 1 + p + (which of the phase's two rows).
          const int64_t down = (phase / 2 + ky + 1) / 2 - phase / 2,
                        right = (phase % 2 + kx + 1) / 2 - phase % 2;
          for (int64_t c = 0; c < channels; ++c) {
            phases.at(n, (phase * 4 + down * 2 + right) * channels + c) +=
                weight.at(n, (ky * 3 + kx) * channels + c);
          }
        }
      }
    }
  }
  return phases;
}

}  // namespace flux::testing::reference
