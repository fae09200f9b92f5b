// What a cache decides with: relativeDifference, cacheDecision, and the sums around them.
#include <cmath>
#include <limits>

#include "check.h"

namespace flux::test {
namespace {

FLUX_TEST(subtract_and_addScaled_match_f64) {
  for (const Shape& shape : {Shape{1}, Shape{17}, Shape{3, 5, 33}, Shape{40, 1000}}) {
    for (const int64_t gap : {0, 3}) {
      Case subtract{.kind = "subtract"};
      subtract.tensors["a"] = Array::random(shape, 2, DType::kF32, gap);
      subtract.tensors["b"] = Array::random(shape, 2, DType::kF32, gap);
      subtract.tensors["y"] = Array(shape, DType::kF32, gap);
      subtract.run();
      EXPECT_CLOSE(
          subtract["y"], [&](int64_t i) { return subtract["a"].get(i) - subtract["b"].get(i); }, 1e-7,
          label("subtract", shape));
      subtract.expect_same_in_place("y", "a");
      subtract.expect_same_in_place("y", "b");

      Case scaled{.kind = "addScaled"};
      scaled.tensors["x"] = subtract["a"];
      scaled.tensors["a"] = subtract["b"];
      scaled.tensors["factor"] = Array::of({1}, {0.75});
      scaled.tensors["y"] = Array(shape, DType::kF32, gap);
      scaled.run();
      EXPECT_CLOSE(
          scaled["y"], [&](int64_t i) { return scaled["x"].get(i) + 0.75 * scaled["a"].get(i); }, 1e-7,
          label("addScaled", shape));
      scaled.expect_same_in_place("y", "x");
      // Factor 0: a may hold anything.
      scaled.tensors["factor"].set(0, 0);
      scaled.tensors["a"].set(0, std::nan(""));
      scaled.run();
      for (int64_t i = 0; i < scaled["y"].size(); ++i)
        EXPECT(scaled["y"].get(i) == scaled["x"].get(i), label("addScaled by 0", {i}));
      scaled.expect_same_in_place("y", "x");
    }
  }
  Case wrong{.kind = "addScaled"};
  wrong.tensors["x"] = Array({3});
  wrong.tensors["a"] = Array({3});
  wrong.tensors["factor"] = Array({3});
  wrong.tensors["y"] = Array({3});
  EXPECT_ERROR(wrong, "factor");
}

FLUX_TEST(relativeDifference_matches_f64) {
  for (const Shape& shape : {Shape{1}, Shape{5}, Shape{2, 3, 33}, Shape{2, 400, 257}}) {
    for (const int64_t gap : {0, 3}) {
      Case test{.kind = "relativeDifference"};
      test.tensors["x"] = Array::random(shape, 3, DType::kF32, gap);
      test.tensors["base"] = Array::random(shape, 3, DType::kF32, gap);
      test.tensors["previous"] = Array::random(shape, 2, DType::kF32);
      test.tensors["y"] = Array({1});
      test.run();
      double change = 0, size = 0;
      for (int64_t i = 0; i < test["x"].size(); ++i) {
        const double previous = test["previous"].get(i);
        change += std::abs(test["x"].get(i) - test["base"].get(i) - previous);
        size += std::abs(previous);
      }
      EXPECT(std::abs(test["y"].get(0) / (change / size) - 1) <= 1e-6, label("relativeDifference", shape));
    }
  }
  Case none{.kind = "relativeDifference"};
  for (const char* name : {"x", "base", "previous"}) none.tensors[name] = Array::of({2}, {0, 0});
  none.tensors["y"] = Array({1});
  none.run();
  EXPECT(std::isnan(none["y"].get(0)), "nothing relative to nothing");
  none.tensors["previous"] = Array({3});
  EXPECT_ERROR(none, "previous");
}

// One step: (skips in a row, last computed, distance) before, (threshold, w, m), the difference; what is expected.
struct Step {
  int step, skipped, last, distance;
  double threshold;
  int warmup, most;
  double difference;
  bool computes;
  double factor;
};

FLUX_TEST(cacheDecision_follows_its_rule) {
  const double nan = std::nan(""), infinity = std::numeric_limits<double>::infinity();
  const Step steps[] = {
      {0, 0, 0, 0, 1.0, 0, 9, 0.5, true, 0},     // the first step has nothing to compare with
      {0, 0, 0, 0, 1.0, 0, 9, nan, true, 0},     // whatever the memory held
      {1, 0, 0, 0, 1.0, 0, 9, 0.5, false, 0},    // below, but only one step was computed
      {1, 0, 0, 0, 1.0, 0, 9, 1.5, true, 0},     // above
      {1, 0, 0, 0, 1.0, 0, 9, 1.0, true, 0},     // equal
      {1, 0, 0, 0, 1.0, 0, 9, nan, true, 0},     // a NaN is not below
      {1, 0, 0, 0, 0.0, 0, 9, 0.0, true, 0},     // 0 skips nothing
      {3, 0, 2, 2, 1.0, 0, 9, 0.5, false, 0.5},  // half a distance on
      {6, 2, 3, 2, 1.0, 0, 9, 0.5, false, 1.5},  // three steps after the last, which came two after its own
      {3, 0, 2, 2, 1.0, 4, 9, 0.5, true, 0},     // warming up
      {4, 0, 3, 1, 1.0, 4, 9, 0.5, false, 1},    // warm
      {6, 2, 3, 2, 1.0, 0, 2, 0.5, true, 0},     // two skips in a row are enough
      {3, 0, 2, 2, 1.0, 0, 0, 0.5, true, 0},     // none allowed
      {3, 0, 2, 2, infinity, 0, 9, 1e30, false, 0.5},
  };
  for (const Step& s : steps) {
    Case test{.kind = "cacheDecision",
              .outputs = {"compute", "skip", "factor", "state", "differences", "decisions"}};
    test.tensors["difference"] = Array::of({1}, {s.difference});
    test.tensors["threshold"] = Array::of({1}, {s.threshold});
    test.tensors["limits"] = Array::of({2}, {double(s.warmup), double(s.most)}, DType::kI32);
    test.tensors["compute"] = Array({1}, DType::kI32);
    test.tensors["skip"] = Array({1}, DType::kI32);
    test.tensors["factor"] = Array({1});
    test.tensors["state"] =
        Array::of({4}, {double(s.step), double(s.skipped), double(s.last), double(s.distance)}, DType::kI32);
    test.tensors["differences"] = Array::of({8}, std::vector<double>(8, -1));
    test.tensors["decisions"] = Array::of({8}, std::vector<double>(8, -1), DType::kI32);
    test.run();
    const std::string what = label("step", {s.step, s.skipped, s.last, s.distance, s.warmup, s.most});
    EXPECT(test["compute"].get(0) == s.computes && test["skip"].get(0) == !s.computes, what);
    EXPECT(test["factor"].get(0) == s.factor, what);
    const double next[] = {double(s.step + 1), s.computes ? 0.0 : s.skipped + 1,
                           double(s.computes ? s.step : s.last),
                           double(s.computes ? s.step - s.last : s.distance)};
    for (int64_t i = 0; i < 4; ++i) EXPECT(test["state"].get(i) == next[i], what + label(", state", {i}));
    for (int64_t i = 0; i < 8; ++i) {
      const double difference = test["differences"].get(i);
      const double wanted = i != s.step ? -1 : s.step == 0 ? 0 : static_cast<float>(s.difference);
      EXPECT(difference == wanted || (std::isnan(difference) && std::isnan(wanted)), what);
      EXPECT(test["decisions"].get(i) == (i == s.step ? s.computes : -1), what);
    }
    if (s.step == 0) {
      test.tensors["state"].set(0, 8);
      EXPECT_ERROR(test, "step 8 is outside differences [8]");
    }
  }
}

}  // namespace
}  // namespace flux::test
