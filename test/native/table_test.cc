// embedding, timestepEmbedding, ropeTable and t5Bias.
#include <cmath>

#include "check.h"

namespace flux::test {
namespace {

FLUX_TEST(embedding_adds_positions) {
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    Case test{.kind = "embedding"};
    test.tensors["ids"] = Array::of({2, 3}, {0, 6, 3, 1, 1, 5}, DType::kI32);
    test.tensors["table"] = Array::random({7, 33}, 1, dtype, 3);
    test.tensors["y"] = Array({2, 3, 33}, DType::kF32, 2);
    Case plain = test;
    plain.run();
    test.tensors["positions"] = Array::random({4, 33}, 1, dtype);
    test.run();
    for (int64_t i = 0; i < test["y"].size(); ++i) {
      const int64_t row = i / 33, id = static_cast<int64_t>(test["ids"].get(row));
      const double entry = test["table"].get(id * 33 + i % 33),
                   position = test["positions"].get(row % 3 * 33 + i % 33);
      EXPECT(plain["y"].get(i) == entry, label("entry", {i}));
      EXPECT(test["y"].get(i) == static_cast<double>(static_cast<float>(entry + position)),
             label("entry and position", {i}));
    }
    test.tensors["ids"].set(4, 7);
    EXPECT_ERROR(test, "id 7 at position 1 is outside table [7, 33]");
    test.tensors["ids"].set(4, -1);
    EXPECT_ERROR(test, "id -1 at position 1");
    test.tensors["ids"].set(4, 0);
    test.tensors["positions"] = Array::random({2, 33}, 1, dtype);
    EXPECT_ERROR(test, "too short for ids [2, 3]");
  }
}

FLUX_TEST(timestepEmbedding_matches_f64) {
  Case test{.kind = "timestepEmbedding", .attributes = {{"scale", 1000}, {"maxPeriod", 10000}}};
  test.tensors["t"] = Array::of({5}, {0, 0.001953125, 0.25, 0.75, 3.5});  // exact in f32, and 1000·t too
  test.tensors["y"] = Array({5, 256});
  test.run();
  for (int64_t row = 0; row < 5; ++row) {
    for (int64_t i = 0; i < 128; ++i) {
      const double angle = 1000 * test["t"].get(row) * std::pow(10000.0, -static_cast<double>(i) / 128);
      // In f32 an exponent of up to ln 10000 = 9.2 is rounded three times (5e-7 each), then frequency and
      // angle once (6e-8).
      const double tolerance = 1e-7 + std::abs(angle) * 1.6e-6;
      EXPECT(std::abs(test["y"].get({row, i}) - std::cos(angle)) <= tolerance, label("cos", {row, i}));
      EXPECT(std::abs(test["y"].get({row, 128 + i}) - std::sin(angle)) <= tolerance, label("sin", {row, i}));
    }
  }
  test.tensors["y"] = Array({5, 3});
  EXPECT_ERROR(test, "even number of columns");
}

FLUX_TEST(ropeTable_concatenates_axes) {
  Case test{.kind = "ropeTable", .attributes = {{"theta", 10000}, {"dim0", 16}, {"dim1", 56}, {"dim2", 56}}};
  test.tensors["ids"] = Array::of({3, 3}, {0, 0, 0, 1, 5, 63, 2, 127, 9});
  test.tensors["y"] = Array({3, 64, 2});
  test.run();
  for (int64_t token = 0; token < 3; ++token) {
    for (int64_t pair = 0; pair < 64; ++pair) {
      const int64_t axis = pair < 8 ? 0 : pair < 36 ? 1 : 2, i = pair - (axis == 0 ? 0 : axis == 1 ? 8 : 36);
      const double angle = test["ids"].get({token, axis}) *
                           std::pow(10000.0, -2.0 * static_cast<double>(i) / (axis == 0 ? 16 : 56));
      EXPECT(std::abs(test["y"].get({token, pair, 0}) - std::cos(angle)) < 6e-8, label("cos", {token, pair}));
      EXPECT(std::abs(test["y"].get({token, pair, 1}) - std::sin(angle)) < 6e-8, label("sin", {token, pair}));
    }
  }
  test.attributes[2].second = 57;
  EXPECT_ERROR(test, "'dim1' must be even");
  test.attributes[2].second = 58;
  EXPECT_ERROR(test, "y [3, 64, 2] f32 must have shape [3, 65, 2]");
}

// The boundaries of the 32 buckets up to distance 128, as published with T5: exact below 8, then these
// distances begin a bucket.
int64_t published_bucket(int64_t relative) {
  const int64_t starts[] = {8, 12, 16, 23, 32, 46, 64, 91};
  const int64_t distance = std::abs(relative), base = relative > 0 ? 16 : 0;
  if (distance < 8) return base + distance;
  int64_t bucket = 7;
  for (const int64_t start : starts) bucket += distance >= start ? 1 : 0;
  return base + bucket;
}

FLUX_TEST(t5Bias_follows_the_buckets) {
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    Case test{.kind = "t5Bias", .attributes = {{"maxDistance", 128}}};
    test.tensors["table"] = Array::random({32, 3}, 1, dtype);
    test.tensors["y"] = Array({3, 150, 150}, DType::kF32, 1);
    test.run();
    for (int64_t i = 0; i < test["y"].size(); ++i) {
      const int64_t key = i % 150, query = i / 150 % 150, head = i / 150 / 150;
      EXPECT(test["y"].get(i) == test["table"].get({published_bucket(key - query), head}),
             label("relative position", {key - query}));
    }
  }
  Case wrong{.kind = "t5Bias", .attributes = {{"maxDistance", 128}}};
  wrong.tensors["table"] = Array::random({32, 3});
  wrong.tensors["y"] = Array({3, 5, 6});
  EXPECT_ERROR(wrong, "y [3, 5, 6] f32 must have shape [3, 5, 5]");
}

}  // namespace
}  // namespace flux::test
