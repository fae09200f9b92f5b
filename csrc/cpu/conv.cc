// conv2d as an implicit matrix product: the left matrix has a row for each output pixel and a column for each
// (ky, kx, channel); it is only ever packed a panel at a time, straight from the image. Padding reads zeros;
// nearest-neighbour upsampling halves the coordinates. The weight [Co, kh, kw, Ci] is the right matrix as it
// lies.
#include <vector>

#include "cpu/checks.h"
#include "cpu/gemm.h"
#include "cpu/kernels.h"
#include "cpu/scratch.h"

namespace flux::cpu {

namespace {

struct Geometry {
  int64_t height, width;  // of the input, before upsampling
  int64_t kernel_height, kernel_width, channels;
  int64_t out_height, out_width;
  int64_t stride, pad_top, pad_left;
  int64_t doublings;  // 1 when the input is upsampled 2×
};

// Output pixels as rows of kh·kw·Ci terms.
class Patches final : public PanelSource {
 public:
  Patches(const TensorView& x, const Geometry& geometry, const float* zeros)
      : x_(x), g_(geometry), zeros_(zeros) {}

  void pack(int64_t row, int count, int width, int64_t k, int64_t depth, float* panel) const override {
    Pixel pixels[kMaxPanel];
    locate(row, count, pixels);
    if (g_.channels < kShortRun) {
      pack_gathered(pixels, count, width, k, depth, panel);
      return;
    }
    const void* runs[kMaxPanel];
    while (depth > 0) {
      const int64_t tap = k / g_.channels, channel = k % g_.channels;
      const int64_t length = std::min(g_.channels - channel, depth);
      const int64_t down = tap / g_.kernel_width, right = tap % g_.kernel_width;
      for (int i = 0; i < count; ++i) runs[i] = source(pixels[i], down, right) + channel;
      simd().pack_f32(runs, count, width, length, panel);
      panel += length * width;
      k += length;
      depth -= length;
    }
  }

 private:
  static constexpr int kMaxPanel = 64;      // wider than any panel
  static constexpr int64_t kShortRun = 16;  // channels below which taps are gathered before they are packed

  struct Pixel {
    const float* image;
    int64_t y, x;  // of the patch's corner, in the upsampled image; may be negative
  };

  void locate(int64_t row, int count, Pixel* pixels) const {
    int64_t column = row % g_.out_width, line = row / g_.out_width % g_.out_height,
            batch = row / g_.out_width / g_.out_height;
    for (int i = 0; i < count; ++i) {
      pixels[i] = {x_.as<const float>() + batch * x_.stride[0], line * g_.stride - g_.pad_top,
                   column * g_.stride - g_.pad_left};
      if (++column < g_.out_width) continue;
      column = 0;
      if (++line < g_.out_height) continue;
      line = 0;
      ++batch;
    }
  }

  // The channels `down` and `right` of the patch's corner; zeros outside the image.
  const float* source(const Pixel& pixel, int64_t down, int64_t right) const {
    const int64_t y = pixel.y + down, x = pixel.x + right;
    if (y < 0 || x < 0 || y >= g_.height << g_.doublings || x >= g_.width << g_.doublings) return zeros_;
    return pixel.image + (y >> g_.doublings) * x_.stride[1] + (x >> g_.doublings) * x_.stride[2];
  }

  // For few channels: whole patches are copied out first, since a tap alone does not fill a vector.
  void pack_gathered(const Pixel* pixels, int count, int width, int64_t k, int64_t depth,
                     float* panel) const {
    thread_local Scratch scratch;
    float* patches = scratch.reserve<float>(count * depth);
    const void* rows[kMaxPanel];
    for (int i = 0; i < count; ++i) {
      float* patch = patches + i * depth;
      rows[i] = patch;
      for (int64_t term = k; term < k + depth;) {
        const int64_t channel = term % g_.channels,
                      length = std::min(g_.channels - channel, k + depth - term);
        const int64_t tap = term / g_.channels;
        patch = std::copy_n(source(pixels[i], tap / g_.kernel_width, tap % g_.kernel_width) + channel, length,
                            patch);
        term += length;
      }
    }
    simd().pack_f32(rows, count, width, depth, panel);
  }

  const TensorView& x_;
  const Geometry& g_;
  const float* zeros_;
};

class ConvSink final : public TileSink {
 public:
  ConvSink(const TensorView& y, const TensorView* residual, const float* bias)
      : y_(y),
        residual_(residual),
        bias_(bias),
        y_rows_(y),
        residual_rows_(residual == nullptr ? y : *residual) {}

  void store(int64_t row, int64_t rows, int64_t column, int64_t columns, const float* sums,
             int64_t ld) const override {
    Epilogue epilogue;
    if (bias_ != nullptr) epilogue.bias = bias_ + column;
    for (int64_t i = 0; i < rows; ++i, ++row) {
      if (residual_ != nullptr)
        epilogue.residual = residual_->as<const float>() + residual_rows_[row] + column;
      simd().epilogue(sums + i * ld, epilogue, columns, y_.as<float>() + y_rows_[row] + column);
    }
  }

