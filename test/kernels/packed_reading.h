// Reads 8-bit attention's operands back. The formulas are those of qkv_layout.cuh's text, not the header's functions.
#pragma once

#include <cmath>
#include <vector>

#include "attention/attention.h"
#include "harness/device_memory.h"
#include "harness/formats.h"

namespace flux::testing {

// int8 rows are rotated by y[8i + j] = ¼ Σ_m (−1)^popcount(i & m) σ(m) x[8m + j]: the entry of row c, column from.
inline float rotation(int c, int from) {
  if (c % 8 != from % 8) return 0;
  const int m = from / 8;
  const bool negative = ((m & m >> 1) ^ (m >> 2 & m >> 3)) & 1;
  return (__builtin_popcount(c / 8 & m) + negative) % 2 ? -0.25f : 0.25f;
}

// Byte of channel c in a row of q or k.
inline int scored_byte(int c) { return 64 * (c / 64) + 16 * (c / 2 % 4) + 2 * (c / 8 % 8) + c % 2; }

// Byte of v[token][channel] in its slice.
inline size_t value_byte(int token, int channel) {
  constexpr int kSlot[16] = {0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15};
  return size_t(token / 16) * 2048 + size_t(channel) * 16 + size_t(kSlot[token % 16]);
}

inline std::vector<uint8_t> download(const void* data, size_t bytes) {
  std::vector<uint8_t> host(bytes);
  must(cudaMemcpy(host.data(), data, bytes, cudaMemcpyDeviceToHost), "download");
  return host;
}

// The values that the codes stand for, q and k rotated back: [batch · tokens][3 · heads · 128], q, k and v side by side.
inline Matrix unpacked(const kernels::PackedQkv& packed, kernels::ScoreType type, int batch, int heads,
                       int tokens) {
  const kernels::PackedSizes sizes = kernels::attention_packed_sizes(batch, heads, tokens, tokens);
  const bool int8 = type == kernels::ScoreType::kInt8;
  const std::vector<uint8_t> codes[3] = {download(packed.query, sizes.query), download(packed.key, sizes.key),
                                         download(packed.value, sizes.value)};
  const auto row_bytes = download(packed.query_rows, sizes.query_rows),
             block_bytes = download(packed.key_blocks, sizes.key_blocks);
  const float* rows = reinterpret_cast<const float*>(row_bytes.data());
  const float* blocks = reinterpret_cast<const float*>(block_bytes.data());
  const int padded = (tokens + 63) / 64 * 64, value_blocks = (tokens + 15) / 16;
  Matrix all(int64_t(batch) * tokens, int64_t(3) * heads * 128);
  for (int slice = 0; slice < batch * heads; ++slice) {
    for (int t = 0; t < tokens; ++t) {
      const float* block = blocks + (size_t(slice) * padded + size_t(t)) / 16 * 4;
      const float scale[2] = {rows[(size_t(slice) * padded + size_t(t)) * 2], block[0]};
      const int64_t at = int64_t(slice / heads) * tokens + t;
      for (int part = 0; part < 2; ++part) {
        float x[128];
        for (int c = 0; c < 128; ++c) {
          const uint8_t code =
              codes[part][(size_t(slice) * tokens + size_t(t)) * 128 + size_t(scored_byte(c))];
          x[c] = scale[part] * (int8 ? float(int8_t(code)) : e4m3_to_float(code));
        }
        for (int c = 0; c < 128; ++c) {
          float value = int8 ? 0 : x[c];
          for (int from = c % 8; int8 && from < 128; from += 8) value += rotation(from, c) * x[from];
          all.at(at, (part * heads + slice % heads) * 128 + c) = value;
        }
      }
      for (int c = 0; c < 128; ++c) {
        const uint8_t code = codes[2][size_t(slice) * value_blocks * 2048 + value_byte(t, c)];
        all.at(at, (2 * heads + slice % heads) * 128 + c) = e4m3_to_float(code) * std::exp2(block[2]);
      }
    }
  }
  return all;
}

}  // namespace flux::testing
