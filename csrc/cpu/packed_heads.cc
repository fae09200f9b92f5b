// packHeads and attentionPacked: 8-bit attention as its layout defines it (kernels/attention/qkv_layout.cuh), to the byte. What is
// emulated is the operands: the products of their codes, the softmax and P·V are in f32 here, where the GPU's kernel rounds P to e4m3.
#include <algorithm>
#include <bit>
#include <cmath>
#include <utility>

#include "cpu/checks.h"
#include "cpu/kernels.h"
#include "cpu/scratch.h"

namespace flux::cpu {

namespace {

constexpr int64_t kHeadSize = 128;
constexpr int64_t kTile = 64;   // tokens that share v's exponent
constexpr int64_t kBlock = 16;  // tokens that share k's scale
constexpr int kTokenOrder[kBlock] = {0, 1, 8, 9, 2, 3, 10, 11, 4, 5, 12, 13, 6, 7, 14, 15};

int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Byte of channel c in a row of q or k.
int64_t channel_position(int64_t c) { return c / 64 * 64 + c / 2 % 4 * 16 + c / 8 % 8 * 2 + c % 2; }

struct Packed {
  const TensorView &q, &k, &v, &rows, &blocks;
  int64_t batches, heads, tokens, queries;

  explicit Packed(const OpCall& call)
      : q(operand(call, "q", {DType::kI8, DType::kF8E4M3})),
        k(operand(call, "k", {q.dtype})),
        v(operand(call, "v", {DType::kF8E4M3})),
        rows(operand(call, "queryRows")),
        blocks(operand(call, "keyBlocks")) {
    expect_shape(call, "k", k, {-1, -1, -1, kHeadSize});
    batches = k.shape[0], heads = k.shape[1], tokens = k.shape[2];
    const int64_t tiles = divide_up(tokens, kTile);
    expect_shape(call, "q", q, {batches, heads, -1, kHeadSize});
    queries = q.shape[2];
    expect_shape(call, "v", v, {batches, heads, divide_up(tokens, kBlock), kHeadSize, kBlock});
    expect_shape(call, "queryRows", rows, {batches, heads, -1, 2});
    expect_shape(call, "keyBlocks", blocks, {batches, heads, tiles * kTile / kBlock, 4});
    if (rows.shape[2] < queries)
      fail(call, describe("queryRows", rows) + " are fewer than " + describe("q", q));
    for (const auto& [name, view] :
         {std::pair<const char*, const TensorView&>{"k", k}, {"v", v}, {"keyBlocks", blocks}}) {
      if (!view.contiguous()) fail(call, describe(name, view) + " must be contiguous");
    }
    for (const auto& [name, view] :
         {std::pair<const char*, const TensorView&>{"q", q}, {"queryRows", rows}}) {
      const bool dense =
          view.stride[2] == view.inner() && (batches == 1 || view.stride[0] == heads * view.stride[1]);
      if (!dense) fail(call, describe(name, view) + " must be tokens in a row of contiguous heads");
    }
  }

