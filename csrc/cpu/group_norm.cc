// groupNorm over [B, H, W, C]: statistics over all pixels of C / groups channels. Moments of blocks of
// pixels, channel by channel, are combined in f64 in one fixed order (Chan, Golub and LeVeque 1979), which
// neither cancels nor depends on threads.
#include <algorithm>
#include <cmath>
#include <vector>

#include "cpu/checks.h"
#include "cpu/kernels.h"
#include "cpu/rows.h"
#include "cpu/scratch.h"

namespace flux::cpu {

namespace {

constexpr int64_t kPixelsPerBlock = 64;

struct Moments {
  double count = 0, mean = 0, m2 = 0;

  void combine(double other_count, double other_mean, double other_m2) {
    const double total = count + other_count, distance = other_mean - mean;
    m2 += other_m2 + distance * distance * count * other_count / total;
    mean += distance * other_count / total;
    count = total;
  }
};

// A view [B, H, W, C] whose pixels are evenly spaced within a row of the image.
struct Image {
  const TensorView& view;
  int64_t width() const { return view.shape[2]; }
  int64_t pixels() const { return view.shape[1] * view.shape[2]; }
  const float* pixel(int64_t batch, int64_t index) const {
    return view.as<const float>() + batch * view.stride[0] + index / width() * view.stride[1] +
           index % width() * view.stride[2];
  }
};

// Moments of one block for every channel. Blocks follow the order of pixels and may span several image rows:
// these are gathered first unless the image rows follow each other without a gap.
void block_moments(const Image& image, int64_t batch, int64_t first, int64_t count, float* mean, float* m2) {
  thread_local Scratch scratch;
  const int64_t channels = image.view.shape[3];
  const bool even = image.view.stride[1] == image.width() * image.view.stride[2];
  if (even || first % image.width() + count <= image.width()) {
    simd().column_moments(image.pixel(batch, first), image.view.stride[2], count, channels, mean, m2);
    return;
  }
  float* gathered = scratch.reserve<float>(kPixelsPerBlock * channels);
  for (int64_t i = 0; i < count; ++i)
    std::copy_n(image.pixel(batch, first + i), channels, gathered + i * channels);
  simd().column_moments(gathered, channels, count, channels, mean, m2);
}

}  // namespace

void group_norm(const OpCall& call, ThreadPool& pool) {
  const TensorView& x = operand(call, "x");
  const TensorView& y = operand(call, "y");
  expect_shape(call, "x", x, {-1, -1, -1, -1});
  expect_same_shape(call, "y", y, "x", x);
  const int64_t batches = x.shape[0], channels = x.shape[3];
  call.tensor("weight");  // neither is optional
  call.tensor("bias");
  const float* weight = vector_operand(call, "weight", channels);
  const float* bias = vector_operand(call, "bias", channels);
  const int64_t groups = integer_attribute(call, "groups", 1, std::max<int64_t>(channels, 1));
  if (channels % groups != 0)
    fail(call, describe("x", x) + " does not divide into " + std::to_string(groups) + " groups");
  const float eps = float_attribute(call, "eps");
  const Activation act = activation_attribute(call);
  if (x.elements() == 0) return;

  const Image image{x};
  const int64_t pixels = image.pixels(), blocks = (pixels + kPixelsPerBlock - 1) / kPixelsPerBlock;
  thread_local Scratch moment_scratch, factor_scratch;
  float* moments =
      moment_scratch.reserve<float>(batches * blocks * 2 * channels);  // [B, blocks, (mean, m2), C]
  const int64_t grain = std::max<int64_t>(1, rows_per_chunk(channels) / kPixelsPerBlock);
  pool.parallel_for(batches * blocks, grain, [&](int64_t begin, int64_t end) {
    for (int64_t block = begin; block < end; ++block) {
      const int64_t first = block % blocks * kPixelsPerBlock;
      float* mean = moments + block * 2 * channels;
      block_moments(image, block / blocks, first, std::min(kPixelsPerBlock, pixels - first), mean,
                    mean + channels);
    }
  });

  float* factors =
      factor_scratch.reserve<float>(batches * 2 * channels);  // [B, (mean, weight / deviation), C]
  const int64_t group_width = channels / groups;
  pool.parallel_for(
      batches * groups, std::max<int64_t>(1, 4096 / (blocks * group_width)), [&](int64_t begin, int64_t end) {
        for (int64_t index = begin; index < end; ++index) {
          const int64_t batch = index / groups, channel = index % groups * group_width;
          Moments total;
          for (int64_t block = 0; block < blocks; ++block) {
            const float* mean = moments + (batch * blocks + block) * 2 * channels;
            const double count =
                static_cast<double>(std::min(kPixelsPerBlock, pixels - block * kPixelsPerBlock));
            for (int64_t c = channel; c < channel + group_width; ++c)
              total.combine(count, mean[c], mean[channels + c]);
          }
          const double inverse = 1.0 / std::sqrt(total.m2 / total.count + static_cast<double>(eps));
          float* factor = factors + batch * 2 * channels;
          for (int64_t c = channel; c < channel + group_width; ++c) {
            factor[c] = static_cast<float>(total.mean);
            factor[channels + c] = static_cast<float>(inverse * static_cast<double>(weight[c]));
          }
        }
      });

  const RowOffsets x_rows(x), y_rows(y);
  pool.parallel_for(batches * pixels, rows_per_chunk(channels), [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const float* factor = factors + row / pixels * 2 * channels;
      simd().normalise_columns(x.as<const float>() + x_rows[row], factor, factor + channels, bias, channels,
                               act, y.as<float>() + y_rows[row]);
    }
  });
}

