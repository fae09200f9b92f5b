// 8-bit attention: the layout by index ramps, the error table, ragged counts, extreme scores.
#include <cmath>

#include "attention_problem.h"
#include "packed_reading.h"

namespace flux::testing {
namespace {

using namespace kernels;

const char* name_of(ScoreType type) { return type == ScoreType::kInt8 ? "int8" : "e4m3"; }

AttentionPack pack_call(const AttentionProblem& problem, const PackedMemory& memory, ScoreType type) {
  AttentionPack call;
  call.query = problem.query();
  call.key = problem.key();
  call.value = problem.value();
  call.operands = memory.operands();
  call.type = type;
  call.batch = problem.shape().batch;
  call.heads = problem.shape().heads;
  call.queries = call.keys = problem.shape().tokens;
  return call;
}

AttentionPacked attention_call(const AttentionProblem& problem, const AttentionPack& pack, void* workspace) {
  AttentionPacked call;
  call.operands = pack.operands;
  call.type = pack.type;
  call.output = problem.result();
  call.batch = pack.batch;
  call.heads = pack.heads;
  call.queries = pack.queries;
  call.keys = pack.keys;
  call.scale = problem.shape().scale();
  call.log_sum_exp = const_cast<AttentionProblem&>(problem).log_sum_exp().data<float>();
  call.workspace = workspace;
  return call;
}

struct Expected {
  AttentionShape shape;
  AttentionData data;
  ScoreType type;
  double error;  // relative L2, and twice it for the worst tile
  bool centred = false;
};

void hold(Context& c, const Expected& e) {
  AttentionProblem problem(e.shape, e.data);
  const PackedMemory memory(e.shape.batch, e.shape.heads, e.shape.tokens, e.shape.tokens);
  const AttentionWorkspace workspace;
  const DeviceBytes offset(int64_t(e.shape.batch) * e.shape.heads * 128 * 4);
  AttentionPack pack = pack_call(problem, memory, e.type);
  if (e.centred) pack.key_offset = reinterpret_cast<const float*>(offset.data());
  AttentionPacked call = attention_call(problem, pack, workspace.data());
  const auto launch = [&] {
    if (e.centred) {
      if (Status s = attention_key_offset(pack.key, reinterpret_cast<float*>(offset.data()), pack.batch,
                                          pack.heads, pack.keys, c.stream());
          !s.ok()) {
        return s;
      }
    }
    if (Status s = attention_pack(pack, c.stream()); !s.ok()) return s;
    return attention_packed(call, c.stream());
  };
  if (!c.run({&problem.output(), &problem.log_sum_exp()}, launch)) return;
  const auto rows = problem.sample();
  const auto expected = reference::attention(problem.reference(), rows), got = problem.sampled(rows);
  c.expect_within("output", got.output, expected.output, {e.error, -1, 2 * e.error});
}

// In int8 token t of q and k holds 1 at channel t alone, in e4m3 each channel's number within 16 and 448 at channel t; v its token's number
// within 16 and its channel's parity. Each code must lie at the byte that qkv_layout.cuh's text says. The formulas here are that
// text's, not the header's functions.
void layout(Context& c, ScoreType type) {
  constexpr int kTokens = 150, kHeads = 2;
  const bool int8 = type == ScoreType::kInt8;
  const auto channel = [&](int t, int x) {
    return x == t % 128 ? (int8 ? 1.0f : 448.0f) : int8 ? 0.0f : float(x % 16);
  };
  Matrix channels(kTokens, kHeads * 128), tokens(kTokens, kHeads * 128);
  for (int t = 0; t < kTokens; ++t) {
    for (int x = 0; x < kHeads * 128; ++x) {
      channels.at(t, x) = channel(t, x % 128);
      tokens.at(t, x) = float(t % 16 + 1) * (x % 2 ? -1.0f : 1.0f);
    }
  }
  const Input q(channels, Element::kBF16), v(tokens, Element::kBF16);
  const PackedMemory memory(1, kHeads, kTokens, kTokens);
  AttentionPack pack;
  pack.query = pack.key = {const_cast<void*>(q.data()), 0, kHeads * 128, 128};
  pack.value = {const_cast<void*>(v.data()), 0, kHeads * 128, 128};
  pack.operands = memory.operands();
  pack.type = type;
  pack.heads = kHeads;
  pack.queries = pack.keys = kTokens;
  c.expect(attention_pack(pack, c.stream()).ok(), "the launch");
  must(cudaStreamSynchronize(c.stream()), "pack");

  const PackedSizes sizes = attention_packed_sizes(1, kHeads, kTokens, kTokens);
  int wrong = 0;
  for (const uint8_t* codes : {pack.operands.query, pack.operands.key}) {
    const auto host = download(codes, sizes.query);
    for (int s = 0; s < kHeads; ++s) {
      for (int t = 0; t < kTokens; ++t) {
        for (int x = 0; x < 128; ++x) {
          const uint8_t code = host[(size_t(s) * kTokens + t) * 128 + size_t(scored_byte(x))];
          wrong += int8 ? float(int8_t(code)) != 4 * 127 * rotation(x, t % 128)
                        : e4m3_to_float(code) != channel(t, x);
        }
      }
    }
  }
  c.expect(wrong == 0, std::to_string(wrong) + " codes of q or k at another byte");

  const auto host = download(pack.operands.value, sizes.value);
  wrong = 0;
  const int blocks = (kTokens + 15) / 16;
  for (int s = 0; s < kHeads; ++s) {
    for (int t = 0; t < 16 * blocks; ++t) {
      for (int x = 0; x < 128; ++x) {
        const float code = e4m3_to_float(host[size_t(s) * blocks * 2048 + value_byte(t, x)]);
        // 16 · 2⁴ is the largest that fits 448
        const float want = t < kTokens ? 16.0f * float(t % 16 + 1) * (x % 2 ? -1.0f : 1.0f) : 0.0f;
        wrong += code != want;
      }
    }
  }
  c.expect(wrong == 0, std::to_string(wrong) + " codes of v at another byte");

  const auto rows = download(pack.operands.query_rows, sizes.query_rows),
             keys = download(pack.operands.key_blocks, sizes.key_blocks);
  const float* row = reinterpret_cast<const float*>(rows.data());
  const float* key = reinterpret_cast<const float*>(keys.data());
  const float scale = int8 ? 0.25f / 127 : 1.0f;
  const auto differs = [](float a, float b) { return !(std::abs(a - b) <= 1e-5f * std::abs(b)); };
  wrong = 0;
  for (int s = 0; s < kHeads; ++s) {
    for (int t = 0; t < kTokens; ++t) {
      float squares = 0;
      for (int x = 0; x < 128; ++x) squares += channel(t, x) * channel(t, x);
      wrong +=
          differs(row[2 * (s * 192 + t)], scale) + differs(row[2 * (s * 192 + t) + 1], std::sqrt(squares));
      const float* at = key + 4 * (s * 12 + t / 16);
      wrong += differs(at[0], scale) + (at[1] < 0.9999f * std::sqrt(squares)) +
               (at[1] > 1.001f * std::sqrt(squares));
      wrong += at[2] != -4.0f || at[3] != 16.0f;
    }
  }
  c.expect(wrong == 0, std::to_string(wrong) + " scales, norms or exponents wrong");
}

// e4m3 output by given row scales, within wider rows: what the bf16 output is, rounded to codes, and nothing beside it.
void codes(Context& c, const AttentionShape& shape) {
  AttentionProblem problem(shape);
  const PackedMemory memory(shape.batch, shape.heads, shape.tokens, shape.tokens);
  const AttentionWorkspace workspace;
  const AttentionPack pack = pack_call(problem, memory, ScoreType::kInt8);
  AttentionPacked call = attention_call(problem, pack, workspace.data());
  const auto launch = [&] {
    if (Status s = attention_pack(pack, c.stream()); !s.ok()) return s;
    return attention_packed(call, c.stream());
  };
  if (!c.run({&problem.output(), &problem.log_sum_exp()}, launch)) return;
  const Matrix want = problem.output().values();

  const int64_t stride = shape.width() + 64;
  Output output(shape.rows(), shape.width(), Element::kE4M3, stride);
  Matrix scale = uniform(shape.rows(), 1, 9, 0.002f, 0.01f);  // no result is over 0.9
  const Input scales(scale, Element::kF32);
  call.output = {output.data(), shape.tokens * stride, stride, 128};
  call.output_scale = scales.data<float>();
  if (!c.run({&output, &problem.log_sum_exp()}, launch)) return;
  Matrix got = output.values();
  for (int64_t r = 0; r < got.rows; ++r) {
    for (int64_t x = 0; x < got.cols; ++x) got.at(r, x) *= scale.at(r, 0);
  }
  c.expect_within("codes", got, want, {0.028, -1, 0.032});
}

// e4m3 output by the scale that attention finds itself: the power of two whose 448-fold is the least that v cannot exceed.
void own_codes(Context& c, const AttentionShape& shape, float deviation) {
  AttentionProblem problem(shape, {"", 1, 1, deviation});
  const PackedMemory memory(shape.batch, shape.heads, shape.tokens, shape.tokens);
  const AttentionWorkspace workspace;
  const AttentionPack pack = pack_call(problem, memory, ScoreType::kInt8);
  AttentionPacked call = attention_call(problem, pack, workspace.data());
  const auto launch = [&] {
    if (Status s = attention_pack(pack, c.stream()); !s.ok()) return s;
    return attention_packed(call, c.stream());
  };
  if (!c.run({&problem.output(), &problem.log_sum_exp()}, launch)) return;
  const Matrix want = problem.output().values();

  Output output(shape.rows(), shape.width(), Element::kE4M3);
  Output scale(shape.rows(), 1, Element::kF32);
  call.output = {output.data(), int64_t(shape.tokens) * shape.width(), shape.width(), 128};
  call.own_scale = scale.data<float>();
  if (!c.run({&output, &scale, &problem.log_sum_exp()}, launch)) return;
  const Matrix scales = scale.values(), v = problem.value_matrix();
  Matrix got = output.values();
  int wrong = 0;
  for (int64_t b = 0; b < shape.batch; ++b) {
    float largest = 0;
    for (int64_t r = b * shape.tokens; r < (b + 1) * shape.tokens; ++r) {
      for (int64_t x = 0; x < v.cols; ++x) largest = std::max(largest, std::abs(v.at(r, x)));
    }
    const float least = std::exp2(std::ceil(std::log2(largest / 448)));
    for (int64_t r = b * shape.tokens; r < (b + 1) * shape.tokens; ++r) wrong += scales.at(r, 0) != least;
  }
  c.expect(wrong == 0, std::to_string(wrong) + " scales are not the least power of two");
  for (int64_t r = 0; r < got.rows; ++r) {
    for (int64_t x = 0; x < got.cols; ++x) got.at(r, x) *= scales.at(r, 0);
  }
  c.expect_within("codes", got, want, {0.028, -1, 0.032});
}

// Some of the tokens ask, all are keys.
void range(Context& c, const AttentionShape& shape, ScoreType type, int first, int count) {
  AttentionProblem problem(shape);
  const PackedMemory memory(shape.batch, shape.heads, shape.tokens, shape.tokens);
  const AttentionWorkspace workspace;
  const AttentionPack pack = pack_call(problem, memory, type);
  Output output(int64_t(shape.batch) * count, shape.width(), Element::kBF16);
  AttentionPacked call = attention_call(problem, pack, workspace.data());
  call.operands.query += int64_t(first) * 128;
  call.operands.query_rows += int64_t(first) * 2;
  call.queries = count;
  call.query_tokens = shape.tokens;
  call.output = {output.data(), int64_t(count) * shape.width(), shape.width(), 128};
  call.log_sum_exp = nullptr;
  const auto launch = [&] {
    if (Status s = attention_pack(pack, c.stream()); !s.ok()) return s;
    return attention_packed(call, c.stream());
  };
  if (!c.run({&output}, launch)) return;
  std::vector<reference::AttentionRow> rows;
  for (int i = 0; i < 48; ++i) {
    for (int b = 0; b < shape.batch; ++b)
      rows.push_back({b, i % 3 * (shape.heads - 1) / 2, first + i * (count - 1) / 47});
  }
  const Matrix all = output.values();
  Matrix got(int64_t(rows.size()), 128);
  for (size_t r = 0; r < rows.size(); ++r) {
    const auto [batch, head, query] = rows[r];
    for (int x = 0; x < 128; ++x)
      got.at(int64_t(r), x) = all.at(int64_t(batch) * count + query - first, head * 128 + x);
  }
  const double error = type == ScoreType::kInt8 ? 0.041 : 0.058;
  c.expect_within("output", got, reference::attention(problem.reference(), rows).output,
                  {error, -1, 2 * error});
}

// Scores of thousands: no NaN, and each row is what its largest score's v is, or a mean of few.
void extreme(Context& c, ScoreType type, float factor) {
  const AttentionShape shape{1, 2, 700, 128};
  AttentionProblem problem(shape, {"", factor, factor});
  const PackedMemory memory(1, shape.heads, shape.tokens, shape.tokens);
  const AttentionPack pack = pack_call(problem, memory, type);
  const AttentionPacked call = attention_call(problem, pack, nullptr);
  const auto launch = [&] {
    if (Status s = attention_pack(pack, c.stream()); !s.ok()) return s;
    return attention_packed(call, c.stream());
  };
  if (!c.run({&problem.output(), &problem.log_sum_exp()}, launch)) return;
  int bad = 0;
  float largest = 0;
  for (float v : problem.output().values().values) {
    bad += !std::isfinite(v);
    largest = std::max(largest, std::abs(v));
  }
  c.expect(bad == 0, std::to_string(bad) + " results are not finite");
  c.expect(largest > 1.0f && largest < 8.0f,
           "results are values of v or means of them; the largest is " + std::to_string(largest));
}

void refusals(Context& c) {
  AttentionProblem problem({1, 1, 16, 128});
  const PackedMemory memory(1, 1, 16, 16);
  AttentionPack pack = pack_call(problem, memory, ScoreType::kInt8);
  AttentionPacked call = attention_call(problem, pack, nullptr);
  call.keys = 0;
  c.expect_refused("no keys", attention_packed(call, c.stream()), Status::Code::kBadArgument);
  call.keys = 16;
  call.query_tokens = 15;
  c.expect_refused("more queries than tokens", attention_packed(call, c.stream()),
                   Status::Code::kBadArgument);
  pack.key.token_stride = 127;
  c.expect_refused("an odd stride", attention_pack(pack, c.stream()), Status::Code::kBadArgument);
}

const Cases kTests = [](Register& add) {
  for (ScoreType type : {ScoreType::kInt8, ScoreType::kE4M3}) {
    add.test(std::string("attention/packed/layout-") + name_of(type),
             [type](Context& c) { layout(c, type); });
  }
  add.test("attention/packed/refusals", refusals);
  for (const AttentionShape& s : {AttentionShape{2, 3, 191, 128}, {1, 24, 1009, 128}}) {
    add.test("attention/packed/codes-" + s.name(), [s](Context& c) { codes(c, s); });
    add.test("attention/packed/own-codes-" + s.name(), [s](Context& c) { own_codes(c, s, 3.0f); });
  }
  for (ScoreType type : {ScoreType::kInt8, ScoreType::kE4M3}) {
    const bool int8 = type == ScoreType::kInt8;
    const std::string path = std::string("attention/") + name_of(type) + "/";
    for (const AttentionShape& s : {AttentionShape{1, 1, 1, 128},
                                    {2, 3, 77, 128},
                                    {2, 3, 191, 128},
                                    {1, 24, 4607, 128},
                                    {1, 24, 4608, 128},
                                    {1, 24, 4609, 128}}) {
      add.test(path + s.name(), [=](Context& c) { hold(c, {s, {}, type, int8 ? 0.041 : 0.058}); });
    }
    add.test(path + "range", [type](Context& c) {
      range(c, {2, 3, 700, 128}, type, 77, 301);
      range(c, {1, 24, 4608, 128}, type, 512, 2048);
      range(c, {1, 24, 4608, 128}, type, 4544, 64);
    });
    // The error table: 1.1 × the best 8-bit figure known of each row for int8 (1.1 × the unscaled casts' for e4m3).
    const AttentionShape s{1, 4, 4608, 128};
    for (const Expected& e : {Expected{s, {"peaky", 3, 3}, type, int8 ? 0.056 : 0.147},
                              {s, {"mean", 1, 1, 1, 4}, type, int8 ? 0.044 : 0.058, true},
                              {s, {"small-v", 1, 1, 0.001f}, type, int8 ? 0.043 : 0.058},
                              {s, {"large-v", 1, 1, 300}, type, int8 ? 0.043 : 0.058}}) {
      add.test(path + e.data.name, [e](Context& c) { hold(c, e); });
    }
    add.test(path + "outliers",
             [=](Context& c) { hold(c, {s, {"outliers", 1, 1, 1, 0, true}, type, int8 ? 0.07 : 0.176}); });
    for (float factor : {40.0f, 3000.0f}) {
      add.test(path + "extreme-" + std::to_string(int(factor)),
               [=](Context& c) { extreme(c, type, factor); });
    }
  }
};

enum class Bench { kPack, kAttend, kAttendToCodes, kAttendToOwnCodes };

void bench(Context& c, ScoreType type, int tokens, Bench what) {
  const AttentionShape s{1, 24, tokens, 128};
  const int64_t elements = int64_t(s.rows()) * s.width();
  const double bytes = double(elements) * (what == Bench::kPack ? 9 : what == Bench::kAttend ? 5 : 4);
  const int sets = c.rotation(bytes);
  const AttentionProblem strides(s);
  const AttentionWorkspace workspace;
  const Input scales(Matrix(tokens, 1, 0.01f), Element::kF32);
  Output own(tokens, 1, Element::kF32);
  std::vector<DeviceBytes> memory;
  std::vector<PackedMemory> packed;
  std::vector<AttentionPack> packs;
  for (int i = 0; i < sets; ++i) {
    for (int j = 0; j < 4; ++j) {
      memory.emplace_back(elements * 2);
      fill_normal(memory.back().data(), elements, Element::kBF16, uint64_t(4 * i + j));
    }
    packed.emplace_back(1, s.heads, tokens, tokens);
    AttentionPack pack = pack_call(strides, packed.back(), type);
    pack.query = strides.tensor(memory[size_t(4 * i)].data());
    pack.key = strides.tensor(memory[size_t(4 * i + 1)].data());
    pack.value = strides.tensor(memory[size_t(4 * i + 2)].data());
    packs.push_back(pack);
    c.expect(attention_pack(pack, c.stream()).ok(), "pack");
  }
  if (what == Bench::kPack) {
    c.measure({bytes}, sets, [&](int set) { return attention_pack(packs[size_t(set)], c.stream()); });
    return;
  }
  const auto launch = [&](int set) {
    AttentionPacked call = attention_call(strides, packs[size_t(set)], workspace.data());
    call.output = strides.tensor(memory[size_t(4 * set + 3)].data());
    call.log_sum_exp = nullptr;
    if (what == Bench::kAttendToCodes) call.output_scale = scales.data<float>();
    if (what == Bench::kAttendToOwnCodes) call.own_scale = own.data<float>();
    return attention_packed(call, c.stream());
  };
  c.measure({bytes, 4.0 * s.heads * double(tokens) * tokens * 128, 1979}, sets, launch);
  if (what != Bench::kAttend) return;
  int bad = 0;
  for (int i = 0; i < sets; ++i) {
    const auto host =
        download(static_cast<const uint8_t*>(memory[size_t(4 * i + 3)].data()), size_t(1) << 20);
    for (size_t at = 1; at < host.size(); at += 2) bad += (host[at] & 0x7f) == 0x7f;  // or beyond 2^126
  }
  c.expect(bad == 0, std::to_string(bad) + " results are not finite");
}

const Cases kBenches = [](Register& add) {
  for (int tokens : {4352, 4608, 8704}) {
    for (ScoreType type : {ScoreType::kInt8, ScoreType::kE4M3}) {
      add.bench(std::string("attention/") + name_of(type) + "/" + std::to_string(tokens),
                [=](Context& c) { bench(c, type, tokens, Bench::kAttend); });
    }
  }
  add.bench("attention/int8-to-codes/4608",
            [](Context& c) { bench(c, ScoreType::kInt8, 4608, Bench::kAttendToCodes); });
  add.bench("attention/int8-to-own-codes/4608",
            [](Context& c) { bench(c, ScoreType::kInt8, 4608, Bench::kAttendToOwnCodes); });
  add.bench("attention/pack/4608", [](Context& c) { bench(c, ScoreType::kInt8, 4608, Bench::kPack); });
};

}  // namespace
}  // namespace flux::testing
