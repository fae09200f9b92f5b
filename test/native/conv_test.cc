// conv2d and groupNorm on channels-last images.
#include <algorithm>
#include <cmath>

#include "check.h"

namespace flux::test {
namespace {

struct ConvSize {
  int64_t batch, height, width, in, out, kernel_height, kernel_width, stride, top, left, bottom, right,
      upsample;
};

int64_t out_height(const ConvSize& s) {
  return (s.height * s.upsample + s.top + s.bottom - s.kernel_height) / s.stride + 1;
}
int64_t out_width(const ConvSize& s) {
  return (s.width * s.upsample + s.left + s.right - s.kernel_width) / s.stride + 1;
}

Case conv_case(const ConvSize& s, DType dtype, int64_t gap) {
  Case test{.kind = "conv2d",
            .attributes = {{"stride", s.stride},
                           {"padTop", s.top},
                           {"padLeft", s.left},
                           {"padBottom", s.bottom},
                           {"padRight", s.right},
                           {"upsample", s.upsample}}};
  test.tensors["x"] = Array::random({s.batch, s.height, s.width, s.in}, 1, DType::kF32, gap);
  const auto terms = static_cast<double>(s.kernel_height * s.kernel_width * s.in);
  test.tensors["weight"] =
      Array::random({s.out, s.kernel_height, s.kernel_width, s.in}, 1 / std::sqrt(terms), dtype);
  test.tensors["y"] = Array({s.batch, out_height(s), out_width(s), s.out}, DType::kF32, gap);
  return test;
}

double reference(const Case& test, const ConvSize& s, int64_t index) {
  const int64_t out = index % s.out, column = index / s.out % out_width(s);
  const int64_t line = index / s.out / out_width(s) % out_height(s),
                batch = index / s.out / out_width(s) / out_height(s);
  double sum = 0;
  for (int64_t ky = 0; ky < s.kernel_height; ++ky) {
    for (int64_t kx = 0; kx < s.kernel_width; ++kx) {
      const int64_t y = line * s.stride + ky - s.top, x = column * s.stride + kx - s.left;
      if (y < 0 || x < 0 || y >= s.height * s.upsample || x >= s.width * s.upsample) continue;
      for (int64_t c = 0; c < s.in; ++c) {
        sum +=
            test["x"].get({batch, y / s.upsample, x / s.upsample, c}) * test["weight"].get({out, ky, kx, c});
      }
    }
  }
  return sum;
}

FLUX_TEST(conv2d_matches_f64) {
  for (const ConvSize& s :
       {ConvSize{1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 1}, ConvSize{2, 5, 7, 3, 8, 3, 3, 1, 1, 1, 1, 1, 1},
        ConvSize{1, 9, 11, 16, 33, 3, 3, 1, 1, 1, 1, 1, 1}, ConvSize{2, 8, 10, 17, 5, 3, 3, 2, 0, 0, 1, 1, 1},
        ConvSize{1, 4, 5, 20, 32, 3, 3, 1, 1, 1, 1, 1, 2}, ConvSize{2, 3, 4, 32, 31, 1, 1, 1, 0, 0, 0, 0, 1},
        ConvSize{1, 6, 6, 7, 4, 3, 2, 1, 2, 0, 0, 1, 2},
        ConvSize{1, 40, 21, 30, 65, 3, 3, 1, 1, 1, 1, 1, 1}}) {
    for (const DType dtype : {DType::kF32, DType::kBF16}) {
      for (const int64_t gap : {0, 5}) {
        Case test = conv_case(s, dtype, gap);
        const bool full = gap > 0;
        if (full) {
          test.tensors["bias"] = Array::random({s.out});
          test.tensors["residual"] = Array::random(test["y"].shape(), 1, DType::kF32, gap);
        }
        test.run();
        const auto expected = [&](int64_t index) {
          return reference(test, s, index) +
                 (full ? test["bias"].get(index % s.out) + test["residual"].get(index) : 0);
        };
        EXPECT_CLOSE(test["y"], expected, 1e-6,
                     label("conv2d", {s.height, s.width, s.in, s.out, s.stride, s.upsample}));
        if (full) test.expect_same_in_place("y", "residual");
      }
    }
  }
}

FLUX_TEST(conv2d_names_what_does_not_fit) {
  const ConvSize size{1, 4, 4, 3, 2, 3, 3, 1, 1, 1, 1, 1, 1};
  const auto with = [&](const std::string& name, Array array) {
    Case test = conv_case(size, DType::kF32, 0);
    test.tensors[name] = std::move(array);
    return test;
  };
  EXPECT_ERROR(with("weight", Array({2, 3, 3, 4})), "weight [2, 3, 3, 4] f32 must have shape [*, *, *, 3]");
  EXPECT_ERROR(with("weight", Array({2, 9, 3, 3})), "does not fit into the padded x [1, 4, 4, 3]");
  EXPECT_ERROR(with("y", Array({1, 4, 3, 2})), "y [1, 4, 3, 2] f32 must have shape [1, 4, 4, 2]");
  EXPECT_ERROR(with("bias", Array({3})), "bias [3] f32 must have shape [2]");
  EXPECT_ERROR(with("residual", Array({1, 4, 4, 3})), "must have the shape of y");
  Case stride = conv_case(size, DType::kF32, 0);
  stride.attributes[0].second = 0;
  EXPECT_ERROR(stride, "'stride' must be between 1");
  stride.attributes[0].second = 1.5;
  EXPECT_ERROR(stride, "'stride' must be an integer");
}

struct GroupSize {
  int64_t batch, height, width, channels, groups;
};

Case group_norm_case(const GroupSize& s, int activation, double offset, int64_t gap) {
  Case test{.kind = "groupNorm",
            .attributes = {{"groups", s.groups}, {"eps", 1e-6}, {"activation", activation}}};
  test.tensors["x"] = Array::random({s.batch, s.height, s.width, s.channels}, 2, DType::kF32, gap);
  for (int64_t i = 0; i < test["x"].size(); ++i) test.tensors["x"].set(i, test["x"].get(i) + offset);
  test.tensors["weight"] = Array::random({s.channels});
  test.tensors["bias"] = Array::random({s.channels});
  test.tensors["y"] = Array(test["x"].shape(), DType::kF32, gap);
  return test;
}

FLUX_TEST(groupNorm_matches_f64) {
  for (const GroupSize& s : {GroupSize{1, 1, 3, 4, 2}, GroupSize{2, 9, 11, 64, 8}, GroupSize{1, 16, 8, 33, 3},
                             GroupSize{2, 7, 13, 12, 12}, GroupSize{1, 25, 30, 40, 1}}) {
    for (const double offset : {0.0, 100.0}) {  // with an offset E[x²] − E[x]² in f32 would lose everything
      const int64_t gap = offset > 0 ? 3 : 0;
      Case test = group_norm_case(s, offset > 0 ? 0 : 2, offset, gap);
      test.run();
      const int64_t width = s.channels / s.groups, pixels = s.height * s.width;
      std::vector<double> mean(static_cast<size_t>(s.batch * s.groups)), deviation(mean.size());
      for (size_t g = 0; g < mean.size(); ++g) {
        const int64_t batch = static_cast<int64_t>(g) / s.groups,
                      first = static_cast<int64_t>(g) % s.groups * width;
        const auto sum = [&](auto term) {
          double total = 0;
          for (int64_t p = 0; p < pixels; ++p) {
            for (int64_t c = first; c < first + width; ++c)
              total += term(test["x"].get((batch * pixels + p) * s.channels + c));
          }
          return total / static_cast<double>(pixels * width);
        };
        mean[g] = sum([](double x) { return x; });
        deviation[g] = std::sqrt(sum([&](double x) { return (x - mean[g]) * (x - mean[g]); }) + 1e-6);
      }
      const auto expected = [&](int64_t index) {
        const int64_t channel = index % s.channels;
        const auto g = static_cast<size_t>(index / s.channels / pixels * s.groups + channel / width);
        const double y = (test["x"].get(index) - mean[g]) / deviation[g] * test["weight"].get(channel) +
                         test["bias"].get(channel);
        return offset > 0 ? y : y / (1 + std::exp(-y));
      };
      // x itself carries an error of 100 · 2^-24 once the mean has been rounded to f32.
      EXPECT_CLOSE(test["y"], expected, offset > 0 ? 4e-6 : 1e-6,
                   label("groupNorm", {s.batch, s.height, s.width, s.channels, s.groups}));
      test.expect_same_in_place("y", "x");
    }
  }
}

FLUX_TEST(groupNorm_names_what_does_not_fit) {
  Case test = group_norm_case({1, 2, 2, 6, 4}, 0, 0, 0);
  EXPECT_ERROR(test, "does not divide into 4 groups");
  test = group_norm_case({1, 2, 2, 6, 3}, 0, 0, 0);
  test.tensors["weight"] = Array({5});
  EXPECT_ERROR(test, "weight [5] f32 must have shape [6]");
  test.tensors.erase("weight");
  EXPECT_ERROR(test, "operand 'weight' is missing");
}

}  // namespace
}  // namespace flux::test