  bool integer() const { return q.dtype == DType::kI8; }
  int64_t slices() const { return batches * heads; }
  uint8_t* scored(const TensorView& view, int64_t slice, int64_t token) const {
    return view.as<uint8_t>() + slice * view.stride[1] + token * kHeadSize;
  }
  float* row(int64_t slice, int64_t token) const {
    return rows.as<float>() + slice * rows.stride[1] + token * 2;
  }
  float* block(int64_t slice, int64_t token) const {
    return blocks.as<float>() + (slice * blocks.shape[2] + token / kBlock) * 4;
  }
  // The 16 codes of a channel in the block of `token`.
  uint8_t* value(int64_t slice, int64_t token, int64_t channel) const {
    return v.as<uint8_t>() + ((slice * v.shape[2] + token / kBlock) * kHeadSize + channel) * kBlock;
  }
};

// σ(c / 8) of the layout: −1 or 1.
float sign_of(int64_t c) {
  const int64_t m = c / 8;
  return ((m & m >> 1) ^ (m >> 2 & m >> 3)) & 1 ? -1.0f : 1.0f;
}

// ¼ Σ_m (−1)^popcount(i & m) y[8m + j], in place.
void mix(float* y) {
  for (int64_t step = 8; step < kHeadSize; step *= 2) {
    for (int64_t c = 0; c < kHeadSize; ++c) {
      if (c & step) continue;
      const float a = y[c], b = y[c + step];
      y[c] = a + b;
      y[c + step] = a - b;
    }
  }
  for (int64_t c = 0; c < kHeadSize; ++c) y[c] *= 0.25f;
}

// int8 codes are of rotated rows: y[8i + j] = ¼ Σ_m (−1)^popcount(i & m) σ(m) x[8m + j]. Added in the order of butterflies, as the
// GPU does.
void rotate(const float* x, float* y) {
  for (int64_t c = 0; c < kHeadSize; ++c) y[c] = sign_of(c) * x[c];
  mix(y);
}

// The other way, in place: what mixes is its own inverse.
void rotate_back(float* x) {
  mix(x);
  for (int64_t c = 0; c < kHeadSize; ++c) x[c] *= sign_of(c);
}

struct Measure {
  float maximum = 0.0f, squares = 0.0f;
};

Measure measure(const float* x) {
  Measure m;
  for (int64_t c = 0; c < kHeadSize; ++c) {
    m.maximum = std::max(m.maximum, std::fabs(x[c]));
    m.squares += x[c] * x[c];
  }
  return m;
}

float row_scale(float maximum, bool integer) {
  return std::clamp(maximum, 1e-30f, 0x1p60f) / (integer ? 127.0f : 448.0f);
}

void store_row(const float* x, float scale, bool integer, uint8_t* codes) {
  const float inverse = 1.0f / scale;
  for (int64_t c = 0; c < kHeadSize; ++c) {
    uint8_t& code = codes[channel_position(c)];
    if (integer) {
      code = static_cast<uint8_t>(static_cast<int8_t>(std::nearbyint(double(x[c]) * inverse)));
    } else {
      code = f32_to_e4m3(x[c] * inverse);
    }
  }
}

void load_row(const uint8_t* codes, float scale, bool integer, float* x) {
  for (int64_t c = 0; c < kHeadSize; ++c) {
    const uint8_t code = codes[channel_position(c)];
    x[c] = scale * (integer ? static_cast<float>(static_cast<int8_t>(code)) : e4m3_to_f32(code));
  }
}

// The least e with maximum · 2^-e ≤ 448, within what the layout holds.
int value_exponent(float maximum) {
  const int32_t bits = std::bit_cast<int32_t>(maximum * (1.0f / 448.0f));
  return std::clamp(((bits + 0x7fffff) >> 23) - 127, -64, 24);
}

// [B, H, 128], or null.
const TensorView* key_offset(const OpCall& call, const Packed& heads) {
  const TensorView* offset = optional_operand(call, "keyOffset");
  if (offset == nullptr) return nullptr;
  expect_shape(call, "keyOffset", *offset, {heads.batches, heads.heads, kHeadSize});
  if (!offset->contiguous()) fail(call, describe("keyOffset", *offset) + " must be contiguous");
  return offset;
}

// 64 tokens of one head, k less `offset` [128]. `x` gives a token's row of q (0), k (1) or v (2).
template <typename RowOf>
void pack_tile(const Packed& to, int64_t slice, int64_t first, const float* offset, const RowOf& x) {
  const int64_t end = std::min(first + kTile, to.tokens);
  float scored[2][kTile][kHeadSize];
  for (int64_t part = 0; part < 2; ++part) {
    for (int64_t token = first; token < end; ++token) {
      float* row = scored[part][token - first];
      float centred[kHeadSize];
      std::copy_n(x(part, token), kHeadSize, centred);
      for (int64_t c = 0; part == 1 && offset != nullptr && c < kHeadSize; ++c) centred[c] -= offset[c];
      if (to.integer()) {
        rotate(centred, row);
      } else {
        std::copy_n(centred, kHeadSize, row);
      }
    }
  }
  for (int64_t token = first; token < end; ++token) {
    const float* q = scored[0][token - first];
    const Measure m = measure(q);
    float* row = to.row(slice, token);
    row[0] = row_scale(m.maximum, to.integer());
    row[1] = std::sqrt(m.squares);
    store_row(q, row[0], to.integer(), to.scored(to.q, slice, token));
  }
  float largest = 0.0f;
  for (int64_t token = first; token < end; ++token) largest = std::max(largest, measure(x(2, token)).maximum);
  const int exponent = value_exponent(largest);
  for (int64_t start = first; start < first + kTile; start += kBlock) {
    Measure m;
    for (int64_t token = start; token < std::min(start + kBlock, end); ++token) {
      const Measure one = measure(scored[1][token - first]);
      m = {std::max(m.maximum, one.maximum), std::max(m.squares, one.squares)};
    }
    float* block = to.block(slice, start);
    block[0] = row_scale(m.maximum, to.integer());
    block[1] = std::sqrt(m.squares);
    block[2] = static_cast<float>(exponent);
    block[3] = std::ldexp(1.0f, -exponent);
    for (int64_t token = start; token < std::min(start + kBlock, end); ++token) {
      store_row(scored[1][token - first], block[0], to.integer(), to.scored(to.k, slice, token));
    }
    if (start >= end) continue;
    for (int64_t c = 0; c < kHeadSize; ++c) {
      for (int64_t slot = 0; slot < kBlock; ++slot) {
        const int64_t token = start + kTokenOrder[slot];
        to.value(slice, start, c)[slot] = token < end ? f32_to_e4m3(x(2, token)[c] * block[3]) : 0;
      }
    }
  }
}

}  // namespace

void pack_heads(const OpCall& call, ThreadPool& pool) {
  const Packed to(call);
  const TensorView& qkv = operand(call, "qkv");
  const TensorView* offset = key_offset(call, to);
  const int64_t tiles = divide_up(to.tokens, kTile);
  expect_same_shape(call, "q", to.q, "k", to.k);
  expect_shape(call, "queryRows", to.rows, {to.batches, to.heads, tiles * kTile, 2});
  expect_shape(call, "qkv", qkv, {to.batches, to.tokens, 3, to.heads, kHeadSize});
  pool.parallel_for(to.slices() * tiles, 1, [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) {
      const int64_t slice = task / tiles;
      const float* base =
          qkv.as<const float>() + slice / to.heads * qkv.stride[0] + slice % to.heads * qkv.stride[3];
      const float* lost = offset == nullptr ? nullptr : offset->as<const float>() + slice * kHeadSize;
      pack_tile(to, slice, task % tiles * kTile, lost, [&](int64_t part, int64_t token) {
        return base + token * qkv.stride[1] + part * qkv.stride[2];
      });
    }
  });
}

