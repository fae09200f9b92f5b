// packHeads and attentionPacked against the text of kernels/attention/qkv_layout.cuh.
#include <array>
#include <cmath>
#include <vector>

#include "check.h"

namespace flux::test {
namespace {

constexpr int kOrder[16] = {0, 1, 8, 9, 2, 3, 10, 11, 4, 5, 12, 13, 6, 7, 14, 15};

struct Size {
  int64_t batch, tokens, heads;
  int64_t padded() const { return (tokens + 63) / 64 * 64; }
};

Case pack_case(const Size& s, DType codes, Array qkv) {
  Case test{.kind = "packHeads", .outputs = {"q", "k", "v", "queryRows", "keyBlocks"}};
  test.tensors["qkv"] = std::move(qkv);
  test.tensors["q"] = Array({s.batch, s.heads, s.tokens, 128}, codes);
  test.tensors["k"] = Array({s.batch, s.heads, s.tokens, 128}, codes);
  test.tensors["v"] = Array({s.batch, s.heads, (s.tokens + 15) / 16, 128, 16}, DType::kF8E4M3);
  test.tensors["queryRows"] = Array({s.batch, s.heads, s.padded(), 2});
  test.tensors["keyBlocks"] = Array({s.batch, s.heads, s.padded() / 16, 4});
  return test;
}

// As the layout's text says: a lane t of the four that share a row holds pair t of each 8 channels.
double scored(const Case& test, const char* name, int64_t batch, int64_t head, int64_t token,
              int64_t channel) {
  const int64_t i = channel / 8, t = channel / 2 % 4, b = channel % 2;
  return test[name].get({batch, head, token, 64 * (i / 8) + 16 * t + 2 * (i % 8) + b});
}

double value(const Case& test, int64_t batch, int64_t head, int64_t token, int64_t channel) {
  int64_t slot = 0;
  while (kOrder[slot] != token % 16) ++slot;
  return test["v"].get({batch, head, token / 16, channel, slot});
}

// int8 rows are rotated by y[8i + j] = ¼ Σ_m (−1)^popcount(i & m) σ(m) x[8m + j]: the entry of row c, column from.
double rotation(int64_t c, int64_t from) {
  if (c % 8 != from % 8) return 0;
  const int64_t m = from / 8, same = c / 8 & m;
  const int64_t sign = (m & m / 2) + (m / 4 & m / 8);  // its last bit: m₀m₁ + m₂m₃
  return (__builtin_popcountll(same) + sign) % 2 ? -0.25 : 0.25;
}

// q and k: token t holds 1 at channel t alone (int8), or each channel's number (e4m3, exact to 16); v its token's number within 16
// and its channel's parity.
void expect_layout(DType codes) {
  const bool rotated = codes == DType::kI8;
  const Size s{2, 150, 2};
  const auto ramp = [&](int64_t part, int64_t token, int64_t channel) {
    if (part == 2) return double(token % 16 + 1) * (channel % 2 ? -1 : 1);
    if (rotated) return channel == token % 128 ? 1.0 : 0.0;
    return channel == token % 128 ? 448.0 : double(channel % 16);
  };
  Array qkv({s.batch, s.tokens, 3, s.heads, 128});
  for (int64_t at = 0; at < qkv.size(); ++at) {
    qkv.set(at, ramp(at / 128 / s.heads % 3, at / 128 / s.heads / 3 % s.tokens, at % 128));
  }
  Case test = pack_case(s, codes, std::move(qkv));
  test.run();
  int wrong = 0;
  const double scale = rotated ? 0.25 / 127 : 1;
  for (int64_t batch = 0; batch < s.batch; ++batch) {
    for (int64_t head = 0; head < s.heads; ++head) {
      for (int64_t token = 0; token < s.tokens; ++token) {
        double squares = 0;
        for (int64_t c = 0; c < 128; ++c) {
          const double expected = rotated ? rotation(c, token % 128) * 4 * 127 : ramp(0, token, c);
          squares += ramp(0, token, c) * ramp(0, token, c);
          wrong += scored(test, "q", batch, head, token, c) != expected;
          wrong += scored(test, "k", batch, head, token, c) != expected;
          wrong += value(test, batch, head, token, c) !=
                   16 * ramp(2, token, c);  // 16 · 2⁴ is the largest within 448
        }
        const double row[2] = {scale, std::sqrt(squares)};
        for (int64_t i = 0; i < 2; ++i) {
          wrong += std::fabs(test["queryRows"].get({batch, head, token, i}) - row[i]) > 1e-6 * row[i];
        }
        const double block[4] = {scale, test["keyBlocks"].get({batch, head, token / 16, 1}), -4, 16};
        for (int64_t i = 0; i < 4; ++i) {
          wrong += std::fabs(test["keyBlocks"].get({batch, head, token / 16, i}) - block[i]) >
                   1e-6 * std::fabs(block[i]);
        }
        wrong += block[1] < row[1] * (1 - 1e-6) || block[1] > row[1] * 1.001;  // the largest of 16
      }
      for (int64_t c = 0; c < 128; ++c) {
        for (int64_t slot = 0; slot < 16; ++slot) {
          if (s.tokens / 16 * 16 + kOrder[slot] < s.tokens) continue;
          wrong += test["v"].get({batch, head, s.tokens / 16, c, slot}) != 0;
        }
      }
    }
  }
  EXPECT(wrong == 0,
         std::to_string(wrong) + " codes, scales, norms or exponents are not where they should be");
}

FLUX_TEST(packed_heads_lie_where_the_layout_says) {
  expect_layout(DType::kI8);
  expect_layout(DType::kF8E4M3);
}

// What is put into codes: the value, or the rotated one.
double coded(const Array& qkv, DType codes, const std::array<int64_t, 5>& at) {
  const auto [batch, token, part, head, c] = at;
  if (codes != DType::kI8) return qkv.get({batch, token, part, head, c});
  double sum = 0;
  for (int64_t from = c % 8; from < 128; from += 8) {
    sum += rotation(c, from) * qkv.get({batch, token, part, head, from});
  }
  return sum;
}

// A code is the nearest one: half a step off at most, and no scale wastes range.
FLUX_TEST(packed_heads_are_the_nearest_codes) {
  for (const DType codes : {DType::kI8, DType::kF8E4M3}) {
    const Size s{1, 77, 3};
    Case test = pack_case(s, codes, Array::random({s.batch, s.tokens, 3, s.heads, 128}, 3));
    test.run();
    int wrong = 0;
    const auto off = [&](double x, double code, double scale) {
      const double error = std::fabs(x - code * scale);
      if (codes == DType::kI8) return error > 0.5001 * scale;
      return error > std::fabs(x) / 15.9 && error > scale * 0x1.01p-10;
    };
    for (int64_t head = 0; head < s.heads; ++head) {
      for (int64_t token = 0; token < s.tokens; ++token) {
        double largest = 0;
        for (int64_t c = 0; c < 128; ++c) {
          const double q = coded(test["qkv"], codes, {0, token, 0, head, c}),
                       k = coded(test["qkv"], codes, {0, token, 1, head, c});
          const double v = test["qkv"].get({0, token, 2, head, c});
          largest = std::fmax(largest, std::fabs(q));
          wrong += off(q, scored(test, "q", 0, head, token, c), test["queryRows"].get({0, head, token, 0}));
          wrong +=
              off(k, scored(test, "k", 0, head, token, c), test["keyBlocks"].get({0, head, token / 16, 0}));
          const double step = std::exp2(test["keyBlocks"].get({0, head, token / 16, 2}));
          const double error = std::fabs(v - value(test, 0, head, token, c) * step);
          wrong += error > std::fabs(v) / 15.9 && error > step * 0x1.01p-10;
        }
        const double scale = largest / (codes == DType::kI8 ? 127 : 448);
        wrong += std::fabs(test["queryRows"].get({0, head, token, 0}) - scale) > 1e-6 * scale;
      }
    }
    EXPECT(wrong == 0,
           std::to_string(wrong) + " codes are not the nearest, dtype " + std::string(name_of(codes)));
  }
}

// exp of a query's scaled scores with every key.
void weigh(const Case& test, int64_t batch, int64_t head, int64_t query, std::vector<double>& weights) {
  for (int64_t key = 0; key < int64_t(weights.size()); ++key) {
    double score = 0;
    for (int64_t i = 0; i < 128; ++i) {
      score += scored(test, "q", batch, head, query, i) * scored(test, "k", batch, head, key, i);
    }
    score *=
        test["queryRows"].get({batch, head, query, 0}) * test["keyBlocks"].get({batch, head, key / 16, 0});
    weights[static_cast<size_t>(key)] = std::exp(0.125 * score);
  }
}

FLUX_TEST(attention_packed_attends_to_what_was_packed) {
  for (const DType codes : {DType::kI8, DType::kF8E4M3}) {
    for (const Size& s : {Size{1, 1, 1}, Size{2, 77, 3}, Size{1, 128, 2}}) {
      Case pack = pack_case(s, codes, Array::random({s.batch, s.tokens, 3, s.heads, 128}));
      pack.run();
      Case test{.kind = "attentionPacked", .attributes = {{"scale", 0.125}}};
      for (const std::string& name : pack.outputs) test.tensors[name] = pack[name];
      test.tensors["y"] = Array({s.batch, s.tokens, s.heads, 128}, DType::kF32, 3);
      test.run();
      std::vector<double> weights(static_cast<size_t>(s.tokens));  // of one query, for its 128 channels
      const auto expected = [&](int64_t index) {
        const int64_t c = index % 128, head = index / 128 % s.heads, query = index / 128 / s.heads % s.tokens;
        const int64_t batch = index / 128 / s.heads / s.tokens;
        if (c == 0) weigh(test, batch, head, query, weights);
        double sum = 0, result = 0;
        for (int64_t key = 0; key < s.tokens; ++key) {
          const double weight = weights[static_cast<size_t>(key)];
          const double step = std::exp2(test["keyBlocks"].get({batch, head, key / 16, 2}));
          sum += weight;
          result += weight * step * value(test, batch, head, key, c);
        }
        return result / sum;
      };
      EXPECT_CLOSE(test["y"], expected, 5e-6, label("attentionPacked", {s.batch, s.tokens, s.heads}));
    }
  }
}

// k with a mean of its own for each head: packed as k less the offset, and the offset that attention leaves is the mean of the sampled tokens,
// whatever was subtracted before.
FLUX_TEST(attention_packed_leaves_the_offset_that_centres_k) {
  for (const DType codes : {DType::kI8, DType::kF8E4M3}) {
    for (const Size& s : {Size{1, 1, 1}, Size{2, 77, 3}, Size{1, 300, 2}}) {
      const Array mean = Array::random({s.batch, s.heads, 128}, 4);
      Array qkv = Array::random({s.batch, s.tokens, 3, s.heads, 128}, 1, DType::kF32);
      const auto slice_of = [&](int64_t row) {
        return row / (3 * s.tokens * s.heads) * s.heads + row % s.heads;
      };
      for (int64_t at = 0; at < qkv.size(); ++at) {
        const int64_t row = at / 128;
        if (row / s.heads % 3 == 1) qkv.set(at, qkv.get(at) + mean.get(slice_of(row) * 128 + at % 128));
      }
      Case pack = pack_case(s, codes, qkv);
      Array offset = Array::random({s.batch, s.heads, 128}, 2);
      pack.tensors["keyOffset"] = offset;
      pack.run();
      Case less = pack_case(s, codes, qkv);
      for (int64_t at = 0; at < qkv.size(); ++at) {
        const int64_t row = at / 128;
        if (row / s.heads % 3 != 1) continue;
        const float x = float(qkv.get(at)) - float(offset.get(slice_of(row) * 128 + at % 128));
        less.tensors["qkv"].set(at, x);
      }
      less.run();
      for (const char* name : {"q", "k", "v", "queryRows", "keyBlocks"})
        EXPECT(pack[name].same_bytes(less[name]), std::string(name) + " is not that of k less the offset");

      Case test{.kind = "attentionPacked", .outputs = {"y", "keyOffset"}, .attributes = {{"scale", 0.125}}};
      for (const char* name : {"q", "k", "v", "queryRows", "keyBlocks"}) test.tensors[name] = pack[name];
      test.tensors["y"] = Array({s.batch, s.tokens, s.heads, 128});
      test.tensors["keyOffset"] = offset;
      test.run();
      const int64_t count = s.tokens < 128 ? s.tokens : 128;
      double largest = 0;
      for (int64_t at = 0; at < offset.size(); ++at) {
        double sum = 0;
        for (int64_t n = 0; n < count; ++n) {
          const int64_t first = n * s.tokens / count, run = (n + 1) * s.tokens / count - first;
          const uint64_t place = uint32_t(n * n * 0x9e3779b9);
          const int64_t token = first + int64_t(place * uint64_t(run) >> 32), slice = at / 128;
          sum += qkv.get({slice / s.heads, token, 1, slice % s.heads, at % 128});
        }
        largest = std::fmax(largest, std::fabs(test["keyOffset"].get(at) - sum / double(count)));
      }
      // Codes of rows whose deviation is 5 are off by 0.04 (int8), or a seventeenth of themselves at most; a hundred average that.
      const double bound = codes == DType::kI8 ? (s.tokens == 1 ? 0.12 : 0.03) : s.tokens == 1 ? 1 : 0.2;
      EXPECT(largest < bound, "the offset is off by " + std::to_string(largest));
    }
  }
}

FLUX_TEST(packed_heads_refuse_other_shapes) {
  Case test = pack_case({1, 20, 2}, DType::kI8, Array::random({1, 21, 3, 2, 128}));
  EXPECT_ERROR(test, "qkv [1, 21, 3, 2, 128]");
  test = pack_case({1, 20, 2}, DType::kI8, Array::random({1, 20, 3, 2, 128}));
  test.tensors["keyBlocks"] = Array({1, 2, 2, 4});
  EXPECT_ERROR(test, "keyBlocks [1, 2, 2, 4]");
  test = pack_case({1, 20, 2}, DType::kI8, Array::random({1, 20, 3, 2, 128}));
  test.tensors["keyOffset"] = Array({2, 1, 128});
  EXPECT_ERROR(test, "keyOffset [2, 1, 128]");
}

}  // namespace
}  // namespace flux::test
