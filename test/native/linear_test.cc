// linear, qkvLinear and quantizeRows.
#include <cmath>

#include "check.h"

namespace flux::test {
namespace {

double activate(double x, int activation) {
  switch (activation) {
    case 1:
      return 0.5 * x * (1 + std::tanh(std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
    case 2:
      return x / (1 + std::exp(-x));
    case 3:
      return x / (1 + std::exp(-1.702 * x));
    default:
      return x;
  }
}

double dot(const Array& x, int64_t row, const Array& weight, int64_t n, int64_t k) {
  double sum = 0;
  for (int64_t i = 0; i < k; ++i) sum += x.get(row * k + i) * weight.get(n * k + i);
  return sum;
}

struct LinearSize {
  int64_t batch, tokens, n, k;
};

// Ones, tiles of every variant plus and minus one, more than one block of k, more than one tile of rows and
// columns.
const LinearSize kSizes[] = {{1, 1, 1, 1},    {1, 1, 33, 257},  {1, 2, 5, 3},     {1, 3, 100, 64},
                             {2, 2, 31, 300}, {1, 5, 16, 512},  {1, 6, 17, 70},   {2, 7, 32, 33},
                             {1, 13, 33, 16}, {1, 14, 64, 255}, {1, 15, 65, 256}, {2, 50, 129, 257},
                             {1, 337, 40, 9}, {2, 29, 530, 48}};

FLUX_TEST(linear_matches_f64_for_every_size_dtype_and_epilogue) {
  int turn = 0;
  for (const LinearSize& s : kSizes) {
    for (const DType dtype : {DType::kF32, DType::kBF16}) {
      for (const bool full : {false, true}) {
        const int activation = full ? turn++ % 4 : 0;
        const int64_t gap = full ? 3 : 0;
        Case test{.kind = "linear", .attributes = {{"activation", activation}}};
        test.tensors["x"] = Array::random({s.batch, s.tokens, s.k}, 1, DType::kF32, gap);
        test.tensors["weight"] = Array::random({s.n, s.k}, 1 / std::sqrt(s.k), dtype, gap);
        test.tensors["y"] = Array({s.batch, s.tokens, s.n}, DType::kF32, gap);
        if (full) {
          test.tensors["bias"] = Array::random({s.n});
          test.tensors["gate"] = Array::random({s.batch, s.n}, 1, DType::kF32, 5);
          test.tensors["residual"] = Array::random({s.batch, s.tokens, s.n}, 1, DType::kF32, gap);
        }
        test.run();
        const auto expected = [&](int64_t index) {
          const int64_t row = index / s.n, n = index % s.n;
          const double sum = dot(test["x"], row, test["weight"], n, s.k);
          if (!full) return sum;
          return test["residual"].get(index) +
                 test["gate"].get(row / s.tokens * s.n + n) * activate(sum + test["bias"].get(n), activation);
        };
        EXPECT_CLOSE(test["y"], expected, 1e-6,
                     label("linear", {s.batch, s.tokens, s.n, s.k, full, activation}));
        if (full) test.expect_same_in_place("y", "residual");
      }
    }
  }
}

FLUX_TEST(linear_result_of_a_row_does_not_depend_on_the_batch) {
  Case all{.kind = "linear", .attributes = {{"activation", 2}}};
  all.tensors["x"] = Array::random({40, 600});
  all.tensors["weight"] = Array::random({70, 600}, 0.1, DType::kBF16);
  all.tensors["y"] = Array({40, 70});
  all.run();
  for (const int64_t row : {0, 13, 14, 39}) {
    Case one = all;
    one.tensors["x"] = Array({1, 600});
    for (int64_t i = 0; i < 600; ++i) one.tensors["x"].set(i, all["x"].get(row * 600 + i));
    one.tensors["y"] = Array({1, 70});
    one.run();
    for (int64_t n = 0; n < 70; ++n)
      EXPECT(one["y"].get(n) == all["y"].get(row * 70 + n), "row " + std::to_string(row));
  }
}

// The definition: each row scaled by its peak over 448 in f32, rounded to the nearest code; products of codes
// summed, then scaled.
FLUX_TEST(linear_with_e4m3_weights_quantises_rows) {
  for (const LinearSize& s : kSizes) {
    Case test{.kind = "linear", .attributes = {{"activation", 0}}};
    test.tensors["x"] = Array::random({s.batch, s.tokens, s.k}, 3);
    for (int64_t i = 0; i < s.k; ++i) test.tensors["x"].set(i, 0);  // a zero row
    test.tensors["weight"] = Array::random({s.n, s.k}, 1, DType::kF8E4M3);
    test.tensors["weightScale"] = Array::random({s.n}, 0.01);
    test.tensors["bias"] = Array::random({s.n});
    test.tensors["y"] = Array({s.batch, s.tokens, s.n});
    test.run();
    Case quantised{.kind = "quantizeRows", .outputs = {"codes", "scale"}};
    quantised.tensors["x"] = test["x"];
    quantised.tensors["codes"] = Array({s.batch, s.tokens, s.k}, DType::kF8E4M3);
    quantised.tensors["scale"] = Array({s.batch * s.tokens});
    quantised.run();
    for (int64_t row = 0; row < s.batch * s.tokens; ++row) {
      float peak = 0;
      for (int64_t i = 0; i < s.k; ++i)
        peak = std::fmax(peak, std::fabs(static_cast<float>(test["x"].get(row * s.k + i))));
      const float scale = peak == 0 ? 1 : peak / 448;
      EXPECT(quantised["scale"].get(row) == scale, label("scale of row", {row}));
      for (int64_t i = 0; i < s.k; ++i) {
        const float scaled = static_cast<float>(test["x"].get(row * s.k + i)) / scale;
        EXPECT(quantised["codes"].get(row * s.k + i) == e4m3_value(e4m3_nearest(scaled)),
               label("code", {row, i}));
      }
    }
    const auto expected = [&](int64_t index) {
      const int64_t row = index / s.n, n = index % s.n;
      const double sum = dot(quantised["codes"], row, test["weight"], n, s.k);
      return sum * quantised["scale"].get(row) * test["weightScale"].get(n) + test["bias"].get(n);
    };
    EXPECT_CLOSE(test["y"], expected, 1e-6, label("fp8 linear", {s.batch, s.tokens, s.n, s.k}));
  }
}

// Columns of y by the part that they belong to; the last part ends at N.
struct Branch {
  int64_t rank;
  Shape starts;

  int64_t parts() const { return static_cast<int64_t>(starts.size()) + 1; }
  int64_t part_of(int64_t column) const {
    int64_t part = 0;
    for (const int64_t start : starts) part += column >= start ? 1 : 0;
    return part;
  }
  void add_to(Case& test, int64_t batch, int64_t tokens, int64_t n, DType dtype) const {
    test.tensors["low"] = Array::random({batch, tokens, parts() * rank}, 1, DType::kF32, 2);
    test.tensors["lowUp"] = Array::random({n, rank}, 1 / std::sqrt(rank), dtype, 1);
    for (size_t p = 0; p < starts.size(); ++p)
      test.attributes.push_back({"part" + std::to_string(p + 1), static_cast<double>(starts[p])});
  }
  double sum(const Case& test, int64_t row, int64_t column) const {
    double total = 0;
    for (int64_t j = 0; j < rank; ++j) {
      total += test["low"].get(row * parts() * rank + part_of(column) * rank + j) *
               test["lowUp"].get(column * rank + j);
    }
    return total;
  }
};

FLUX_TEST(linear_adds_the_branch_of_each_part_before_bias_and_activation) {
  // One part; parts that begin inside a panel and inside a tile; empty ones; more of them than panels.
  for (const Branch& branch : {Branch{1, {}}, Branch{16, {}}, Branch{300, {5}}, Branch{4, {1, 2, 3}},
                               Branch{8, {33, 33, 70}}, Branch{3, {0, 17, 64, 65, 80}}}) {
    for (const LinearSize& s :
         {LinearSize{1, 1, 100, 3}, LinearSize{2, 31, 129, 257}, LinearSize{1, 350, 530, 48}}) {
      for (const DType dtype : {DType::kF32, DType::kBF16}) {
        Case test{.kind = "linear", .attributes = {{"activation", 1}}};
        test.tensors["x"] = Array::random({s.batch, s.tokens, s.k}, 1, DType::kF32, 3);
        test.tensors["weight"] = Array::random({s.n, s.k}, 1 / std::sqrt(s.k), dtype);
        test.tensors["weightScale"] = Array::random({s.n});
        test.tensors["bias"] = Array::random({s.n});
        test.tensors["y"] = Array({s.batch, s.tokens, s.n}, DType::kF32, 1);
        branch.add_to(test, s.batch, s.tokens, s.n, dtype);
        test.run();
        const auto expected = [&](int64_t index) {
          const int64_t row = index / s.n, n = index % s.n;
          const double product = dot(test["x"], row, test["weight"], n, s.k) * test["weightScale"].get(n);
          return activate(product + branch.sum(test, row, n) + test["bias"].get(n), 1);
        };
        EXPECT_CLOSE(test["y"], expected, 1e-6,
                     label("branch", {branch.rank, branch.parts(), s.tokens, s.n}));
      }
    }
  }
}

FLUX_TEST(linear_with_a_branch_of_zeros_is_the_linear_without) {
  Case without{.kind = "linear", .attributes = {{"activation", 0}}};
  without.tensors["x"] = Array::random({2, 50, 257});
  without.tensors["weight"] = Array::random({129, 257}, 0.1, DType::kBF16);
  without.tensors["bias"] = Array::random({129});
  without.tensors["y"] = Array({2, 50, 129});
  Case with = without;
  with.tensors["low"] = Array({2, 50, 16});
  with.tensors["lowUp"] = Array::random({129, 16});
  for (int64_t i = 0; i < with["low"].size(); ++i) with.tensors["low"].set(i, 0);
  without.run();
  with.run();
  EXPECT(with["y"].same_bytes(without["y"]), "bytes");
}

FLUX_TEST(linear_with_e4m3_weights_adds_the_branch_unquantised) {
  const LinearSize s{2, 29, 130, 48};
  const Branch branch{8, {64}};
  Case test{.kind = "linear", .attributes = {{"activation", 0}}};
  test.tensors["x"] = Array::random({s.batch, s.tokens, s.k}, 3);
  test.tensors["weight"] = Array::random({s.n, s.k}, 1, DType::kF8E4M3);
  test.tensors["weightScale"] = Array::random({s.n}, 0.01);
  test.tensors["y"] = Array({s.batch, s.tokens, s.n});
  test.run();
  Case with = test;
  branch.add_to(with, s.batch, s.tokens, s.n, DType::kBF16);
  with.run();
  const auto expected = [&](int64_t index) {
    return test["y"].get(index) + branch.sum(with, index / s.n, index % s.n);
  };
  EXPECT_CLOSE(with["y"], expected, 1e-6, "fp8 branch");
}

FLUX_TEST(quantizeRows_rounds_to_even_and_saturates) {
  // The first element fixes the scale at 1: every other one is then rounded as it is.
  std::vector<double> values = {448};
  for (int code = 0; code < 126; ++code) {
    const double low = e4m3_value(code), high = e4m3_value(code + 1), middle = (low + high) / 2;
    for (const double value : {low, middle, std::nextafter(static_cast<float>(middle), 0.0f) * 1.0,
                               std::nextafter(static_cast<float>(middle), 500.0f) * 1.0}) {
      values.push_back(value);
      values.push_back(-value);
    }
  }
  const auto count = static_cast<int64_t>(values.size());
  Case test{.kind = "quantizeRows", .outputs = {"codes", "scale"}};
  test.tensors["x"] = Array::of({1, count}, values);
  test.tensors["codes"] = Array({1, count}, DType::kF8E4M3);
  test.tensors["scale"] = Array({1});
  test.run();
  for (int64_t i = 0; i < count; ++i) {
    const double value = values[static_cast<size_t>(i)];
    EXPECT(test["codes"].get(i) == e4m3_value(e4m3_nearest(value)), std::to_string(value));
  }
  test.tensors["x"].set(3, std::nan(""));
  test.run();
  EXPECT(std::isnan(test["codes"].get(3)), "a NaN keeps its code");
}

FLUX_TEST(qkvLinear_normalises_and_rotates_heads) {
  constexpr int64_t kHead = 128;
  struct Size {
    int64_t batch, tokens, heads, k, mlp;
    DType dtype;
  };
  for (const Size& s : {Size{1, 1, 1, 5, 0, DType::kF32}, Size{2, 15, 2, 40, 0, DType::kBF16},
                        Size{2, 9, 1, 300, 77, DType::kF32}, Size{1, 29, 3, 64, 512, DType::kBF16}}) {
    const int64_t n = 3 * s.heads * kHead + s.mlp;
    Case test{.kind = "qkvLinear", .outputs = {"qkv"}, .attributes = {{"activation", 1}, {"eps", 1e-6}}};
    test.tensors["x"] = Array::random({s.batch, s.tokens, s.k}, 1, DType::kF32, 1);
    test.tensors["weight"] = Array::random({n, s.k}, 1 / std::sqrt(s.k), s.dtype);
    test.tensors["bias"] = Array::random({n});
    test.tensors["normQ"] = Array::random({kHead});
    test.tensors["normK"] = Array::random({kHead});
    test.tensors["rope"] = Array::random({s.tokens, kHead / 2, 2});
    test.tensors["qkv"] = Array({s.batch, s.tokens, 3, s.heads, kHead}, DType::kF32, 7);
    if (s.mlp > 0) {
      test.tensors["mlp"] = Array({s.batch, s.tokens, s.mlp}, DType::kF32, 9);
      test.outputs.push_back("mlp");
    }
    test.run();
    std::vector<double> projection;
    for (int64_t row = 0; row < s.batch * s.tokens; ++row) {
      for (int64_t column = 0; column < n; ++column) {
        projection.push_back(dot(test["x"], row, test["weight"], column, s.k) + test["bias"].get(column));
      }
    }
    const auto projected = [&](int64_t row, int64_t column) {
      return projection[static_cast<size_t>(row * n + column)];
    };
    const auto normalised = [&](int64_t row, int64_t part, int64_t head, int64_t i) {
      const int64_t first = (part * s.heads + head) * kHead;
      double squares = 0;
      for (int64_t j = 0; j < kHead; ++j) squares += std::pow(projected(row, first + j), 2);
      return projected(row, first + i) / std::sqrt(squares / kHead + 1e-6) *
             test[part == 0 ? "normQ" : "normK"].get(i);
    };
    const auto expected = [&](int64_t index) {
      const int64_t i = index % kHead, head = index / kHead % s.heads, part = index / kHead / s.heads % 3;
      const int64_t row = index / kHead / s.heads / 3;
      if (part == 2) return projected(row, (2 * s.heads + head) * kHead + i);
      const int64_t pair = i / 2 * 2;
      const double even = normalised(row, part, head, pair), odd = normalised(row, part, head, pair + 1);
      const double cosine = test["rope"].get({row % s.tokens, i / 2, 0}),
                   sine = test["rope"].get({row % s.tokens, i / 2, 1});
      return i % 2 == 0 ? even * cosine - odd * sine : odd * cosine + even * sine;
    };
    EXPECT_CLOSE(test["qkv"], expected, 1e-6, label("qkvLinear", {s.batch, s.tokens, s.heads, s.k}));
    if (s.mlp == 0) continue;
    const auto expected_mlp = [&](int64_t index) {
      return activate(projected(index / s.mlp, 3 * s.heads * kHead + index % s.mlp), 1);
    };
    EXPECT_CLOSE(test["mlp"], expected_mlp, 1e-6, label("qkvLinear mlp", {s.batch, s.tokens, s.mlp, s.k}));
  }
}

// The branch enters before the norm: the same op with the whole of x·Wᵀ + low·lowUpᵀ as its bias says so.
FLUX_TEST(qkvLinear_adds_the_branch_before_it_normalises) {
  constexpr int64_t kHead = 128, kHeads = 2, kMlp = 96, kDepth = 40, kTokens = 1,
                    kN = 3 * kHeads * kHead + kMlp;
  const Branch branch{6, {256, 512, 768}};
  Case test{.kind = "qkvLinear", .outputs = {"qkv", "mlp"}, .attributes = {{"activation", 1}, {"eps", 1e-6}}};
  test.tensors["x"] = Array::random({1, kTokens, kDepth});
  test.tensors["weight"] = Array::random({kN, kDepth}, 0.2, DType::kBF16);
  test.tensors["bias"] = Array::random({kN});
  test.tensors["normQ"] = Array::random({kHead});
  test.tensors["normK"] = Array::random({kHead});
  test.tensors["rope"] = Array::random({kTokens, kHead / 2, 2});
  test.tensors["qkv"] = Array({1, kTokens, 3, kHeads, kHead});
  test.tensors["mlp"] = Array({1, kTokens, kMlp});
  Case whole = test;
  branch.add_to(test, 1, kTokens, kN, DType::kF32);
  test.run();
  for (int64_t n = 0; n < kN; ++n) {
    whole.tensors["bias"].set(
        n, dot(test["x"], 0, test["weight"], n, kDepth) + branch.sum(test, 0, n) + test["bias"].get(n));
  }
  for (int64_t i = 0; i < kDepth; ++i) whole.tensors["x"].set(i, 0);
  whole.run();
  EXPECT_CLOSE(test["qkv"], [&](int64_t i) { return whole["qkv"].get(i); }, 1e-6, "qkv with a branch");
  EXPECT_CLOSE(test["mlp"], [&](int64_t i) { return whole["mlp"].get(i); }, 1e-6, "mlp with a branch");
}

FLUX_TEST(linear_names_what_does_not_fit) {
  Case good{.kind = "linear", .attributes = {{"activation", 0}}};
  good.tensors["x"] = Array::random({2, 3, 8});
  good.tensors["weight"] = Array::random({4, 8});
  good.tensors["y"] = Array({2, 3, 4});
  const auto with = [&](const std::string& name, Array array) {
    Case test = good;
    test.tensors[name] = std::move(array);
    return test;
  };
  EXPECT_ERROR(with("weight", Array({4, 7})), "weight [4, 7] f32 must have shape [*, 8]");
  EXPECT_ERROR(with("x", Array({2, 3, 8}, DType::kBF16)), "x [2, 3, 8] bf16 must be f32");
  EXPECT_ERROR(with("y", Array({2, 3, 5})), "y [2, 3, 5] f32 must have 4 columns");
  EXPECT_ERROR(with("y", Array({3, 2, 4})), "must have the rows of x [2, 3, 8]");
  EXPECT_ERROR(with("bias", Array({5})), "bias [5] f32 must have shape [4]");
  EXPECT_ERROR(with("gate", Array({1, 4})), "gate [1, 4] f32 must have shape [2, 4]");
  EXPECT_ERROR(with("residual", Array({2, 3, 3})), "residual [2, 3, 3] f32 must have the shape of y");
  EXPECT_ERROR(with("low", Array({2, 3, 2})), "low and lowUp go together");
  EXPECT_ERROR(with("lowUp", Array({4, 2})), "low and lowUp go together");
  const auto with_branch = [&](Array low, Array up) {
    Case test = with("low", std::move(low));
    test.tensors["lowUp"] = std::move(up);
    return test;
  };
  EXPECT_ERROR(with_branch(Array({2, 2, 2}), Array({4, 2})), "low [2, 2, 2] f32 must have the rows of x");
  EXPECT_ERROR(with_branch(Array({2, 3, 2}), Array({5, 2})), "lowUp [5, 2] f32 must have shape [4, *]");
  EXPECT_ERROR(with_branch(Array({2, 3, 3}), Array({4, 2})), "low [2, 3, 3] f32 must have a multiple");
  EXPECT_ERROR(with_branch(Array({2, 3, 4}), Array({4, 2})), "attribute 'part1' is missing");
  Case beyond = with_branch(Array({2, 3, 4}), Array({4, 2}));
  beyond.attributes.push_back({"part1", 5});
  EXPECT_ERROR(beyond, "'part1' must be between 0 and 4, not 5");
  EXPECT_ERROR(with("weight", Array({4, 8}, DType::kF8E4M3)), "needs weightScale");
  EXPECT_ERROR(with("weight", Array({4, 8}, DType::kI8)), "must be f32 or bf16 or f8e4m3");
  Case unknown = good;
  unknown.attributes = {{"activation", 4}};
  EXPECT_ERROR(unknown, "'activation' must be between 0 and 3");
  unknown.attributes = {};
  EXPECT_ERROR(unknown, "attribute 'activation' is missing");
  Case missing = good;
  missing.tensors.erase("weight");
  EXPECT_ERROR(missing, "operand 'weight' is missing");
}

}  // namespace
}  // namespace flux::test
