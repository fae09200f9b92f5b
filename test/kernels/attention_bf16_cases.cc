// bf16 attention: every kernel of the family against the reference, on ragged counts, masks, biases and partial keys.
#include "attention_problem.h"

namespace flux::testing {
namespace {

using namespace kernels;

// P rounded to bf16 adds 1.7e-3 to the store's; a sum of many rounds the figure off at 2.4e-3.
constexpr Tolerance kError{3e-3, -1, 6e-3};
constexpr Tolerance kLogSumExp{1e-4, 2e-3, -1};

using Launch = Status (*)(const AttentionBf16&, cudaStream_t);

void hold(Context& c, AttentionProblem& problem, const AttentionBf16& call, const reference::Attention& want,
          Launch launch) {
  if (!c.run({&problem.output(), &problem.log_sum_exp()}, [&] { return launch(call, c.stream()); })) return;
  const auto rows = problem.sample();
  const auto expected = reference::attention(want, rows), got = problem.sampled(rows);
  c.expect_within("output", got.output, expected.output, kError);
  c.expect_within("log-sum-exp", got.log_sum_exp, expected.log_sum_exp, kLogSumExp);
}

void plain(Context& c, const AttentionShape& shape, bool workspace, Launch launch) {
  AttentionProblem problem(shape);
  const AttentionWorkspace memory;
  AttentionBf16 call = problem.bf16();
  if (workspace) call.workspace = memory.data();
  hold(c, problem, call, problem.reference(), launch);
}

void causal(Context& c, const AttentionShape& shape, Launch launch) {
  AttentionProblem problem(shape);
  AttentionBf16 call = problem.bf16();
  reference::Attention want = problem.reference();
  call.causal = want.causal = true;
  hold(c, problem, call, want, launch);
}

// T5's: scale 1, and a bias of the distance alone (a vector a head) or a whole table.
void biased(Context& c, const AttentionShape& shape, bool by_distance, Launch launch) {
  AttentionProblem problem(shape, {"", 0.3f, 0.3f});
  AttentionBf16 call = problem.bf16();
  reference::Attention want = problem.reference();
  const int64_t t = shape.tokens, per_head = by_distance ? 2 * t - 1 : t * t;
  const Matrix table = normal(shape.heads, per_head, 31, 2.0f);
  const Input device(table, Element::kF32);
  const int64_t zero = by_distance ? t - 1 : 0;  // where query 0's row begins
  call.scale = 1.0f;
  want.scale = 1.0;
  call.bias = {device.data<float>() + zero, per_head, by_distance ? -1 : t};
  want.bias = table.values.data() + zero;
  want.bias_head_stride = per_head;
  want.bias_row_stride = call.bias.row_stride;
  hold(c, problem, call, want, launch);
}

// q, k and v as parts of one [tokens][3][heads][head_dim] projection.
void fused_projection(Context& c) {
  const AttentionShape shape{2, 3, 200, 128};
  AttentionProblem problem(shape);
  const int64_t width = shape.width();
  const Matrix joint = rounded_to(normal(shape.rows(), 3 * width, 41), Element::kBF16);
  Matrix part[3];
  for (int i = 0; i < 3; ++i) {
    part[i] = Matrix(shape.rows(), width);
    for (int64_t r = 0; r < shape.rows(); ++r) {
      for (int64_t x = 0; x < width; ++x) part[i].at(r, x) = joint.at(r, i * width + x);
    }
  }
  const Input device(joint, Element::kBF16);
  AttentionBf16 call = problem.bf16();
  AttentionTensor* tensors[3] = {&call.query, &call.key, &call.value};
  for (int i = 0; i < 3; ++i) {
    *tensors[i] = {const_cast<uint16_t*>(device.data<uint16_t>()) + i * width, shape.tokens * 3 * width,
                   3 * width, shape.head_dim};
  }
  reference::Attention want = problem.reference();
  want.query = &part[0];
  want.key = &part[1];
  want.value = &part[2];
  hold(c, problem, call, want, attention_bf16);
}

// One constant v a token shows which keys a row attends to; equal q and k give every key the same weight.
void equal_weights(Context& c) {
  const AttentionShape shape{1, 2, 333, 128};
  AttentionProblem problem(shape, {"", 0.0f, 1.0f});
  AttentionBf16 call = problem.bf16();
  hold(c, problem, call, problem.reference(), attention_bf16);
}

// Two halves of the keys, each on its own, joined by their log-sum-exps: the whole.
void merged(Context& c) {
  const AttentionShape shape{1, 4, 700, 128};
  AttentionProblem problem(shape);
  const int64_t rows = int64_t(shape.heads) * shape.tokens, elements = rows * shape.head_dim;
  DeviceBytes parts(2 * elements * 2), sums(2 * rows * 4);
  const auto launch = [&] {
    for (int part = 0; part < 2; ++part) {
      AttentionBf16 call = problem.bf16();
      const int first = part == 0 ? 0 : 256;
      call.keys = part == 0 ? 256 : shape.tokens - 256;
      call.key.data = static_cast<uint16_t*>(call.key.data) + first * shape.width();
      call.value.data = static_cast<uint16_t*>(call.value.data) + first * shape.width();
      // [heads][queries][head_dim], as merging wants its rows
      call.output = {parts.data() + part * elements * 2, elements, shape.head_dim,
                     int64_t(shape.tokens) * shape.head_dim};
      call.log_sum_exp = reinterpret_cast<float*>(sums.data()) + part * rows;
      if (Status s = attention_bf16(call, c.stream()); !s.ok()) return s;
    }
    AttentionMerge merge;
    merge.outputs = parts.data();
    merge.log_sum_exps = reinterpret_cast<const float*>(sums.data());
    merge.output = problem.output().data();
    merge.log_sum_exp = problem.log_sum_exp().data<float>();
    merge.parts = 2;
    merge.width = shape.head_dim;
    merge.rows = rows;
    return attention_merge(merge, c.stream());
  };
  if (!c.run({&problem.output(), &problem.log_sum_exp()}, launch)) return;
  const auto sample = problem.sample();
  const auto expected = reference::attention(problem.reference(), sample);
  const Matrix all = problem.output().values(), lse = problem.log_sum_exp().values();
  Matrix output(expected.output.rows, shape.head_dim), sum(expected.output.rows, 1);
  for (int64_t r = 0; r < output.rows; ++r) {
    const auto& row = sample[size_t(r)];
    const int64_t at = (int64_t(row.head) * shape.tokens + row.query) * shape.head_dim;
    for (int x = 0; x < shape.head_dim; ++x) output.at(r, x) = all.values[size_t(at + x)];
    sum.at(r, 0) = lse.at(row.head, row.query);
  }
  c.expect_within("output", output, expected.output, {4e-3, -1, -1});  // the parts' own rounding comes on top
  c.expect_within("log-sum-exp", sum, expected.log_sum_exp, kLogSumExp);
}

void refusals(Context& c) {
  AttentionProblem problem({1, 1, 16, 128});
  AttentionBf16 call = problem.bf16();
  call.keys = 0;
  c.expect_refused("no keys", attention_bf16(call, c.stream()), Status::Code::kBadArgument);
  call = problem.bf16();
  call.head_dim = 100;
  c.expect_refused("head_dim 100", attention_bf16(call, c.stream()), Status::Code::kUnsupported);
  call = problem.bf16();
  call.key.token_stride = 127;
  c.expect_refused("an odd stride", attention_bf16(call, c.stream()), Status::Code::kBadArgument);
  call = problem.bf16();
  call.causal = true;
  call.keys = 8;
  c.expect_refused("causal with other keys", attention_bf16(call, c.stream()), Status::Code::kBadArgument);
  call = problem.bf16();
  call.scale = 0.0f;
  c.expect_refused("scale 0", attention_bf16(call, c.stream()), Status::Code::kBadArgument);
}

const Cases kTests = [](Register& add) {
  for (const auto& [path, launch] : {std::pair<std::string, Launch>{"attention/bf16/", attention_bf16},
                                     {"attention/portable/", attention_bf16_portable}}) {
    for (const AttentionShape& s : {AttentionShape{1, 1, 1, 128},
                                    {2, 3, 77, 128},
                                    {2, 3, 191, 128},
                                    {1, 24, 600, 128},
                                    {1, 2, 77, 64},
                                    {2, 5, 513, 64},
                                    {1, 1, 1, 512},
                                    {2, 2, 77, 512},
                                    {1, 1, 191, 512},
                                    {1, 1, 1000, 512}}) {
      add.test(path + s.name(), [s, launch](Context& c) { plain(c, s, false, launch); });
    }
    for (const AttentionShape& s : {AttentionShape{2, 2, 77, 16}, {1, 1, 1024, 48}, {1, 3, 33, 120}}) {
      add.test(path + s.name() + "/narrow", [s, launch](Context& c) { plain(c, s, false, launch); });
      add.test(path + s.name() + "/narrow-causal", [s, launch](Context& c) { causal(c, s, launch); });
      add.test(path + s.name() + "/narrow-bias", [s, launch](Context& c) { biased(c, s, false, launch); });
    }
    for (const AttentionShape& s : {AttentionShape{1, 12, 77, 64}, {2, 2, 300, 64}, {1, 2, 150, 128}}) {
      add.test(path + s.name() + "/causal", [s, launch](Context& c) { causal(c, s, launch); });
    }
    for (const AttentionShape& s : {AttentionShape{1, 4, 512, 64}, {2, 2, 77, 64}, {1, 2, 90, 128}}) {
      add.test(path + s.name() + "/bias", [s, launch](Context& c) { biased(c, s, false, launch); });
      add.test(path + s.name() + "/bias-by-distance",
               [s, launch](Context& c) { biased(c, s, true, launch); });
    }
  }
  for (int tokens : {4607, 4608, 4609}) {
    const AttentionShape s{1, 24, tokens, 128};
    add.test("attention/bf16/" + s.name(), [s](Context& c) { plain(c, s, false, attention_bf16); });
    add.test("attention/bf16/" + s.name() + "/workspace",
             [s](Context& c) { plain(c, s, true, attention_bf16); });
  }
  add.test("attention/bf16/fused-projection", fused_projection);
  add.test("attention/bf16/equal-weights", equal_weights);
  add.test("attention/merge", merged);
  add.test("attention/bf16/refusals", refusals);
};

struct BenchShape {
  const char* name;
  AttentionShape shape;
  bool causal = false, bias = false, portable = false;
};

void bench(Context& c, const BenchShape& b) {
  const AttentionShape& s = b.shape;
  const int64_t elements = int64_t(s.rows()) * s.width();
  const double bytes = double(elements) * 8;
  const int sets = c.rotation(bytes);
  std::vector<DeviceBytes> memory;
  for (int i = 0; i < 4 * sets; ++i) {
    memory.emplace_back(elements * 2);
    fill_normal(memory.back().data(), elements, Element::kBF16, uint64_t(i));
  }
  const AttentionWorkspace workspace;
  const Input table(normal(s.heads, 2 * s.tokens - 1, 32), Element::kF32);
  const AttentionProblem strides(AttentionShape{1, s.heads, s.tokens, s.head_dim});
  const auto launch = [&](int set) {
    AttentionBf16 call = strides.bf16();
    call.query = strides.tensor(memory[size_t(4 * set)].data());
    call.key = strides.tensor(memory[size_t(4 * set + 1)].data());
    call.value = strides.tensor(memory[size_t(4 * set + 2)].data());
    call.output = strides.tensor(memory[size_t(4 * set + 3)].data());
    call.log_sum_exp = nullptr;
    call.workspace = workspace.data();
    call.causal = b.causal;
    if (b.bias) call.bias = {table.data<float>() + s.tokens - 1, 2 * s.tokens - 1, -1};
    return b.portable ? attention_bf16_portable(call, c.stream()) : attention_bf16(call, c.stream());
  };
  const double flops = 4.0 * s.heads * double(s.tokens) * s.tokens * s.head_dim;
  c.measure({bytes, flops, 989}, sets, launch);
}

// Two halves of the keys of FLUX's attention at 4608 tokens.
void bench_merge(Context& c) {
  constexpr int64_t kRows = 24 * 4608, kWidth = 128, kParts = 2;
  const double bytes = double(kRows) * (kWidth * 2 * (kParts + 1) + 4 * kParts);
  const int sets = c.rotation(bytes);
  std::vector<DeviceBytes> parts, sums, outputs;
  for (int i = 0; i < sets; ++i) {
    parts.emplace_back(kParts * kRows * kWidth * 2);
    sums.emplace_back(kParts * kRows * 4);
    outputs.emplace_back(kRows * kWidth * 2);
    fill_normal(parts.back().data(), kParts * kRows * kWidth, Element::kBF16, uint64_t(2 * i));
    fill_normal(sums.back().data(), kParts * kRows, Element::kF32, uint64_t(2 * i + 1));
  }
  c.measure({bytes}, sets, [&](int set) {
    AttentionMerge merge;
    merge.outputs = parts[size_t(set)].data();
    merge.log_sum_exps = reinterpret_cast<const float*>(sums[size_t(set)].data());
    merge.output = outputs[size_t(set)].data();
    merge.parts = kParts;
    merge.width = kWidth;
    merge.rows = kRows;
    return attention_merge(merge, c.stream());
  });
}

const Cases kBenches = [](Register& add) {
  for (const BenchShape& b : {BenchShape{"4608", {1, 24, 4608, 128}},
                              {"8704", {1, 24, 8704, 128}},
                              {"4352", {1, 24, 4352, 128}},
                              {"t5", {1, 64, 512, 64}, false, true},
                              {"clip", {1, 12, 77, 64}, true},
                              {"vae", {1, 1, 16384, 512}}}) {
    add.bench(std::string("attention/bf16/") + b.name, [b](Context& c) { bench(c, b); });
  }
  for (const BenchShape& b : {BenchShape{"4608", {1, 24, 4608, 128}, false, false, true},
                              {"t5", {1, 64, 512, 64}, false, true, true},
                              {"vae", {1, 1, 16384, 512}, false, false, true}}) {
    add.bench(std::string("attention/portable/") + b.name, [b](Context& c) { bench(c, b); });
  }
  add.bench("attention/merge/2x4608", bench_merge);
};

}  // namespace
}  // namespace flux::testing