 private:
  const TensorView& y_;
  const TensorView* residual_;
  const float* bias_;
  RowOffsets y_rows_, residual_rows_;
};

// The same where the sides of the product are swapped, for outputs of few channels: sums are
// [channel][pixel].
class NarrowConvSink final : public TileSink {
 public:
  NarrowConvSink(const TensorView& y, const TensorView* residual, const float* bias)
      : y_(y),
        residual_(residual),
        bias_(bias),
        y_rows_(y),
        residual_rows_(residual == nullptr ? y : *residual) {}

  void store(int64_t channel, int64_t channels, int64_t pixel, int64_t pixels, const float* sums,
             int64_t ld) const override {
    for (int64_t j = 0; j < pixels; ++j) {
      float* target = y_.as<float>() + y_rows_[pixel + j] + channel;
      const float* residual =
          residual_ == nullptr ? nullptr : residual_->as<const float>() + residual_rows_[pixel + j] + channel;
      for (int64_t i = 0; i < channels; ++i) {
        const float sum = sums[i * ld + j] + (bias_ == nullptr ? 0.0f : bias_[channel + i]);
        target[i] = residual == nullptr ? sum : sum + residual[i];
      }
    }
  }

 private:
  const TensorView& y_;
  const TensorView* residual_;
  const float* bias_;
  RowOffsets y_rows_, residual_rows_;
};

Geometry geometry_of(const OpCall& call, const TensorView& x, const TensorView& weight, const TensorView& y) {
  constexpr int64_t kMaxPad = 1024;
  Geometry g;
  g.height = x.shape[1];
  g.width = x.shape[2];
  g.channels = x.shape[3];
  g.kernel_height = weight.shape[1];
  g.kernel_width = weight.shape[2];
  g.stride = integer_attribute(call, "stride", 1, kMaxPad);
  g.doublings = integer_attribute(call, "upsample", 1, 2) - 1;
  g.pad_top = integer_attribute(call, "padTop", 0, kMaxPad);
  g.pad_left = integer_attribute(call, "padLeft", 0, kMaxPad);
  const int64_t padded_height =
      (g.height << g.doublings) + g.pad_top + integer_attribute(call, "padBottom", 0, kMaxPad);
  const int64_t padded_width =
      (g.width << g.doublings) + g.pad_left + integer_attribute(call, "padRight", 0, kMaxPad);
  if (g.channels < 1 || g.kernel_height < 1 || g.kernel_width < 1 || padded_height < g.kernel_height ||
      padded_width < g.kernel_width) {
    fail(call, describe("weight", weight) + " does not fit into the padded " + describe("x", x));
  }
  g.out_height = (padded_height - g.kernel_height) / g.stride + 1;
  g.out_width = (padded_width - g.kernel_width) / g.stride + 1;
  expect_shape(call, "y", y, {x.shape[0], g.out_height, g.out_width, weight.shape[0]});
  return g;
}

}  // namespace

void conv2d(const OpCall& call, ThreadPool& pool) {
  const TensorView& x = operand(call, "x");
  const TensorView& weight = operand(call, "weight", {DType::kF32, DType::kBF16});
  const TensorView& y = operand(call, "y");
  const TensorView* residual = optional_operand(call, "residual");
  expect_shape(call, "x", x, {-1, -1, -1, -1});
  expect_shape(call, "weight", weight, {-1, -1, -1, x.shape[3]});
  if (!weight.contiguous()) fail(call, describe("weight", weight) + " must be contiguous");
  const float* bias = vector_operand(call, "bias", weight.shape[0]);
  const Geometry geometry = geometry_of(call, x, weight, y);
  if (residual != nullptr) expect_same_shape(call, "residual", *residual, "y", y);

  thread_local Scratch zero_scratch;
  float* zeros = zero_scratch.reserve<float>(geometry.channels);
  std::fill_n(zeros, geometry.channels, 0.0f);
  TensorView input = x;
  std::vector<float> normalised;
  if (const TensorView* affine = optional_operand(call, "affine")) {
    normalised.resize(static_cast<size_t>(x.elements()));
    input.data = normalised.data();
    input.stride = {x.shape[1] * x.shape[2] * x.shape[3], x.shape[2] * x.shape[3], x.shape[3], 1};
    apply_affine(call, x, *affine, Activation::kSilu, input, pool);
  }
  const Patches patches(input, geometry, zeros);
  TensorView flat = weight;  // [Co, kh·kw·Ci]
  const int64_t depth = geometry.kernel_height * geometry.kernel_width * geometry.channels;
  flat.rank = 2;
  flat.shape = {weight.shape[0], depth};
  flat.stride = {depth, 1};
  const int64_t pixels = x.shape[0] * geometry.out_height * geometry.out_width, outputs = weight.shape[0];
  const MatrixRows filters(flat);
  // Few output channels would leave most columns of a tile empty; as rows they fill it. Each sum stays the
  // same.
  if (outputs <= simd().tile_columns / 2) {
    gemm(pool, {outputs, pixels, depth}, filters, patches, NarrowConvSink(y, residual, bias));
  } else {
    gemm(pool, {pixels, outputs, depth}, patches, filters, ConvSink(y, residual, bias));
  }
  if (const TensorView* sums = optional_operand(call, "sums")) {
    expect_shape(call, "sums", *sums, {y.shape[0], -1, outputs / 2, 2});
    pair_sums(y, *sums, pool);
  }
}

}  // namespace flux::cpu
