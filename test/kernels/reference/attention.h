// Attention one row at a time in double precision.
#pragma once

#include <vector>

#include "harness/matrix.h"

namespace flux::testing::reference {

// q, k, v as [batch · tokens][heads · head_dim] matrices, as activations lie in memory.
struct Attention {
  const Matrix *query, *key, *value;
  int batch, heads, queries, keys, head_dim;
  double scale;
  bool causal = false;
  const float* bias = nullptr;  // host; strides as AttentionBias
  int64_t bias_head_stride = 0, bias_row_stride = 0;
};

// The rows (batch, head, query) for which a test wants results.
struct AttentionRow {
  int batch, head, query;
};

struct AttentionResult {
  Matrix output;       // [rows][head_dim]
  Matrix log_sum_exp;  // [rows][1]
};

AttentionResult attention(const Attention& problem, const std::vector<AttentionRow>& rows);

}  // namespace flux::testing::reference
