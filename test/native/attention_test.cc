// attention against a softmax over whole rows in f64.
#include <cmath>

#include "check.h"

namespace flux::test {
namespace {

struct Size {
  int64_t batch, queries, keys, heads, depth;
  bool causal, bias;
};

Case attention_case(const Size& s, double scale, int64_t gap) {
  Case test{.kind = "attention", .attributes = {{"scale", scale}, {"causal", s.causal ? 1 : 0}}};
  test.tensors["q"] = Array::random({s.batch, s.queries, s.heads, s.depth}, 1, DType::kF32, gap);
  test.tensors["k"] = Array::random({s.batch, s.keys, s.heads, s.depth}, 1, DType::kF32, gap);
  test.tensors["v"] = Array::random({s.batch, s.keys, s.heads, s.depth}, 1, DType::kF32, gap);
  if (s.bias) test.tensors["bias"] = Array::random({s.heads, s.queries, s.keys}, 2);
  test.tensors["y"] = Array({s.batch, s.queries, s.heads, s.depth}, DType::kF32, gap);
  return test;
}

double reference(const Case& test, const Size& s, double scale, int64_t index) {
  const int64_t i = index % s.depth, head = index / s.depth % s.heads;
  const int64_t query = index / s.depth / s.heads % s.queries, batch = index / s.depth / s.heads / s.queries;
  std::vector<double> scores;
  double largest = -INFINITY;
  for (int64_t key = 0; key < (s.causal ? query + 1 : s.keys); ++key) {
    double score = 0;
    for (int64_t j = 0; j < s.depth; ++j)
      score += test["q"].get({batch, query, head, j}) * test["k"].get({batch, key, head, j});
    scores.push_back(score * scale + (s.bias ? test["bias"].get({head, query, key}) : 0));
    largest = std::fmax(largest, scores.back());
  }
  double sum = 0, result = 0;
  for (size_t key = 0; key < scores.size(); ++key) {
    const double weight = std::exp(scores[key] - largest);
    sum += weight;
    result += weight * test["v"].get({batch, static_cast<int64_t>(key), head, i});
  }
  return result / sum;
}

FLUX_TEST(attention_matches_f64) {
  for (const Size& s : {Size{1, 1, 1, 1, 1, false, false}, Size{2, 3, 5, 2, 16, false, true},
                        Size{1, 31, 33, 1, 8, true, false}, Size{1, 33, 112, 2, 9, false, false},
                        Size{1, 65, 113, 1, 24, false, true}, Size{1, 4, 225, 2, 128, false, false},
                        Size{1, 150, 150, 2, 7, true, false}, Size{1, 77, 77, 1, 17, true, true},
                        Size{1, 280, 141, 1, 5, false, false}, Size{1, 5, 40, 1, 300, false, false}}) {
    const double scale = static_cast<float>(1 / std::sqrt(static_cast<double>(s.depth)));
    for (const int64_t gap : {0, 3}) {
      Case test = attention_case(s, scale, gap);
      test.run();
      EXPECT_CLOSE(
          test["y"], [&](int64_t index) { return reference(test, s, scale, index); }, 2e-6,
          label("attention", {s.batch, s.queries, s.keys, s.heads, s.depth, s.causal, s.bias}));
    }
  }
}

FLUX_TEST(attention_survives_large_scores) {
  const Size s{1, 40, 260, 1, 16, false, false};
  Case test =
      attention_case(s, 40, 0);  // scores of some hundreds: exp would overflow without the running maximum
  test.run();
  EXPECT_CLOSE(test["y"], [&](int64_t index) { return reference(test, s, 40, index); }, 1e-4, "large scores");
}

FLUX_TEST(attention_takes_infinite_bias_as_mask_and_keeps_nan) {
  const Size s{1, 20, 240, 1, 8, false, true};
  Case test = attention_case(s, 0.25, 0);
  for (int64_t query = 0; query < s.queries; ++query) {
    for (int64_t key = 0; key < 130; ++key)
      test.tensors["bias"].set(query * s.keys + key, -INFINITY);  // a whole block and more
  }
  test.run();
  EXPECT_CLOSE(
      test["y"], [&](int64_t index) { return reference(test, s, 0.25, index); }, 2e-6, "masked keys");
  test.tensors["q"].set(3 * s.depth, std::nan(""));
  test.run();
  for (int64_t query = 0; query < s.queries; ++query) {
    EXPECT(std::isnan(test["y"].get(query * s.depth)) == (query == 3),
           label("NaN in query 3, result of", {query}));
  }
}

FLUX_TEST(attention_names_what_does_not_fit) {
  const Case good = attention_case({2, 4, 6, 3, 8, false, false}, 1, 0);
  const auto with = [&](const std::string& name, Array array) {
    Case test = good;
    test.tensors[name] = std::move(array);
    return test;
  };
  EXPECT_ERROR(with("k", Array({2, 6, 3, 9})), "k [2, 6, 3, 9] f32 must have shape [2, *, 3, 8]");
  EXPECT_ERROR(with("v", Array({2, 5, 3, 8})), "v [2, 5, 3, 8] f32 must have the rows of k");
  EXPECT_ERROR(with("y", Array({2, 4, 3, 7})), "y [2, 4, 3, 7] f32 must have the shape of q");
  EXPECT_ERROR(with("bias", Array({3, 4, 5})), "bias [3, 4, 5] f32 must have shape [3, 4, 6]");
  EXPECT_ERROR(with("q", Array({2, 4, 24})), "q [2, 4, 24] f32 must have shape [*, *, *, *]");
  Case causal = attention_case({1, 5, 4, 1, 8, true, false}, 1, 0);
  EXPECT_ERROR(causal, "more queries than keys");
}

}  // namespace
}  // namespace flux::test