void pair_sums(const TensorView& x, const TensorView& sums, ThreadPool& pool) {
  const int64_t channels = x.shape[3], parts = sums.shape[1];
  const Image image{x};
  pool.parallel_for(x.shape[0] * parts, 1, [&](int64_t begin, int64_t end) {
    std::vector<double> totals(static_cast<size_t>(channels));
    for (int64_t index = begin; index < end; ++index) {
      const int64_t batch = index / parts, part = index % parts;
      std::fill(totals.begin(), totals.end(), 0.0);
      for (int64_t p = image.pixels() * part / parts; p < image.pixels() * (part + 1) / parts; ++p) {
        const float* pixel = image.pixel(batch, p);
        for (int64_t c = 0; c < channels; ++c) {
          const double value = static_cast<double>(pixel[c]);
          totals[static_cast<size_t>(c / 2 * 2)] += value;
          totals[static_cast<size_t>(c / 2 * 2 + 1)] += value * value;
        }
      }
      float* target = sums.as<float>() + batch * sums.stride[0] + part * sums.stride[1];
      for (int64_t c = 0; c < channels; ++c) target[c] = static_cast<float>(totals[static_cast<size_t>(c)]);
    }
  });
}

void apply_affine(const OpCall& call, const TensorView& x, const TensorView& affine, Activation act,
                  const TensorView& y, ThreadPool& pool) {
  const int64_t channels = x.shape[3], pixels = x.shape[1] * x.shape[2];
  expect_shape(call, "affine", affine, {x.shape[0], channels, 2});
  const std::vector<float> zeros(static_cast<size_t>(channels), 0.0f);
  std::vector<float> multipliers, addends;  // [B, C]
  for (int64_t batch = 0; batch < x.shape[0]; ++batch) {
    const float* pairs = affine.as<const float>() + batch * affine.stride[0];
    for (int64_t c = 0; c < channels; ++c) {
      multipliers.push_back(pairs[2 * c]);
      addends.push_back(pairs[2 * c + 1]);
    }
  }
  const RowOffsets x_rows(x), y_rows(y);
  pool.parallel_for(x.shape[0] * pixels, rows_per_chunk(channels), [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const int64_t first = row / pixels * channels;
      simd().normalise_columns(x.as<const float>() + x_rows[row], zeros.data(), multipliers.data() + first,
                               addends.data() + first, channels, act, y.as<float>() + y_rows[row]);
    }
  });
}

void group_norm_sums(const OpCall& call, ThreadPool& pool) {
  const TensorView& x = operand(call, "x");
  const TensorView& sums = operand(call, "sums");
  expect_shape(call, "x", x, {-1, -1, -1, -1});
  if (x.shape[3] % 2 != 0) fail(call, describe("x", x) + " must have an even number of channels");
  expect_shape(call, "sums", sums, {x.shape[0], -1, x.shape[3] / 2, 2});
  pair_sums(x, sums, pool);
}

void group_norm_affine(const OpCall& call, ThreadPool&) {
  const TensorView& sums = operand(call, "sums");
  const TensorView& y = operand(call, "y");
  expect_shape(call, "sums", sums, {-1, -1, -1, 2});
  const int64_t batches = sums.shape[0], parts = sums.shape[1], channels = 2 * sums.shape[2];
  expect_shape(call, "y", y, {batches, channels, 2});
  const float* weight = vector_operand(call, "weight", channels);
  const float* bias = vector_operand(call, "bias", channels);
  const int64_t groups = integer_attribute(call, "groups", 1, channels);
  const double pixels = call.number("pixels"), eps = call.number("eps");
  if (channels % (2 * groups) != 0) fail(call, describe("sums", sums) + " must have pairs within groups");
  const int64_t width = channels / groups;
  for (int64_t index = 0; index < batches * groups; ++index) {
    const int64_t batch = index / groups, first = index % groups * width;
    double sum = 0.0, square = 0.0;
    for (int64_t part = 0; part < parts; ++part) {
      const float* pairs = sums.as<const float>() + batch * sums.stride[0] + part * sums.stride[1] + first;
      for (int64_t c = 0; c < width; c += 2) {
        sum += static_cast<double>(pairs[c]);
        square += static_cast<double>(pairs[c + 1]);
      }
    }
    const double count = pixels * static_cast<double>(width), mean = sum / count;
    const double inverse = 1.0 / std::sqrt(std::max(square / count - mean * mean, 0.0) + eps);
    for (int64_t c = first; c < first + width; ++c) {
      const double multiplier = inverse * static_cast<double>(weight[c]);
      float* pair = y.as<float>() + batch * y.stride[0] + 2 * c;
      pair[0] = static_cast<float>(multiplier);
      pair[1] = static_cast<float>(static_cast<double>(bias[c]) - mean * multiplier);
    }
  }
}

void group_norm_apply(const OpCall& call, ThreadPool& pool) {
  const TensorView& x = operand(call, "x");
  const TensorView& y = operand(call, "y");
  expect_shape(call, "x", x, {-1, -1, -1, -1});
  expect_same_shape(call, "y", y, "x", x);
  apply_affine(call, x, operand(call, "affine"), activation_attribute(call), y, pool);
}

}  // namespace flux::cpu
