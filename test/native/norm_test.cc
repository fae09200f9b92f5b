// layerNorm and rmsNorm.
#include <cmath>

#include "check.h"

namespace flux::test {
namespace {

struct Row {
  double mean = 0, variance = 0, mean_square = 0;
};

Row statistics(const Array& x, int64_t row, int64_t width) {
  Row result;
  for (int64_t i = 0; i < width; ++i) {
    result.mean += x.get(row * width + i) / static_cast<double>(width);
    result.mean_square += std::pow(x.get(row * width + i), 2) / static_cast<double>(width);
  }
  for (int64_t i = 0; i < width; ++i) {
    result.variance += std::pow(x.get(row * width + i) - result.mean, 2) / static_cast<double>(width);
  }
  return result;
}

FLUX_TEST(layerNorm_matches_f64_affine_and_modulated) {
  for (const int64_t width : {1, 3, 16, 63, 64, 130, 768}) {
    for (const bool modulated : {false, true}) {
      const int64_t batch = 2, tokens = 45, gap = modulated ? 5 : 0;
      Case test{.kind = "layerNorm", .attributes = {{"eps", 1e-6}}};
      test.tensors["x"] = Array::random({batch, tokens, width}, 3, DType::kF32, gap);
      test.tensors["y"] = Array({batch, tokens, width}, DType::kF32, gap);
      test.tensors[modulated ? "scale" : "weight"] =
          modulated ? Array::random({batch, width}, 1, DType::kF32, 7) : Array::random({width});
      test.tensors[modulated ? "shift" : "bias"] =
          modulated ? Array::random({batch, width}, 1, DType::kF32, 7) : Array::random({width});
      test.run();
      const auto expected = [&](int64_t index) {
        const int64_t row = index / width, i = index % width;
        const Row stats = statistics(test["x"], row, width);
        const double normal = (test["x"].get(index) - stats.mean) / std::sqrt(stats.variance + 1e-6);
        if (!modulated) return normal * test["weight"].get(i) + test["bias"].get(i);
        const int64_t at = row / tokens * width + i;
        return normal * (1 + test["scale"].get(at)) + test["shift"].get(at);
      };
      EXPECT_CLOSE(test["y"], expected, 1e-6, label("layerNorm", {width, modulated}));
      test.expect_same_in_place("y", "x");
    }
  }
}

FLUX_TEST(layerNorm_without_parameters_normalises) {
  Case test{.kind = "layerNorm", .attributes = {{"eps", 1e-5}}};
  test.tensors["x"] = Array::random({5, 70});
  test.tensors["y"] = Array({5, 70});
  test.run();
  const auto expected = [&](int64_t index) {
    const Row stats = statistics(test["x"], index / 70, 70);
    return (test["x"].get(index) - stats.mean) / std::sqrt(stats.variance + 1e-5);
  };
  EXPECT_CLOSE(test["y"], expected, 1e-6, "plain layerNorm");
}

FLUX_TEST(rmsNorm_matches_f64) {
  for (const int64_t width : {1, 5, 64, 100, 128}) {
    Case test{.kind = "rmsNorm", .attributes = {{"eps", 1e-6}}};
    test.tensors["x"] = Array::random({2, 37, 3, width}, 1, DType::kF32, 3);
    test.tensors["weight"] = Array::random({width});
    test.tensors["y"] = Array({2, 37, 3, width});
    test.run();
    const auto expected = [&](int64_t index) {
      const Row stats = statistics(test["x"], index / width, width);
      return test["x"].get(index) / std::sqrt(stats.mean_square + 1e-6) * test["weight"].get(index % width);
    };
    EXPECT_CLOSE(test["y"], expected, 1e-6, label("rmsNorm", {width}));
  }
}

FLUX_TEST(norms_name_what_does_not_fit) {
  Case test{.kind = "layerNorm", .attributes = {{"eps", 1e-6}}};
  test.tensors["x"] = Array::random({2, 3, 8});
  test.tensors["y"] = Array({2, 3, 8});
  test.tensors["weight"] = Array({8});
  test.tensors["scale"] = Array({2, 8});
  EXPECT_ERROR(test, "not both");
  test.tensors.erase("weight");
  test.tensors["scale"] = Array({3, 8});
  EXPECT_ERROR(test, "scale [3, 8] f32 must have shape [2, 8]");
  test.tensors.erase("scale");
  test.tensors["y"] = Array({2, 3, 7});
  EXPECT_ERROR(test, "y [2, 3, 7] f32 must have the shape of x [2, 3, 8] f32");
  test.tensors["y"] = Array({2, 3, 8});
  test.attributes = {{"eps", std::nan("")}};
  EXPECT_ERROR(test, "'eps' must be finite");
  test.kind = "rmsNorm";
  EXPECT_ERROR(test, "operand 'weight' is missing");
}

}  // namespace
}  // namespace flux::test
