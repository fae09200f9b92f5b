#include "reference/attention.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace flux::testing::reference {

AttentionResult attention(const Attention& problem, const std::vector<AttentionRow>& rows) {
  const int d = problem.head_dim;
  AttentionResult result{Matrix(int64_t(rows.size()), d), Matrix(int64_t(rows.size()), 1)};
  std::vector<double> score(size_t(problem.keys)), sum_of_values(static_cast<size_t>(d));
  for (size_t r = 0; r < rows.size(); ++r) {
    const auto [batch, head, query] = rows[r];
    const float* q = problem.query->row(int64_t(batch) * problem.queries + query) + int64_t(head) * d;
    const int keys = problem.causal ? std::min(problem.keys, query + 1) : problem.keys;
    double maximum = -std::numeric_limits<double>::infinity();
    for (int j = 0; j < keys; ++j) {
      const float* k = problem.key->row(int64_t(batch) * problem.keys + j) + int64_t(head) * d;
      double dot = 0;
      for (int c = 0; c < d; ++c) dot += double(q[c]) * double(k[c]);
      score[size_t(j)] = dot * problem.scale;
      if (problem.bias != nullptr) {
        score[size_t(j)] +=
            problem.bias[head * problem.bias_head_stride + query * problem.bias_row_stride + j];
      }
      maximum = std::max(maximum, score[size_t(j)]);
    }
    double sum = 0;
    std::fill(sum_of_values.begin(), sum_of_values.end(), 0.0);
    for (int j = 0; j < keys; ++j) {
      const double p = std::exp(score[size_t(j)] - maximum);
      const float* v = problem.value->row(int64_t(batch) * problem.keys + j) + int64_t(head) * d;
      sum += p;
      for (int c = 0; c < d; ++c) sum_of_values[size_t(c)] += p * double(v[c]);
    }
    for (int c = 0; c < d; ++c) result.output.at(int64_t(r), c) = float(sum_of_values[size_t(c)] / sum);
    result.log_sum_exp.at(int64_t(r), 0) = float(maximum + std::log(sum));
  }
  return result;
}

}  // namespace flux::testing::reference
