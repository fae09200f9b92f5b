// Centred k through the fused path: QKV GEMM, 8-bit attention, and both again with the offset that attention left.
#include <cmath>

#include "attention_problem.h"
#include "gemm_operands.h"
#include "head_operands.h"
#include "packed_reading.h"

namespace flux::testing {
namespace {

using namespace kernels;

// What q, k and v are: normal rows, RMS-normalised, times weights. A head's k have a mean of `mean` deviations in common, which the weights
// make those of AttentionData's row.
struct FusedData {
  std::string name;
  float query = 1, key = 1, value = 1, mean = 0;
  bool outliers = false;
};

// The product is x itself: W is the identity. RoPE does not turn, or no mean would be left.
struct FusedProblem {
  FusedProblem(const AttentionShape& s, const FusedData& data)
      : shape(s),
        a(normal(s.rows(), 3 * s.width(), 61)),
        w(3 * s.width(), 3 * s.width()),
        bias(1, 3 * s.width()),
        norm_q(1, 128, data.query),
        norm_k(1, 128, data.key * std::sqrt(1 + data.mean * data.mean)),
        rope(s.tokens, 128) {
    const Matrix mean = normal(1, s.width(), 62, data.mean);
    for (int c = 0; c < 3 * s.width(); ++c) w.at(c, c) = 1;
    for (int c = 0; c < s.width(); ++c) bias.at(0, s.width() + c) = mean.at(0, c);
    for (int t = 0; t < s.tokens; ++t) {
      for (int i = 0; i < 64; ++i) rope.at(t, 2 * i) = 1;
    }
    if (data.outliers) norm_k.at(0, 5) *= 20, norm_q.at(0, 77) *= 8;
    for (int r = 0; r < s.rows(); ++r) {
      for (int c = 2 * s.width(); c < 3 * s.width(); ++c) a.at(r, c) *= data.value;
    }
    a = rounded_to(a, Element::kBF16);
    rows = a;
    for (int64_t r = 0; r < rows.rows; ++r) {
      for (int64_t c = 0; c < rows.cols; ++c) rows.at(r, c) += bias.at(0, c);
    }
    reference::normalise_and_rotate(rows, s.heads, norm_q.values, norm_k.values, repeated_rope().values,
                                    1e-6f);
  }

  // Row r of all batches takes the rotation of its token.
  Matrix repeated_rope() const {
    Matrix all(shape.rows(), 128);
    for (int64_t r = 0; r < all.rows; ++r) std::copy_n(rope.row(r % shape.tokens), 128, &all.at(r, 0));
    return all;
  }

  // Mean of the sampled k of each head, by key_offset.cuh's text.
  Matrix means() const {
    Matrix mean(int64_t(shape.batch) * shape.heads, 128);
    const int64_t tokens = shape.tokens, count = std::min<int64_t>(tokens, 128);
    for (int64_t slice = 0; slice < mean.rows; ++slice) {
      for (int64_t c = 0; c < 128; ++c) {
        double sum = 0;
        for (int64_t n = 0; n < count; ++n) {
          const int64_t first = n * tokens / count, run = (n + 1) * tokens / count - first;
          const uint64_t place = uint32_t(n * n * 0x9e3779b9);
          const int64_t token = first + int64_t(place * uint64_t(run) >> 32);
          sum += rows.at(slice / shape.heads * tokens + token, shape.width() + slice % shape.heads * 128 + c);
        }
        mean.at(slice, c) = float(sum / double(count));
      }
    }
    return mean;
  }

