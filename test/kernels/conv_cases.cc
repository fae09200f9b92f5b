// Convolutions against sums in double precision of what they read.
#include <algorithm>
#include <cmath>
#include <functional>

#include "conv/conv.h"
#include "conv/image.h"
#include "harness/case.h"
#include "norm/norm.h"
#include "reference/conv.h"

namespace flux::testing {
namespace {

using kernels::Conv2d;
using reference::ConvShape;

struct Path {
  std::string name;
  std::function<Status(const Conv2d& conv, cudaStream_t stream)> run;
  std::function<bool(const Conv2d& conv)> takes;
  int architecture;  // that it needs, 0: any
};

// Hopper's kernel chooses a tile; every other must be right too.
Path hopper(int tile) {
  return {tile < 0 ? "hopper" : "hopper/tile-" + std::to_string(tile),
          [=](const Conv2d& conv, cudaStream_t stream) { return kernels::conv2d_hopper(conv, stream, tile); },
          [=](const Conv2d& conv) { return kernels::conv2d_hopper_takes(conv, tile); }, 90};
}

std::vector<Path> all_paths() {
  std::vector<Path> paths = {{"portable", kernels::conv2d_portable, [](const Conv2d&) { return true; }, 0},
                             {"image-in", kernels::conv2d_image_in, kernels::conv2d_image_in_takes, 0},
                             {"image-out", kernels::conv2d_image_out, kernels::conv2d_image_out_takes, 0}};
  for (int tile = -1; tile < kernels::conv2d_hopper_tiles(); ++tile) paths.push_back(hopper(tile));
  return paths;
}

std::string text(const ConvShape& s) {
  std::string name = std::to_string(s.batch) + "x" + std::to_string(s.height) + "x" +
                     std::to_string(s.width) + "x" + std::to_string(s.channels) + "-" +
                     std::to_string(s.out_channels);
  if (s.kernel == 1) name += "/1x1";
  if (s.stride == 2) name += "/down";
  if (s.upsample) name += "/up";
  return name;
}

ConvShape pointwise(int64_t batch, int64_t height, int64_t width, int64_t channels, int64_t out) {
  return {batch, height, width, channels, out, 1, 1, 0, 0, 0, 0};
}
ConvShape downsampling(int64_t batch, int64_t height, int64_t width, int64_t channels, int64_t out) {
  return {batch, height, width, channels, out, 3, 2, 0, 0, 1, 1};
}
ConvShape upsampling(int64_t batch, int64_t height, int64_t width, int64_t channels, int64_t out) {
  return {batch, height, width, channels, out, 3, 1, 1, 1, 1, 1, true};
}

Conv2d call_of(const ConvShape& s, bool phases) {
  Conv2d conv;
  conv.batch = int(s.batch);
  conv.height = int(s.height);
  conv.width = int(s.width);
  conv.channels = int(s.channels);
  conv.out_height = int(s.out_height());
  conv.out_width = int(s.out_width());
  conv.out_channels = int(s.out_channels);
  conv.kernel_height = conv.kernel_width = phases ? 2 : int(s.kernel);
  conv.stride = int(s.stride);
  conv.pad_top = int(s.pad_top);
  conv.pad_left = int(s.pad_left);
  conv.upsample = s.upsample;
  conv.phases = phases;
  return conv;
}

struct Operands {
  Matrix x, weight, bias;
};

Operands random_operands(const ConvShape& s, uint64_t seed) {
  Operands o;
  o.x = rounded_to(normal(s.batch * s.height * s.width, s.channels, seed), Element::kBF16);
  // Multiples of 1/16 up to 2: the sums that phases take of them are exact in bf16.
  o.weight = uniform(s.out_channels, s.terms(), seed + 1, -32.0f, 32.0f);
  for (float& value : o.weight.values) value = float(int(value)) / 16.0f;
  o.bias = normal(1, s.out_channels, seed + 2, 4.0f);
  return o;
}

enum class Residual { kNone, kApart, kInPlace };

// `sums`: what reference::conv gives.
void check(Context& c, const Path& path, const ConvShape& s, const Operands& o, const Matrix& sums,
           Residual residual, bool phases) {
  const Matrix extra = rounded_to(normal(s.pixels(), s.out_channels, 7, 8.0f), Element::kBF16);
  const Input x(o.x, Element::kBF16), bias(o.bias, Element::kF32), apart(extra, Element::kBF16);
  const Input weight(phases ? reference::phases_of(o.weight, s.channels) : o.weight, Element::kBF16);
  Output y(s.pixels(), s.out_channels, Element::kBF16);
  Conv2d conv = call_of(s, phases);
  conv.x = x.data();
  conv.weight = weight.data();
  conv.bias = bias.data<float>();
  conv.y = y.data();
  if (residual == Residual::kApart) conv.residual = apart.data();
  if (residual == Residual::kInPlace) {
    y.starts_as(extra);
    conv.residual = y.data();
  }
  if (!path.takes(conv)) {
    c.expect_refused("a shape without a kernel", path.run(conv, c.stream()), Status::Code::kUnsupported);
    return;
  }
  if (!c.run({&y}, [&] { return path.run(conv, c.stream()); })) return;
  Matrix want = sums;
  if (residual != Residual::kNone) {
    for (size_t i = 0; i < want.values.size(); ++i) want.values[i] += extra.values[i];
  }
  c.expect_within("y", y.values(), want, kAfterBf16);
}

void check(Context& c, const Path& path, const ConvShape& s, const Operands& o, Residual residual,
           bool phases) {
  check(c, path, s, o, reference::conv(s, o.x, o.weight, o.bias.values), residual, phases);
}

// Patterns in place of noise: one weight, a ramp of pixels, a constant for each pixel.
void layout(Context& c, const Path& path, const ConvShape& s) {
  for (const bool phases : {false, true}) {
    if (phases && !s.upsample) continue;
    Operands o = random_operands(s, 31);
    o.x = index_ramp(s.batch * s.height * s.width, s.channels);
    o.weight = one_hot(s.out_channels, s.terms(), s.out_channels - 1, s.terms() - 2, 1.0f);
    check(c, path, s, o, Residual::kNone, phases);
    o = random_operands(s, 32);
    o.x = one_hot(s.batch * s.height * s.width, s.channels, s.batch * s.height * s.width - 1, s.channels / 2);
    o.bias = Matrix(1, s.out_channels);
    check(c, path, s, o, Residual::kNone, phases);
    o = random_operands(s, 33);
    o.x = constant_per_row(s.batch * s.height * s.width, s.channels);
    check(c, path, s, o, Residual::kInPlace, phases);
  }
}

// GroupNorm and SiLU on the way in, GroupNorm's sums on the way out, a residual between; with up to 16 channels the first alone.
// tile: of Hopper's kernel; −1: whatever takes it.
void check_norms(Context& c, const ConvShape& s, bool normalises, int tile) {
  const Operands o = random_operands(s, 51);
  const Matrix affine = normal(s.batch, 2 * s.channels, 54, 0.5f, 0.25f);
  const Matrix extra = rounded_to(normal(s.pixels(), s.out_channels, 55, 2.0f), Element::kBF16);
  const Matrix weight = s.upsample ? reference::phases_of(o.weight, s.channels) : o.weight;
  const Input x(o.x, Element::kBF16), weights(weight, Element::kBF16), bias(o.bias, Element::kF32),
      multipliers(affine, Element::kF32), residual(extra, Element::kBF16);
  Output y(s.pixels(), s.out_channels, Element::kBF16);
  Output sums(s.batch * kernels::kGroupNormSumParts, s.out_channels, Element::kF32);
  Conv2d conv = call_of(s, s.upsample);
  conv.x = x.data();
  conv.weight = weights.data();
  conv.bias = bias.data<float>();
  const bool narrow = s.out_channels <= 16, from_image = s.channels == 3;
  conv.residual = s.upsample || narrow || from_image ? nullptr : residual.data();
  conv.y = y.data();
  conv.affine = normalises ? multipliers.data<float>() : nullptr;
  conv.sums = narrow ? nullptr : sums.data<float>();
  if (tile >= 0 && !kernels::conv2d_hopper_takes(conv, tile)) {
    c.expect_refused("a shape without a kernel", kernels::conv2d_hopper(conv, c.stream(), tile),
                     Status::Code::kUnsupported);
    return;
  }
  const DeviceBytes workspace(std::max<int64_t>(256, kernels::conv2d_workspace_bytes(conv)));
  const auto launch = [&] {
    return tile < 0 ? kernels::conv2d(conv, workspace.data(), c.stream())
                    : kernels::conv2d_hopper(conv, c.stream(), tile);
  };
  if (narrow ? !c.run({&y}, launch) : !c.run({&y, &sums}, launch)) return;

  Matrix read = o.x;
  const int64_t image = s.height * s.width, out_image = s.out_height() * s.out_width();
  for (int64_t r = 0; normalises && r < read.rows; ++r) {
    for (int64_t ch = 0; ch < s.channels; ++ch) {
      const float* pair = affine.row(r / image) + 2 * ch;
      const double h = double(read.at(r, ch)) * double(pair[0]) + double(pair[1]);
      read.at(r, ch) = float(h / (1.0 + std::exp(-h)));
    }
  }
  Matrix want = reference::conv(s, rounded_to(read, Element::kBF16), o.weight, o.bias.values);
  for (size_t i = 0; conv.residual && i < want.values.size(); ++i) want.values[i] += extra.values[i];
  c.expect_within("y", y.values(), want, kAfterBf16);
  if (narrow) return;

  // Of pairs of channels of each image: the sum, and the sum of the squares.
  const Matrix parts = sums.values();
  Matrix got(s.batch, s.out_channels), total(s.batch, s.out_channels);
  for (int64_t r = 0; r < parts.rows; ++r) {
    for (int64_t i = 0; i < parts.cols; ++i) got.at(r / kernels::kGroupNormSumParts, i) += parts.at(r, i);
  }
  for (int64_t r = 0; r < want.rows; ++r) {
    for (int64_t ch = 0; ch < s.out_channels; ++ch) {
      total.at(r / out_image, ch / 2 * 2) += want.at(r, ch);
      total.at(r / out_image, ch / 2 * 2 + 1) += want.at(r, ch) * want.at(r, ch);
    }
  }
  c.expect_within("sums", got, total, {1e-3, -1, -1});
}

const ConvShape kNormShapes[] = {{1, 8, 16, 64, 64},
                                 {2, 17, 35, 128, 128},
                                 {1, 33, 65, 72, 264},
                                 {1, 20, 70, 256, 512},
                                 {3, 9, 18, 16, 48},
                                 {1, 100, 150, 64, 136},
                                 pointwise(1, 12, 40, 64, 128),
                                 downsampling(1, 34, 66, 64, 128),
                                 upsampling(2, 9, 19, 64, 256),
                                 {1, 24, 40, 3, 64},
                                 {2, 101, 150, 3, 128},
                                 {2, 43, 61, 128, 3},
                                 {1, 35, 50, 64, 16}};

// No tile gets by on refusals: each takes some of the shapes above, one with a norm some that are normalised.
void every_tile(Context& c) {
  const float there = 0.0f;
  for (int tile = 0; tile < kernels::conv2d_hopper_tiles(); ++tile) {
    int taken = 0;
    for (const ConvShape& s : kNormShapes) {
      Conv2d conv = call_of(s, s.upsample);
      taken += kernels::conv2d_hopper_takes(conv, tile);
      conv.affine = &there;
      taken += kernels::conv2d_hopper_takes(conv, tile);
    }
    c.expect(taken > 0, "tile " + std::to_string(tile) + " takes none of the shapes with norms");
  }
}

void refusals(Context& c) {
  const ConvShape s{1, 8, 8, 16, 16};
  const Operands o = random_operands(s, 41);
  const Input x(o.x, Element::kBF16), weight(o.weight, Element::kBF16);
  Output y(s.pixels(), s.out_channels, Element::kBF16);
  const auto refused = [&](const char* what, const auto& change) {
    Conv2d conv = call_of(s, false);
    conv.x = x.data();
    conv.weight = weight.data();
    conv.y = y.data();
    change(conv);
    c.expect_refused(what, kernels::conv2d(conv, nullptr, c.stream()), Status::Code::kBadArgument);
  };
  refused("no batch", [](Conv2d& conv) { conv.batch = 0; });
  refused("no channels", [](Conv2d& conv) { conv.channels = 0; });
  refused("stride 0", [](Conv2d& conv) { conv.stride = 0; });
  refused("negative padding", [](Conv2d& conv) { conv.pad_left = -1; });
  refused("too many pixels", [](Conv2d& conv) { conv.out_height = conv.out_width = 40000; });
  refused("no weight", [](Conv2d& conv) { conv.weight = nullptr; });
  refused("an odd pointer", [](Conv2d& conv) { conv.x = static_cast<const uint8_t*>(conv.x) + 2; });
  refused("phases without upsampling", [](Conv2d& conv) { conv.phases = true; });
}

const ConvShape kShapes[] = {{1, 1, 1, 64, 64},
                             {1, 7, 9, 64, 64},
                             {1, 8, 16, 64, 128},
                             {1, 9, 17, 64, 128},
                             {2, 15, 15, 128, 64},
                             {1, 16, 32, 128, 256},
                             {1, 17, 31, 192, 129},
                             {3, 5, 40, 72, 136},
                             {1, 12, 20, 16, 512},
                             {1, 33, 18, 48, 48},
                             {2, 10, 22, 3, 128},
                             {1, 20, 37, 128, 3},
                             {2, 19, 50, 3, 64},
                             {1, 1, 1, 3, 512},
                             {2, 43, 61, 64, 3},
                             {1, 14, 30, 32, 1},
                             {1, 16, 16, 256, 32},
                             {1, 40, 24, 32, 16},
                             {1, 10, 18, 512, 264},
                             pointwise(1, 9, 17, 128, 64),
                             pointwise(2, 5, 7, 8, 16),
                             downsampling(1, 16, 32, 64, 64),
                             downsampling(2, 18, 34, 128, 128),
                             downsampling(1, 15, 9, 64, 72),
                             downsampling(1, 66, 62, 48, 48),
                             upsampling(1, 8, 16, 64, 64),
                             upsampling(1, 9, 17, 128, 256),
                             upsampling(2, 5, 6, 48, 48),
                             upsampling(1, 17, 33, 72, 129)};

const Cases kTests = [](Register& add) {
  for (const Path& path : all_paths()) {
    const std::string family = "conv/" + path.name + "/";
    const auto test = [&](const std::string& name, auto function) {
      add.test(family + name, [=](Context& c) {
        if (path.architecture == 0 || c.architecture() == path.architecture) function(c);
      });
    };
    for (const ConvShape& shape : kShapes) {
      for (const bool phases : {false, true}) {
        if (phases && !shape.upsample) continue;
        test(text(shape) + (phases ? "/phases" : ""), [=](Context& c) {
          const Operands o = random_operands(shape, 11);
          const Matrix sums = reference::conv(shape, o.x, o.weight, o.bias.values);
          for (const Residual residual : {Residual::kNone, Residual::kApart, Residual::kInPlace})
            check(c, path, shape, o, sums, residual, phases);
        });
      }
    }
    test("layout", [=](Context& c) {
      layout(c, path, {1, 18, 21, 64, 72});
      layout(c, path, {2, 9, 35, 136, 256});
      layout(c, path, upsampling(1, 9, 19, 64, 64));
      layout(c, path, downsampling(1, 18, 20, 64, 64));
    });
  }
  for (const ConvShape& shape : kNormShapes) {
    for (const bool normalises : {false, true}) {
      if (normalises && (shape.upsample || shape.channels % 8 != 0)) continue;
      const std::string name = text(shape) + (normalises ? "/normalised" : "");
      add.test("conv/norms/" + name, [=](Context& c) { check_norms(c, shape, normalises, -1); });
      for (int tile = 0; tile < kernels::conv2d_hopper_tiles(); ++tile) {
        add.test("conv/norms/tile-" + std::to_string(tile) + "/" + name, [=](Context& c) {
          if (c.architecture() == 90) check_norms(c, shape, normalises, tile);
        });
      }
    }
  }
  add.test("conv/norms/every_tile", every_tile);
  add.test("conv/refusals", refusals);
};

}  // namespace
}  // namespace flux::testing
