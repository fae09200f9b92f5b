// Between images, VAE moments and the transformer's packed latents.
#include <algorithm>
#include <cmath>
#include <vector>

#include "cpu/checks.h"
#include "cpu/kernels.h"
#include "cpu/rows.h"

namespace flux::cpu {

namespace {

// An image [B, h, w, C], or [B, C, h, w], and its packed form [B, (h/2)·(w/2), 4C], where channel c of pixel
// (dy, dx) of a patch is c·4 + dy·2 + dx.
class Patchwork {
 public:
  Patchwork(const OpCall& call, std::string_view image_name, const TensorView& image,
            std::string_view packed_name, const TensorView& packed, bool channels_first)
      : packed_(packed) {
    expect_shape(call, image_name, image, {-1, -1, -1, -1});
    const int y_axis = channels_first ? 2 : 1, x_axis = y_axis + 1, channel_axis = channels_first ? 1 : 3;
    batch_stride_ = image.stride[0];
    y_stride_ = image.stride[y_axis];
    x_stride_ = channels_first ? 1 : image.stride[x_axis];
    channel_stride_ = channels_first ? image.stride[channel_axis] : 1;
    const int64_t height = image.shape[y_axis], width = image.shape[x_axis];
    across_ = width / 2;
    channels_ = image.shape[channel_axis];
    if (height % 2 != 0 || width % 2 != 0)
      fail(call, describe(image_name, image) + " must have an even height and width");
    expect_shape(call, packed_name, packed, {image.shape[0], height / 2 * across_, 4 * channels_});
  }

  // visit(offset in the image, offset in the packed form) for every element
  template <typename Visit>
  void for_each(ThreadPool& pool, const Visit& visit) const {
    const int64_t tokens = packed_.shape[1];
    pool.parallel_for(
        packed_.shape[0] * tokens, rows_per_chunk(4 * channels_), [&](int64_t begin, int64_t end) {
          for (int64_t row = begin; row < end; ++row) {
            const int64_t batch = row / tokens, token = row % tokens;
            const int64_t to = batch * packed_.stride[0] + token * packed_.stride[1];
            for (int64_t corner = 0; corner < 4; ++corner) {
              const int64_t y = token / across_ * 2 + corner / 2, x = token % across_ * 2 + corner % 2;
              const int64_t from = batch * batch_stride_ + y * y_stride_ + x * x_stride_;
              for (int64_t c = 0; c < channels_; ++c) visit(from + c * channel_stride_, to + 4 * c + corner);
            }
          }
        });
  }

 private:
  const TensorView& packed_;
  int64_t batch_stride_, y_stride_, x_stride_, channel_stride_;
  int64_t across_, channels_;
};

}  // namespace

void pack_latents(const OpCall& call, ThreadPool& pool) {
  const TensorView& x = operand(call, "x");
  const TensorView& y = operand(call, "y");
  const float scale = float_attribute(call, "scale"), shift = float_attribute(call, "shift");
  const bool channels_first = integer_attribute(call, "channelsFirst", 0, 1) == 1;
  Patchwork(call, "x", x, "y", y, channels_first).for_each(pool, [&](int64_t image, int64_t packed) {
    y.as<float>()[packed] = (x.as<const float>()[image] - shift) * scale;
  });
}

void unpack_latents(const OpCall& call, ThreadPool& pool) {
  const TensorView& x = operand(call, "x");
  const TensorView& y = operand(call, "y");
  const float scale = float_attribute(call, "scale"), shift = float_attribute(call, "shift");
  if (scale == 0.0f) fail(call, "attribute 'scale' must not be zero");
  Patchwork(call, "y", y, "x", x, false).for_each(pool, [&](int64_t image, int64_t packed) {
    y.as<float>()[image] = x.as<const float>()[packed] / scale + shift;
  });
}

void sample_latents(const OpCall& call, ThreadPool& pool) {
  const TensorView& moments = operand(call, "moments");
  const TensorView* noise = optional_operand(call, "noise");
  const TensorView& y = operand(call, "y");
  expect_shape(call, "y", y, {-1, -1, -1, -1});
  const int64_t channels = y.shape[3];
  expect_shape(call, "moments", moments, {y.shape[0], y.shape[1], y.shape[2], 2 * channels});
  if (noise != nullptr) expect_same_shape(call, "noise", *noise, "y", y);
  const RowOffsets moment_rows(moments), noise_rows(noise == nullptr ? y : *noise), y_rows(y);
  pool.parallel_for(y.rows(), rows_per_chunk(channels), [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const float* mean = moments.as<const float>() + moment_rows[row];
      const float* log_variance = mean + channels;
      float* target = y.as<float>() + y_rows[row];
      if (noise == nullptr) {
        std::copy_n(mean, channels, target);
        continue;
      }
      const float* sample = noise->as<const float>() + noise_rows[row];
      for (int64_t c = 0; c < channels; ++c) {
        const float clamped = std::clamp(log_variance[c], -30.0f, 20.0f);
        target[c] = mean[c] + std::exp(0.5f * clamped) * sample[c];
      }
    }
  });
}