  AttentionShape shape;
  Matrix a, w, bias, norm_q, norm_k, rope, rows;
};

void hold(Context& c, const AttentionShape& shape, const FusedData& data, ScoreType type, double error) {
  const FusedProblem problem(shape, data);
  const Input a(problem.a, Element::kBF16), w(problem.w, Element::kBF16), bias(problem.bias, Element::kF32);
  const Input norm_q(problem.norm_q, Element::kF32), norm_k(problem.norm_k, Element::kF32),
      rope(paired(problem.rope), Element::kF16);
  const PackedMemory memory(shape.batch, shape.heads, shape.tokens, shape.tokens);
  const AttentionWorkspace workspace;
  Output output(shape.rows(), shape.width(), Element::kBF16);
  Output offset(int64_t(shape.batch) * shape.heads, 128, Element::kF32);

  GemmGroup group;
  group.batches = shape.batch;
  group.rows = group.packed_tokens = shape.tokens;
  group.a = {a.data(), 3 * shape.width(), int64_t(shape.tokens) * 3 * shape.width()};
  group.w = w.data();
  group.w_row_stride = 3 * shape.width();
  group.bias = bias.data<float>();
  group.norm_q = norm_q.data<float>();
  group.norm_k = norm_k.data<float>();
  group.rope_pairs = rope.data();
  group.packed = memory.operands();
  group.key_offset = offset.data<float>();
  Gemm gemm;
  gemm.operand = Element::kBF16;
  gemm.epilogue = GemmEpilogue::kQkv;
  gemm.n = gemm.k = 3 * shape.width();
  gemm.heads = shape.heads;
  gemm.heads_as = type == ScoreType::kInt8 ? QkvHeads::kInt8 : QkvHeads::kE4M3;
  gemm.groups = &group;
  gemm.group_count = 1;
  AttentionPacked attention;
  attention.operands = memory.operands();
  attention.type = type;
  attention.output = {output.data(), int64_t(shape.tokens) * shape.width(), shape.width(), 128};
  attention.batch = shape.batch;
  attention.heads = shape.heads;
  attention.queries = attention.keys = shape.tokens;
  attention.scale = shape.scale();
  attention.workspace = workspace.data();
  attention.key_offset = offset.data<float>();
  const auto launch = [&] {
    must(cudaMemsetAsync(offset.data(), 0, size_t(shape.batch) * shape.heads * 128 * 4, c.stream()), "zeros");
    for (int step = 0; step < 2; ++step) {
      if (Status s = gemm_hopper(gemm, c.stream()); !s.ok()) return s;
      if (Status s = attention_packed(attention, c.stream()); !s.ok()) return s;
    }
    return Status{};
  };
  if (!c.run({&output, &offset}, launch)) return;

  const Matrix q = columns_of(problem.rows, 0, shape.width()),
               k = columns_of(problem.rows, shape.width(), shape.width()),
               v = columns_of(problem.rows, 2 * shape.width(), shape.width());
  std::vector<reference::AttentionRow> rows;
  const int count = std::min(shape.tokens, 48);
  for (int b = 0; b < shape.batch; ++b) {
    for (int h = 0; h < shape.heads; ++h) {
      for (int i = 0; i < count; ++i)
        rows.push_back({b, h, count == 1 ? 0 : i * (shape.tokens - 1) / (count - 1)});
    }
  }
  const Matrix want =
      reference::attention(
          {&q, &k, &v, shape.batch, shape.heads, shape.tokens, shape.tokens, 128, shape.scale()}, rows)
          .output;
  const Matrix all = output.values();
  Matrix got(want.rows, 128);
  for (int64_t r = 0; r < got.rows; ++r) {
    const auto [batch, head, query] = rows[size_t(r)];
    std::copy_n(all.row(int64_t(batch) * shape.tokens + query) + head * 128, 128, &got.at(r, 0));
  }
  c.expect_within("second step", got, want, {error, -1, 2 * error});

  // A code's error is some hundredth of k's deviation, and a hundred average it; without a mean to find that is much of what is found.
  const Matrix mean = problem.means(), found = offset.values();
  double largest = 0, deviation = 0;
  for (float x : problem.norm_k.values) deviation = std::max(deviation, double(std::abs(x)));
  deviation /= std::sqrt(1 + data.mean * data.mean);
  for (size_t i = 0; i < mean.values.size(); ++i)
    largest = std::max(largest, double(std::abs(found.values[i] - mean.values[i])));
  c.expect(largest < 0.015 * deviation,
           "the offset is off by " + std::to_string(largest / deviation) + " deviations");
}

const Cases kTests = [](Register& add) {
  for (ScoreType type : {ScoreType::kInt8, ScoreType::kE4M3}) {
    const bool int8 = type == ScoreType::kInt8;
    const std::string path = std::string("attention/fused/") + (int8 ? "int8/" : "e4m3/");
    // The bounds of the error table (attention_packed_cases.cc).
    const AttentionShape s{1, 4, 4608, 128};
    for (const auto& [data, error] : {std::pair<FusedData, double>{{"normal"}, int8 ? 0.041 : 0.058},
                                      {{"peaky", 3, 3}, int8 ? 0.056 : 0.147},
                                      {{"mean", 1, 1, 1, 4}, int8 ? 0.044 : 0.058},
                                      {{"outliers", 1, 1, 1, 0, true}, int8 ? 0.07 : 0.176},
                                      {{"small-v", 1, 1, 0.001f}, int8 ? 0.043 : 0.058},
                                      {{"large-v", 1, 1, 300}, int8 ? 0.043 : 0.058}}) {
      add.test(path + data.name,
               [s, data = data, type, error = error](Context& c) { hold(c, s, data, type, error); });
    }
    for (const AttentionShape& other :
         {AttentionShape{1, 1, 1, 128}, {2, 3, 77, 128}, {3, 2, 191, 128}, {8, 24, 130, 128}}) {
      add.test(path + other.name(),
               [=](Context& c) { hold(c, other, {"", 1, 1, 1, 4}, type, int8 ? 0.044 : 0.058); });
    }
  }
};

}  // namespace
}  // namespace flux::testing