namespace {

// The n-th of `count` sampled keys: kernels/attention/key_offset.cuh.
int64_t sampled_key(int64_t n, int64_t count, int64_t keys) {
  const int64_t first = n * keys / count, run = (n + 1) * keys / count - first;
  const uint32_t place = static_cast<uint32_t>(n * n) * 0x9e3779b9u;
  return first + static_cast<int64_t>(place * static_cast<uint64_t>(run) >> 32);
}

// offset [128] += the mean of a slice's sampled keys, `rows` [T, 128] as they were coded.
void add_mean(const Packed& from, const float* rows, float* offset) {
  const int64_t count = std::min<int64_t>(from.tokens, 128);
  float mean[kHeadSize] = {};
  for (int64_t n = 0; n < count; ++n) {
    const float* row = rows + sampled_key(n, count, from.tokens) * kHeadSize;
    for (int64_t c = 0; c < kHeadSize; ++c) mean[c] += row[c];
  }
  if (from.integer()) rotate_back(mean);
  for (int64_t c = 0; c < kHeadSize; ++c) offset[c] += mean[c] / static_cast<float>(count);
}

}  // namespace

// Unpacks into rows of f32 and attends to those.
void attention_packed(const OpCall& call, ThreadPool& pool) {
  const Packed from(call);
  const int64_t asked = from.slices() * from.queries, held = from.slices() * from.tokens;
  thread_local Scratch scratch;
  float* queries = scratch.reserve<float>((asked + 2 * held) * kHeadSize);
  float* keys = queries + asked * kHeadSize;
  float* values = keys + held * kHeadSize;
  pool.parallel_for(asked, 64, [&](int64_t begin, int64_t end) {
    for (int64_t at = begin; at < end; ++at) {
      const int64_t slice = at / from.queries, query = at % from.queries;
      load_row(from.scored(from.q, slice, query), from.row(slice, query)[0], from.integer(),
               queries + at * kHeadSize);
    }
  });
  const int64_t tiles = divide_up(from.tokens, kBlock);
  pool.parallel_for(from.slices() * tiles, 4, [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) {
      const int64_t slice = task / tiles, start = task % tiles * kBlock;
      const float* block = from.block(slice, start);
      const float factor = std::ldexp(1.0f, static_cast<int>(block[2]));
      for (int64_t slot = 0; slot < kBlock; ++slot) {
        const int64_t token = start + kTokenOrder[slot];
        if (token >= from.tokens) continue;
        const int64_t at = (slice * from.tokens + token) * kHeadSize;
        load_row(from.scored(from.k, slice, token), block[0], from.integer(), keys + at);
        for (int64_t c = 0; c < kHeadSize; ++c) {
          values[at + c] = factor * e4m3_to_f32(from.value(slice, start, c)[slot]);
        }
      }
    }
  });
  if (const TensorView* offset = key_offset(call, from)) {
    for (int64_t slice = 0; slice < from.slices(); ++slice)
      add_mean(from, keys + slice * from.tokens * kHeadSize, offset->as<float>() + slice * kHeadSize);
  }
  OpCall unpacked{call.kind, {}, {{"scale", call.number("scale")}, {"causal", 0}}};
  const auto add = [&](const char* name, float* rows, int64_t tokens) {
    TensorView view;
    view.data = rows;
    view.rank = 4;
    view.shape = {from.batches, tokens, from.heads, kHeadSize};
    view.stride = {from.heads * tokens * kHeadSize, kHeadSize, tokens * kHeadSize, 1};
    unpacked.operands.emplace_back(name, view);
  };
  add("q", queries, from.queries);
  add("k", keys, from.tokens);
  add("v", values, from.tokens);
  unpacked.operands.emplace_back("y", call.tensor("y"));
  attention(unpacked, pool);
}

}  // namespace flux::cpu