void to_image(const OpCall& call, ThreadPool& pool) {
  const TensorView& x = operand(call, "x");
  const TensorView& y = operand(call, "y", {DType::kU8, DType::kF32});
  expect_same_shape(call, "y", y, "x", x);
  for_each_run<2>(pool, {&x, &y}, [&](const std::array<int64_t, 2>& at, int64_t n) {
    const float* source = x.as<const float>() + at[0];
    if (y.dtype == DType::kF32) {
      float* target = y.as<float>() + at[1];
      for (int64_t i = 0; i < n; ++i)
        target[i] = std::clamp(source[i] / 2.0f + 0.5f, 0.0f, 1.0f);  // a NaN stays a NaN
      return;
    }
    uint8_t* target = y.as<uint8_t>() + at[1];
    for (int64_t i = 0; i < n; ++i) {
      const float unit = source[i] / 2.0f + 0.5f;
      const float clamped = unit > 0.0f ? (unit < 1.0f ? unit : 1.0f) : 0.0f;  // a NaN fails both comparisons
      // 2^23 has an ulp of 1: the addition rounds half to even.
      target[i] = static_cast<uint8_t>(255.0f * clamped + 0x1p23f - 0x1p23f);
    }
  });
}

void from_image(const OpCall& call, ThreadPool& pool) {
  const TensorView& x = operand(call, "x", {DType::kU8});
  const TensorView& y = operand(call, "y");
  expect_same_shape(call, "y", y, "x", x);
  for_each_run<2>(pool, {&x, &y}, [&](const std::array<int64_t, 2>& at, int64_t n) {
    const uint8_t* source = x.as<const uint8_t>() + at[0];
    float* target = y.as<float>() + at[1];
    for (int64_t i = 0; i < n; ++i) target[i] = static_cast<float>(source[i]) / 255.0f * 2.0f - 1.0f;
  });
}

void blend_tile(const OpCall& call, ThreadPool& pool) {
  const TensorView& x = operand(call, "x");
  const TensorView& y = operand(call, "y");
  expect_shape(call, "x", x, {-1, -1, -1, -1});
  expect_same_shape(call, "y", y, "x", x);
  const int64_t height = x.shape[1], width = x.shape[2], channels = x.shape[3];
  // How much of x comes in at `position`: nothing before the ramp, all of it behind.
  const auto share = [&](const char* edge, const char* ramp, int64_t position) {
    const double into = static_cast<double>(position - integer_attribute(call, edge, 0, 1 << 24)) + 0.5;
    const double length = static_cast<double>(integer_attribute(call, ramp, 0, 1 << 24));
    return static_cast<float>(length > 0.0 ? std::clamp(into / length, 0.0, 1.0) : (into > 0.0 ? 1.0 : 0.0));
  };
  std::vector<float> across;
  for (int64_t column = 0; column < width; ++column) across.push_back(share("left", "leftRamp", column));
  pool.parallel_for(x.shape[0] * height, rows_per_chunk(width * channels), [&](int64_t begin, int64_t end) {
    for (int64_t line = begin; line < end; ++line) {
      const int64_t batch = line / height, row = line % height;
      const float down = share("top", "topRamp", row);
      const float* source = x.as<const float>() + batch * x.stride[0] + row * x.stride[1];
      float* target = y.as<float>() + batch * y.stride[0] + row * y.stride[1];
      for (int64_t column = 0; column < width; ++column) {
        const float part = down * across[static_cast<size_t>(column)];
        for (int64_t c = 0; c < channels; ++c) {
          float& kept = target[column * y.stride[2] + c];
          const float own = source[column * x.stride[2] + c];
          // What is not mixed is copied: the target may hold anything there.
          if (part == 1.0f)
            kept = own;
          else if (part > 0.0f)
            kept += part * (own - kept);
        }
      }
    }
  });
}

}  // namespace flux::cpu
