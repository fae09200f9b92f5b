// What the QKV epilogue needs beside a product's operands.
#pragma once

#include <algorithm>
#include <cmath>
#include <memory>

#include "gemm/gemm.h"
#include "harness/case.h"

namespace flux::testing {

// [tokens, 64 pairs of (cos, sin)] in the order of attention/rope_pairs.cuh, a row a block of 16 tokens; tokens beyond repeat the last one.
inline Matrix paired(const Matrix& rope) {
  Matrix pairs((rope.rows + 15) / 16, 2048);
  for (int64_t block = 0; block < pairs.rows; ++block) {
    for (int64_t at = 0; at < pairs.cols; ++at) {
      const int64_t j = at / 256, lane = at / 8 % 32, b = at / 4 % 2, sine = at / 2 % 2, later = at % 2;
      const int64_t token = std::min(16 * block + lane / 4 + 8 * later, rope.rows - 1);
      pairs.at(block, at) = rope.at(token, 2 * (8 * j + 4 * b + lane % 4) + sine);
    }
  }
  return pairs;
}

// The operands of q and k: norms and rotations.
struct HeadOperands {
  HeadOperands(int64_t tokens, uint64_t seed)
      : norm_q(normal(1, 128, seed, 0.1f, 1.0f)),
        norm_k(normal(1, 128, seed + 1, 0.1f, 1.0f)),
        rope(tokens, 128) {
    const Matrix angle = uniform(tokens, 64, seed + 2, -40.0f, 40.0f);
    for (int64_t t = 0; t < tokens; ++t) {
      for (int64_t i = 0; i < 64; ++i) {
        rope.at(t, 2 * i) = std::cos(angle.at(t, i));
        rope.at(t, 2 * i + 1) = std::sin(angle.at(t, i));
      }
    }
    device_q = std::make_unique<Input>(norm_q, Element::kF32);
    device_k = std::make_unique<Input>(norm_k, Element::kF32);
    device_rope = std::make_unique<Input>(rope, Element::kF32);
    device_pairs = std::make_unique<Input>(paired(rope), Element::kF16);
  }
  void bind(kernels::GemmGroup& group) const {
    group.norm_q = device_q->data<float>();
    group.norm_k = device_k->data<float>();
    group.rope = device_rope->data<float>();
    group.rope_pairs = device_pairs->data();
  }
  Matrix norm_q, norm_k, rope;
  std::unique_ptr<Input> device_q, device_k, device_rope, device_pairs;
};

inline Matrix columns_of(const Matrix& all, int64_t first, int64_t count) {
  Matrix part(all.rows, count);
  for (int64_t r = 0; r < all.rows; ++r) std::copy_n(all.row(r) + first, count, &part.at(r, 0));
  return part;
}

}  // namespace flux::testing
