// Between images, VAE moments and the transformer's packed latents.
#include <cmath>

#include "cpu/checks.h"
#include "cpu/kernels.h"
#include "cpu/rows.h"

namespace flux::cpu {

namespace {

// An image [B, h, w, C] and its packed form [B, (h/2)·(w/2), 4C], where channel c of pixel (dy, dx) of a patch is c·4 + dy·2 + dx.
class Patchwork {
 public:
  Patchwork(const OpCall& call, std::string_view image_name, const TensorView& image, std::string_view packed_name,
            const TensorView& packed)
      : image_(image), packed_(packed) {
    expect_shape(call, image_name, image, {-1, -1, -1, -1});
    if (image.shape[1] % 2 != 0 || image.shape[2] % 2 != 0) {
      fail(call, describe(image_name, image) + " must have an even height and width");
    }
    expect_shape(call, packed_name, packed, {image.shape[0], image.shape[1] / 2 * (image.shape[2] / 2), 4 * image.shape[3]});
  }

  // visit(offset in the image, offset in the packed form) for every element
  template <typename Visit>
  void for_each(ThreadPool& pool, const Visit& visit) const {
    const int64_t tokens = packed_.shape[1], across = image_.shape[2] / 2, channels = image_.shape[3];
    pool.parallel_for(image_.shape[0] * tokens, rows_per_chunk(4 * channels), [&](int64_t begin, int64_t end) {
      for (int64_t row = begin; row < end; ++row) {
        const int64_t batch = row / tokens, token = row % tokens;
        const int64_t to = batch * packed_.stride[0] + token * packed_.stride[1];
        for (int64_t corner = 0; corner < 4; ++corner) {
          const int64_t y = token / across * 2 + corner / 2, x = token % across * 2 + corner % 2;
          const int64_t from = batch * image_.stride[0] + y * image_.stride[1] + x * image_.stride[2];
          for (int64_t c = 0; c < channels; ++c) visit(from + c, to + 4 * c + corner);
        }
      }
    });
  }

 private:
  const TensorView& image_;
  const TensorView& packed_;
};

}  // namespace

void pack_latents(const OpCall& call, ThreadPool& pool) {
  const TensorView& x = operand(call, "x");
  const TensorView& y = operand(call, "y");
  const float scale = float_attribute(call, "scale"), shift = float_attribute(call, "shift");
  Patchwork(call, "x", x, "y", y).for_each(pool, [&](int64_t image, int64_t packed) {
    y.as<float>()[packed] = (x.as<const float>()[image] - shift) * scale;
  });
}

void unpack_latents(const OpCall& call, ThreadPool& pool) {
  const TensorView& x = operand(call, "x");
  const TensorView& y = operand(call, "y");
  const float scale = float_attribute(call, "scale"), shift = float_attribute(call, "shift");
  if (scale == 0.0f) fail(call, "attribute 'scale' must not be zero");
  Patchwork(call, "y", y, "x", x).for_each(pool, [&](int64_t image, int64_t packed) {
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

void to_rgb8(const OpCall& call, ThreadPool& pool) {
  const TensorView& x = operand(call, "x");
  const TensorView& y = operand(call, "y", {DType::kU8});
  expect_shape(call, "x", x, {-1, -1, -1, 3});
  expect_same_shape(call, "y", y, "x", x);
  for_each_run<2>(pool, {&x, &y}, [&](const std::array<int64_t, 2>& at, int64_t n) {
    const float* source = x.as<const float>() + at[0];
    uint8_t* target = y.as<uint8_t>() + at[1];
    for (int64_t i = 0; i < n; ++i) {
      // A NaN fails both comparisons and becomes 0.
      const float unit = source[i] / 2.0f + 0.5f;
      const float clamped = unit > 0.0f ? (unit < 1.0f ? unit : 1.0f) : 0.0f;
      // 2^23 has an ulp of 1: the addition rounds half to even.
      target[i] = static_cast<uint8_t>(255.0f * clamped + 0x1p23f - 0x1p23f);
    }
  });
}

void from_rgb8(const OpCall& call, ThreadPool& pool) {
  const TensorView& x = operand(call, "x", {DType::kU8});
  const TensorView& y = operand(call, "y");
  expect_shape(call, "x", x, {-1, -1, -1, 3});
  expect_same_shape(call, "y", y, "x", x);
  for_each_run<2>(pool, {&x, &y}, [&](const std::array<int64_t, 2>& at, int64_t n) {
    for (int64_t i = 0; i < n; ++i) y.as<float>()[at[1] + i] = static_cast<float>(x.as<const uint8_t>()[at[0] + i]) / 255.0f * 2.0f - 1.0f;
  });
}

}  // namespace flux::cpu
