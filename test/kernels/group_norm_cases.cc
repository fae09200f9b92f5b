// GroupNorm (+ SiLU) of channels-last images.
#include "harness/case.h"
#include "kernels.h"
#include "reference/norms.h"

namespace flux::testing {
namespace {

using namespace kernels;

struct Image {
  int batch, pixels, channels, groups;
  Activation activation = Activation::kSilu;
};

std::string name_of(const Image& i) {
  return std::to_string(i.batch) + "x" + std::to_string(i.pixels) + "x" + std::to_string(i.channels) + "/" +
         std::to_string(i.groups) + (i.activation == Activation::kSilu ? "/silu" : "");
}

GroupNorm norm_of(const Image& i, const Input& weight, const Input& bias) {
  GroupNorm norm;
  norm.weight = weight.data<float>();
  norm.bias = bias.data<float>();
  norm.batch = i.batch;
  norm.pixels = i.pixels;
  norm.channels = i.channels;
  norm.groups = i.groups;
  norm.activation = i.activation;
  return norm;
}

void test(Context& c, const Image& i, const Matrix& image, bool in_place) {
  const Matrix x = rounded_to(image, Element::kBF16);
  const Matrix weight = normal(1, i.channels, 21, 0.5f, 1.0f), bias = normal(1, i.channels, 22, 0.5f);
  const Input input(x, Element::kBF16), weights(weight, Element::kF32), biases(bias, Element::kF32);
  GroupNorm norm = norm_of(i, weights, biases);
  const DeviceBytes workspace(group_norm_workspace_bytes(norm));
  Output y(x.rows, x.cols, Element::kBF16);
  if (in_place) y.starts_as(x);
  norm.x = in_place ? y.data() : input.data();
  norm.y = y.data();
  if (c.run({&y}, [&] { return group_norm(norm, workspace.data(), c.stream()); })) {
    // A handful of values does not average its roundings: each may be off by 2^-8 of itself.
    const Tolerance bound = x.values.size() < 64 ? Tolerance{0x1p-8, -1, 0x1p-8} : kAfterBf16;
    c.expect_within("y", y.values(),
                    reference::group_norm(x, i.batch, i.groups, weight, bias, 1e-6, i.activation), bound);
  }
}

// Sums as a convolution's epilogue would leave them: no pivots, parts of unlike size.
void foreign_sums(Context& c) {
  const Image i{2, 100, 64, 8};
  const Matrix x = rounded_to(normal(200, 64, 23, 1.0f, 0.5f), Element::kBF16);
  const Matrix weight = normal(1, 64, 21, 0.5f, 1.0f), bias = normal(1, 64, 22, 0.5f);
  const Input input(x, Element::kBF16), weights(weight, Element::kF32), biases(bias, Element::kF32);
  constexpr int kParts = 3;
  Matrix sums(2 * kParts, 64 * 2);
  for (int64_t r = 0; r < 200; ++r) {
    const int64_t pixel = r % 100, part = pixel < 7 ? 0 : pixel < 60 ? 1 : 2;
    for (int64_t ch = 0; ch < 64; ++ch) {
      sums.at(r / 100 * kParts + part, 2 * ch) += x.at(r, ch);
      sums.at(r / 100 * kParts + part, 2 * ch + 1) += x.at(r, ch) * x.at(r, ch);
    }
  }
  const Input partial(sums, Element::kF32);
  const DeviceBytes affine(2 * 64 * 8);
  GroupNorm norm = norm_of(i, weights, biases);
  Output y(200, 64, Element::kBF16);
  norm.x = input.data();
  norm.y = y.data();
  const bool ran = c.run({&y}, [&] {
    const GroupNormSums given{partial.data<float>(), kParts, 1, nullptr, 0};
    auto* multipliers = reinterpret_cast<float*>(affine.data());
    Status status = group_norm_affine(norm, given, multipliers, c.stream());
    return status.ok() ? group_norm_apply(norm, multipliers, c.stream()) : status;
  });
  if (ran)
    c.expect_within("y", y.values(), reference::group_norm(x, 2, 8, weight, bias, 1e-6, i.activation),
                    kAfterBf16);
}

// Sums of pairs of channels, as convolutions leave them.
void pair_sums(Context& c, const Image& i) {
  const Matrix x =
      rounded_to(normal(int64_t(i.batch) * i.pixels, i.channels, 25, 1.0f, 0.5f), Element::kBF16);
  const Matrix weight = normal(1, i.channels, 21, 0.5f, 1.0f), bias = normal(1, i.channels, 22, 0.5f);
  const Input input(x, Element::kBF16), weights(weight, Element::kF32), biases(bias, Element::kF32);
  const DeviceBytes affine(int64_t(i.batch) * i.channels * 8);
  GroupNorm norm = norm_of(i, weights, biases);
  Output y(x.rows, x.cols, Element::kBF16);
  Output sums(int64_t(i.batch) * kGroupNormSumParts, i.channels, Element::kF32);
  norm.x = input.data();
  norm.y = y.data();
  const bool ran = c.run({&y, &sums}, [&] {
    Status status = group_norm_pair_sums(norm, sums.data<float>(), c.stream());
    if (!status.ok()) return status;
    const GroupNormSums given{sums.data<float>(), kGroupNormSumParts, 2, nullptr, 0};
    auto* multipliers = reinterpret_cast<float*>(affine.data());
    status = group_norm_affine(norm, given, multipliers, c.stream());
    return status.ok() ? group_norm_apply(norm, multipliers, c.stream()) : status;
  });
  if (ran)
    c.expect_within("y", y.values(),
                    reference::group_norm(x, i.batch, i.groups, weight, bias, 1e-6, i.activation),
                    kAfterBf16);
}

void refusals(Context& c) {
  const DeviceBytes memory(1 << 16);
  const Input vector(Matrix(1, 64, 1.0f), Element::kF32);
  GroupNorm norm = norm_of({1, 16, 64, 8}, vector, vector);
  norm.x = norm.y = memory.data();
  const auto expect_refused = [&](const char* what, const GroupNorm& changed, void* workspace) {
    c.expect_refused(what, group_norm(changed, workspace, c.stream()), Status::Code::kBadArgument);
  };
  GroupNorm changed = norm;
  changed.channels = 60;
  expect_refused("60 channels", changed, memory.data());
  changed = norm;
  changed.groups = 7;
  expect_refused("7 groups of 64 channels", changed, memory.data());
  changed = norm;
  changed.activation = Activation::kGelu;
  expect_refused("GELU", changed, memory.data());
  changed = norm;
  changed.x = memory.data() + 2;
  expect_refused("x off by one element", changed, memory.data());
  expect_refused("no workspace", norm, nullptr);
}

void golden(Context& c) {
  const Golden file = c.golden();
  const Matrix channels_first = file.matrix("groupnorm.x");  // [2, 64, 9, 11], rows of 11
  const auto channels_last = [](const Matrix& m) {
    Matrix out(2 * 99, 64);
    for (int64_t b = 0; b < 2; ++b) {
      for (int64_t ch = 0; ch < 64; ++ch) {
        for (int64_t p = 0; p < 99; ++p) out.at(b * 99 + p, ch) = m.values[size_t((b * 64 + ch) * 99 + p)];
      }
    }
    return out;
  };
  const Input input(channels_last(channels_first), Element::kBF16);
  const Input weight(file.matrix("groupnorm.weight"), Element::kF32),
      bias(file.matrix("groupnorm.bias"), Element::kF32);
  for (const bool silu : {false, true}) {
    GroupNorm norm = norm_of({2, 99, 64, 8, silu ? Activation::kSilu : Activation::kNone}, weight, bias);
    const DeviceBytes workspace(group_norm_workspace_bytes(norm));
    Output y(198, 64, Element::kBF16);
    norm.x = input.data();
    norm.y = y.data();
    if (!c.run({&y}, [&] { return group_norm(norm, workspace.data(), c.stream()); })) return;
    const char* name = silu ? "groupnorm.y_silu" : "groupnorm.y";
    c.expect_within(name, y.values(), channels_last(file.matrix(name)), {3e-3, -1, -1});
  }
}

const Cases kTests = [](Register& add) {
  for (const Image& i :
       {Image{1, 4096, 512, 32}, Image{2, 1, 8, 8}, Image{1, 63, 64, 8, Activation::kNone},
        Image{2, 65, 256, 32}, Image{1, 1000, 128, 32}, Image{3, 129, 32, 8}, Image{1, 77, 72, 9},
        Image{1, 50, 2048, 32}, Image{1, 20001, 256, 32, Activation::kNone}}) {
    const int64_t rows = int64_t(i.batch) * i.pixels;
    add.test("group_norm/" + name_of(i),
             [=](Context& c) { test(c, i, normal(rows, i.channels, 24, 1.5f, 0.3f), false); });
  }
  const Image small{2, 300, 128, 32};
  add.test("group_norm/ramp", [=](Context& c) { test(c, small, index_ramp(600, 128), false); });
  add.test("group_norm/one_hot",
           [=](Context& c) { test(c, small, one_hot(600, 128, 599, 127, 4.0f), false); });
  add.test("group_norm/far_from_zero",
           [=](Context& c) { test(c, small, normal(600, 128, 25, 0.5f, 80.0f), false); });
  add.test("group_norm/in_place", [=](Context& c) { test(c, small, normal(600, 128, 26), true); });
  for (const Image& image : {Image{1, 4096, 512, 32}, Image{2, 65, 256, 32}, Image{3, 129, 32, 8},
                             Image{1, 20001, 128, 32, Activation::kNone}, Image{2, 7, 48, 4}}) {
    add.test("group_norm/pair_sums/" + name_of(image), [=](Context& c) { pair_sums(c, image); });
  }
  add.test("group_norm/foreign_sums", foreign_sums);
  add.test("group_norm/refusals", refusals);
  add.golden_test("group_norm/golden", golden);
};

// Bytes: x read twice (nothing knows the statistics before all of x was seen) and y written once.
void bench(Context& c, const Image& i) {
  const int64_t elements = int64_t(i.pixels) * i.channels;
  const int sets = c.rotation(double(elements) * 4);
  std::vector<DeviceBytes> in, out;
  for (int s = 0; s < sets; ++s) {
    in.emplace_back(elements * 2);
    out.emplace_back(elements * 2);
    fill_normal(in.back().data(), elements, Element::kBF16, uint64_t(s), 2.0f);
  }
  const Matrix weight = normal(1, i.channels, 27, 0.5f, 1.0f), bias = normal(1, i.channels, 28, 0.5f);
  const Input weights(weight, Element::kF32), biases(bias, Element::kF32);
  GroupNorm norm = norm_of(i, weights, biases);
  const DeviceBytes workspace(group_norm_workspace_bytes(norm));
  const auto launch = [&](int set) {
    norm.x = in[size_t(set)].data();
    norm.y = out[size_t(set)].data();
    return group_norm(norm, workspace.data(), c.stream());
  };
  c.measure({double(elements) * 6}, sets, launch);

  c.expect(launch(0).ok(), "the launch that is checked");
  must(cudaDeviceSynchronize(), "the launch that is checked");
  // The first and last group say enough of what tests have checked in full.
  const int size = i.channels / i.groups;
  const auto group_of = [&](const DeviceBytes& image, int group) {
    std::vector<uint8_t> bytes(size_t(i.pixels) * size * 2);
    const size_t row = size_t(size) * 2;
    must(cudaMemcpy2D(bytes.data(), row, image.data() + group * row, size_t(i.channels) * 2, row,
                      size_t(i.pixels), cudaMemcpyDeviceToHost),
         "download");
    Matrix values(i.pixels, size);
    values.values = decode(bytes.data(), i.pixels * size, Element::kBF16);
    return values;
  };
  for (const int group : {0, i.groups - 1}) {
    Matrix its_weight(1, size), its_bias(1, size);
    for (int channel = 0; channel < size; ++channel) {
      its_weight.at(0, channel) = weight.at(0, group * size + channel);
      its_bias.at(0, channel) = bias.at(0, group * size + channel);
    }
    c.expect_within(
        "y", group_of(out[0], group),
        reference::group_norm(group_of(in[0], group), 1, 1, its_weight, its_bias, 1e-6, i.activation),
        kAfterBf16);
  }
}

const Cases kBenches = [](Register& add) {
  for (const Image& i :
       {Image{1, 512 * 512, 256, 32}, Image{1, 1024 * 1024, 128, 32}, Image{1, 128 * 128, 512, 32}}) {
    add.bench("group_norm/" + name_of(i), [i](Context& c) { bench(c, i); });
  }
};

}  // namespace
}  // namespace flux::testing
