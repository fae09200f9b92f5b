// 8-bit attention's operands as ops name them: q, k, v, queryRows, keyBlocks (lib/runtime/heads.ts).
#pragma once

#include "attention/attention.h"
#include "gemm/gemm.h"
#include "runtime/op.h"

namespace flux::cuda {

// Where the sequence begins of which the op's views are the tokens from `first_token` on, a multiple of 64.
inline kernels::PackedQkv packed_heads(const OpCall& call, int64_t first_token) {
  const auto start = [&](const char* name, int64_t step) {
    const TensorView& view = call.tensor(name);
    return static_cast<uint8_t*>(view.data) -
           first_token / step * view.stride[2] * static_cast<int64_t>(size_of(view.dtype));
  };
  return {start("q", 1), start("k", 1), start("v", 16), reinterpret_cast<float*>(start("queryRows", 1)),
          reinterpret_cast<float*>(start("keyBlocks", 16))};
}

inline kernels::ScoreType score_type(const OpCall& call) {
  return call.tensor("q").dtype == DType::kI8 ? kernels::ScoreType::kInt8 : kernels::ScoreType::kE4M3;
}

inline kernels::QkvHeads heads_as(const OpCall& call) {
  return score_type(call) == kernels::ScoreType::kInt8 ? kernels::QkvHeads::kInt8 : kernels::QkvHeads::kE4M3;
}

}  // namespace flux::cuda
