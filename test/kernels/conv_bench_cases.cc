// Convolutions of FLUX's autoencoder at 1024 × 1024, sustained. The peer is bench/peers/vae.py.
#include <cmath>
#include <memory>

#include "conv/conv.h"
#include "harness/case.h"
#include "norm/norm.h"
#include "reference/conv.h"

namespace flux::testing {
namespace {

using kernels::Conv2d;
using reference::ConvShape;

// What happens beside the sums: a resnet's first convolution normalises x and adds the result up for the next norm, its
// second one also adds a residual.
struct Fused {
  bool normalises, sums, residual;
};

template <typename T>
T* as(const DeviceBytes& bytes) {
  return reinterpret_cast<T*>(bytes.data());
}

struct BufferSet {
  BufferSet(const ConvShape& s, uint64_t seed)
      : x(s.batch * s.height * s.width * s.channels * 2),
        weight(s.out_channels * (s.upsample ? 16 : s.kernel * s.kernel) * s.channels * 2),
        y(s.pixels() * s.out_channels * 2),
        residual(s.pixels() * s.out_channels * 2) {
    fill_normal(x.data(), x.bytes() / 2, Element::kBF16, seed);
    fill_normal(weight.data(), weight.bytes() / 2, Element::kBF16, seed + 1, 0.02f);
    fill_normal(residual.data(), residual.bytes() / 2, Element::kBF16, seed + 2);
  }
  DeviceBytes x, weight, y, residual;
};

std::vector<uint16_t> download(const DeviceBytes& memory) {
  std::vector<uint16_t> copy(size_t(memory.bytes() / 2));
  must(cudaMemcpy(copy.data(), memory.data(), size_t(memory.bytes()), cudaMemcpyDeviceToHost), "download");
  return copy;
}

// Some pixels against all channels.
void check(Context& c, const ConvShape& s, const Conv2d& conv, const BufferSet& set, const Matrix& bias,
           const Matrix& affine) {
  const std::vector<uint16_t> x = download(set.x), weight = download(set.weight), y = download(set.y),
                              residual = download(set.residual);
  const auto value = [](const std::vector<uint16_t>& array, int64_t at) {
    return double(bf16_to_float(array[size_t(at)]));
  };
  const int64_t pixels[] = {0, s.out_width() - 1, s.pixels() / 2 + 37, s.pixels() - 1};
  Matrix got(4, s.out_channels), want(4, s.out_channels);
  for (int64_t i = 0; i < 4; ++i) {
    const int64_t row = pixels[i] / s.out_width(), column = pixels[i] % s.out_width();
    const int64_t phase = conv.phases ? row % 2 * 2 + column % 2 : 0;
    for (int64_t n = 0; n < s.out_channels; ++n) {
      double sum = double(bias.at(0, n));
      for (int64_t tap = 0; tap < conv.kernel_height * conv.kernel_width; ++tap) {
        const int64_t ky = tap / conv.kernel_width, kx = tap % conv.kernel_width;
        const int64_t iy = conv.phases ? row / 2 + ky - 1 + row % 2 : row * s.stride + ky - s.pad_top;
        const int64_t ix =
            conv.phases ? column / 2 + kx - 1 + column % 2 : column * s.stride + kx - s.pad_left;
        if (iy < 0 || ix < 0 || iy >= s.height || ix >= s.width) continue;
        const int64_t taps = conv.kernel_height * conv.kernel_width * (conv.phases ? 4 : 1);
        const int64_t at_w = (n * taps + phase * 4 * (conv.phases ? 1 : 0) + tap) * s.channels;
        const int64_t at_x = (iy * s.width + ix) * s.channels;
        for (int64_t ch = 0; ch < s.channels; ++ch) {
          double v = value(x, at_x + ch);
          if (conv.affine != nullptr) {
            const double h = v * double(affine.at(0, 2 * ch)) + double(affine.at(0, 2 * ch + 1));
            v = double(rounded(float(h / (1.0 + std::exp(-h))), Element::kBF16));
          }
          sum += v * value(weight, at_w + ch);
        }
      }
      if (conv.residual != nullptr) sum += value(residual, pixels[i] * s.out_channels + n);
      want.at(i, n) = float(sum);
      got.at(i, n) = float(value(y, pixels[i] * s.out_channels + n));
    }
  }
  c.expect_within("y", got, want, kAfterBf16);
}

void bench(Context& c, const ConvShape& s, const Fused& fused) {
  const double in = double(s.batch * s.height * s.width * s.channels) * 2;
  const double out = double(s.pixels() * s.out_channels) * 2;
  const double taps = s.upsample ? 4 : double(s.kernel * s.kernel);
  const double bytes = in + out * (fused.residual ? 2 : 1);
  const int sets = c.rotation(bytes);
  std::vector<std::unique_ptr<BufferSet>> buffers;
  for (int i = 0; i < sets; ++i) buffers.push_back(std::make_unique<BufferSet>(s, uint64_t(100 * i)));
  const Matrix bias = normal(1, s.out_channels, 91), affine = normal(1, 2 * s.channels, 92, 0.5f, 0.5f);
  const Input device_bias(bias, Element::kF32), device_affine(affine, Element::kF32);
  const DeviceBytes sums(s.batch * kernels::kGroupNormSumParts * s.out_channels * 4);
  const auto call = [&](int set) {
    const BufferSet& b = *buffers[size_t(set)];
    Conv2d conv;
    conv.x = b.x.data();
    conv.weight = b.weight.data();
    conv.bias = device_bias.data<float>();
    conv.residual = fused.residual ? b.residual.data() : nullptr;
    conv.y = b.y.data();
    conv.affine = fused.normalises ? device_affine.data<float>() : nullptr;
    conv.sums = fused.sums ? as<float>(sums) : nullptr;
    conv.batch = int(s.batch), conv.height = int(s.height), conv.width = int(s.width);
    conv.channels = int(s.channels), conv.out_channels = int(s.out_channels);
    conv.out_height = int(s.out_height()), conv.out_width = int(s.out_width());
    conv.phases = conv.upsample = s.upsample;
    conv.kernel_height = conv.kernel_width = s.upsample ? 2 : int(s.kernel);
    conv.stride = int(s.stride), conv.pad_top = int(s.pad_top), conv.pad_left = int(s.pad_left);
    return conv;
  };
  const Work work{bytes, 2.0 * double(s.pixels()) * double(s.out_channels) * taps * double(s.channels),
                  989.0};
  c.measure(work, sets, [&](int set) { return kernels::conv2d(call(set), nullptr, c.stream()); });
  c.expect(kernels::conv2d(call(0), nullptr, c.stream()).ok(), "the launch that is checked");
  must(cudaDeviceSynchronize(), "the launch that is checked");
  check(c, s, call(0), *buffers[0], bias, affine);
}

ConvShape plain(int64_t side, int64_t channels, int64_t out) { return {1, side, side, channels, out}; }
ConvShape shortcut(int64_t side, int64_t channels, int64_t out) {
  return {1, side, side, channels, out, 1, 1, 0, 0, 0, 0};
}
ConvShape up(int64_t side, int64_t channels) {
  return {1, side, side, channels, channels, 3, 1, 1, 1, 1, 1, true};
}
ConvShape down(int64_t side, int64_t channels) {
  return {1, side, side, channels, channels, 3, 2, 0, 0, 1, 1};
}

std::string text(const ConvShape& s) {
  return std::to_string(s.height) + "x" + std::to_string(s.channels) + "-" + std::to_string(s.out_channels) +
         (s.kernel == 1   ? "/1x1"
          : s.stride == 2 ? "/down"
          : s.upsample    ? "/up"
                          : "");
}

const Cases kBenches = [](Register& add) {
  const Fused none{false, false, false}, sums{false, true, false}, first{true, true, false},
      second{true, true, true}, last{true, false, false};
  const auto bench_of = [&](const ConvShape& shape, const Fused& fused) {
    const std::string with = std::string(fused.normalises ? "+norm" : "") +
                             (fused.residual ? "+residual" : "") + (fused.sums ? "+sums" : "");
    add.bench("conv/vae/" + text(shape) + with, [=](Context& c) { bench(c, shape, fused); });
  };
  for (const ConvShape& shape :
       {plain(128, 512, 512), plain(256, 512, 512), plain(512, 256, 256), plain(1024, 128, 128)}) {
    bench_of(shape, none);
    bench_of(shape, sums);
    bench_of(shape, last);
    bench_of(shape, first);
    bench_of(shape, second);
  }
  for (const ConvShape& shape :
       {plain(512, 512, 256), plain(1024, 256, 128), plain(512, 128, 256), plain(256, 256, 512)}) {
    bench_of(shape, first);
  }
  for (const ConvShape& shape : {up(128, 512), up(256, 512), up(512, 256), down(1024, 128), down(512, 256),
                                 down(256, 512), plain(128, 16, 512), plain(1024, 3, 128)}) {
    bench_of(shape, shape.channels == 3 ? none : sums);
  }
  bench_of(plain(1024, 128, 3), last);
  bench_of(plain(128, 512, 32), last);
  for (const ConvShape& shape : {shortcut(512, 512, 256), shortcut(1024, 256, 128), shortcut(512, 128, 256),
                                 shortcut(256, 256, 512)}) {
    bench_of(shape, none);
  }
};

}  // namespace
}  // namespace flux::testing
