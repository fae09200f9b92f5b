// Argument checks that the kernels of attention share.
#pragma once

#include "attention/attention.h"

namespace flux::kernels::attention {

inline Status check_shape(const char* name, int batch, int heads, int queries, int keys, float scale) {
  const auto complaint = [&](const char* what) {
    return Status::bad_argument(std::string(name) + ": " + what);
  };
  if (batch < 1 || heads < 1 || queries < 1 || keys < 1) {
    return complaint("batch, heads, queries and keys must be positive");
  }
  if (int64_t(batch) * heads > 65535) return complaint("batch · heads must be at most 65535");
  if (!(scale > 0.0f && scale < 1e30f)) return complaint("scale must be positive and finite");
  return {};
}

// Rows are read and written in 16-byte pieces.
inline bool rows_aligned(const AttentionTensor& t) {
  return reinterpret_cast<uintptr_t>(t.data) % 16 == 0 && t.batch_stride % 8 == 0 &&
         t.token_stride % 8 == 0 && t.head_stride % 8 == 0;
}

// Such heads have no tensor-core kernel.
inline bool is_narrow(int head_dim) { return head_dim < 128 && head_dim != 64; }

inline Status check(const AttentionBf16& call) {
  if (Status s = check_shape("attention_bf16", call.batch, call.heads, call.queries, call.keys, call.scale);
      !s.ok())
    return s;
  if (call.head_dim != 512 && (call.head_dim < 8 || call.head_dim > 128 || call.head_dim % 8 != 0)) {
    return Status::unsupported("attention_bf16: head_dim must be a multiple of 8 up to 128, or 512, not " +
                               std::to_string(call.head_dim));
  }
  if (call.causal && (call.queries != call.keys || call.bias.data != nullptr)) {
    return Status::bad_argument(
        "attention_bf16: causal attention needs as many queries as keys and takes no bias");
  }
  for (const AttentionTensor* t : {&call.query, &call.key, &call.value, &call.output}) {
    if (!rows_aligned(*t)) {
      return Status::bad_argument(
          "attention_bf16: align q, k, v and output to 16 bytes and make their strides multiples of 8 "
          "elements");
    }
  }
  return {};
}

}  // namespace flux::kernels::attention
