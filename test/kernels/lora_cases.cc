// Low-rank adapters: down_project, and gemm_hopper's branch, against products in double precision of what they read.
#include <cmath>

#include "head_operands.h"
#include "lora/lora.h"
#include "lora_operands.h"
#include "portable/portable.h"
#include "quantise/quantise.h"

namespace flux::testing {
namespace {

using kernels::Activation;
using kernels::DownGroup;
using kernels::DownProjection;
using kernels::Gemm;
using kernels::GemmEpilogue;
using kernels::GemmGroup;

using GemmPath = Status (*)(const Gemm&, cudaStream_t);
using DownPath = Status (*)(const DownProjection&, cudaStream_t);

struct Path {
  const char* name;
  GemmPath gemm;
  DownPath down;
};
constexpr Path kPaths[] = {{"hopper", kernels::gemm_hopper, kernels::down_project},
                           {"portable", kernels::gemm_portable, kernels::down_project_portable}};

// A group of x [batches·rows, K], its rows `gap` elements further apart than they need to be.
struct DownCase {
  DownCase(const Matrix& x_values, const Matrix& down_values, const Matrix& scale_values, Element type,
           int64_t gap)
      : x(x_values, type, x_values.cols + gap),
        down(down_values, type),
        scale(scale_values),
        device_scale(scale, Element::kF32) {
    want = reference::product({x.seen, down.seen, {}, scale.values, {}});
  }
  DeviceOperand x, down;
  Matrix scale, want;
  Input device_scale;
};

void test_down(Context& c, const Path& path, Element type, const GemmShape& shape, int64_t batches,
               int64_t text_rows) {
  const int64_t gap = 48;
  std::vector<std::unique_ptr<DownCase>> cases;
  std::vector<std::unique_ptr<Output>> outputs;
  std::vector<DownGroup> groups;
  for (const int64_t rows : {shape.m, text_rows}) {
    if (rows == 0) continue;
    const uint64_t seed = 1 + 10 * cases.size();
    cases.push_back(std::make_unique<DownCase>(normal(batches * rows, shape.k, seed),
                                               normal(shape.n, shape.k, seed + 1, 0.05f),
                                               normal(1, shape.n, seed + 2), type, gap));
    outputs.push_back(std::make_unique<Output>(batches * rows, shape.n, Element::kBF16, shape.n + 16));
    DownGroup group;
    group.batches = batches;
    group.rows = rows;
    group.x = {cases.back()->x.data->data(), shape.k + gap, rows * (shape.k + gap)};
    group.down = cases.back()->down.data->data();
    group.scale = cases.back()->device_scale.data<float>();
    group.low = {outputs.back()->data(), shape.n + 16, rows * (shape.n + 16)};
    groups.push_back(group);
  }
  DownProjection call{type, shape.k, shape.n, groups.data(), int(groups.size())};
  const auto launch = [&] { return path.down(call, c.stream()); };
  if (groups.size() == 1 ? !c.run({outputs[0].get()}, launch)
                         : !c.run({outputs[0].get(), outputs[1].get()}, launch))
    return;
  for (size_t i = 0; i < groups.size(); ++i)
    c.expect_within(i == 0 ? "image" : "text", outputs[i]->values(), cases[i]->want, kAfterBf16);
}

// Each rank picks one element of the row; small integers are exact.
void test_down_layout(Context& c, const Path& path, Element type, const GemmShape& shape) {
  Matrix x(shape.m, shape.k), down(shape.n, shape.k), scale(1, shape.n);
  for (int64_t m = 0; m < shape.m; ++m) {
    for (int64_t k = 0; k < shape.k; ++k) x.at(m, k) = float((m * 7 + k * 4 + m * k % 11) % 15) - 7;
    x.at(m, m % shape.k) = 7;
  }
  for (int64_t n = 0; n < shape.n; ++n) {
    down.at(n, n * 5 % shape.k) = 7;  // every row's scale is a power of two
    scale.at(0, n) = float(1 << n % 5);
  }
  DownCase one(x, down, scale, type, 0);
  Output low(shape.m, shape.n, Element::kBF16);
  DownGroup group;
  group.rows = shape.m;
  group.x = {one.x.data->data(), shape.k, 0};
  group.down = one.down.data->data();
  group.scale = one.device_scale.data<float>();
  group.low = {low.data(), shape.n, 0};
  DownProjection call{type, shape.k, shape.n, &group, 1};
  if (c.run({&low}, [&] { return path.down(call, c.stream()); }))
    c.expect_within("low", low.values(), one.want, {0, 0, 0});
}

Gemm call_of(Element operand, const GemmShape& shape, const std::vector<GemmGroup>& groups, int64_t rank,
             const std::vector<int64_t>& begins) {
  Gemm call;
  call.operand = operand;
  call.n = shape.n;
  call.k = shape.k;
  call.groups = groups.data();
  call.group_count = int(groups.size());
  call.low_rank = rank;
  call.low_parts = int(begins.size());
  std::copy(begins.begin(), begins.end(), call.low_begin);
  return call;
}

void test_linear(Context& c, const Path& path, Element operand, const GemmShape& shape, int64_t rank,
                 const std::vector<int64_t>& begins, Activation activation) {
  const LowCase one(shape, operand, rank, begins, 1);
  Output y(shape.m, shape.n, Element::kBF16);
  std::vector<GemmGroup> groups{one.group()};
  groups[0].c = {y.data(), shape.n, 0};
  Gemm call = call_of(operand, shape, groups, rank, begins);
  call.activation = activation;
  if (c.run({&y}, [&] { return path.gemm(call, c.stream()); }))
    c.expect_within("y", y.values(), reference::activated(one.product.x, activation), kAfterBf16);
}

// Every column of up picks one rank, powers of two by column; low counts up: a misplaced rank, part, row or column shows.
void test_layout(Context& c, const Path& path, Element operand, const GemmShape& shape, int64_t rank,
                 const std::vector<int64_t>& begins) {
  LowCase one(shape, operand, rank, begins, 1);
  Matrix a(shape.m, shape.k), w(shape.n, shape.k), bias(1, shape.n);
  for (int64_t m = 0; m < shape.m; ++m) a.at(m, m % shape.k) = 7;
  for (int64_t n = 0; n < shape.n; ++n) w.at(n, n % shape.k) = 7;
  const ProductCase base(a, w, bias, operand);
  Matrix low(shape.m, rank * int64_t(begins.size())), up(shape.n, rank), want = base.x;
  for (int64_t m = 0; m < low.rows; ++m)
    for (int64_t r = 0; r < low.cols; ++r) low.at(m, r) = float((m * 5 + r * 3 + m * r % 7) % 13) - 6;
  for (int64_t n = 0; n < shape.n; ++n) {
    const float value = float(1 << n % 3);
    up.at(n, n * 7 % rank) = value;
    int64_t part = 0;
    while (part + 1 < int64_t(begins.size()) && n >= begins[size_t(part + 1)]) ++part;
    for (int64_t m = 0; m < shape.m; ++m) {
      const float scales =
          operand == Element::kE4M3 ? base.a.scale[size_t(m)] * base.w.scale[size_t(n)] : 1.0f;
      want.at(m, n) += scales * value * low.at(m, part * rank + n * 7 % rank);
    }
  }
  const Input device_low(low, Element::kBF16), device_up(up, Element::kBF16);
  Output y(shape.m, shape.n, Element::kBF16);
  std::vector<GemmGroup> groups{base.group()};
  groups[0].c = {y.data(), shape.n, 0};
  groups[0].low = {device_low.data(), low.cols, 0};
  groups[0].up = device_up.data();
  const Gemm call = call_of(operand, shape, groups, rank, begins);
  if (c.run({&y}, [&] { return path.gemm(call, c.stream()); }))
    c.expect_within("y", y.values(), rounded_to(want, Element::kBF16), {0, 0, 0});
}

// Codes with a scale from the bound, which holds the branch too: their error stays that of rounding to three bits.
void test_codes(Context& c, const Path& path, const GemmShape& shape, int64_t rank) {
  const LowCase one(shape, Element::kE4M3, rank, {0}, 1);
  const Matrix bounds = one.bounds();
  const Input device_bounds(bounds, Element::kF32);
  Output codes(shape.m, shape.n, Element::kE4M3), scale(shape.m, 1, Element::kF32);
  std::vector<GemmGroup> groups{one.group()};
  groups[0].c = {codes.data(), shape.n, 0};
  groups[0].c_scale = scale.data<float>();
  groups[0].bounds = device_bounds.data<float>();
  Gemm call = call_of(Element::kE4M3, shape, groups, rank, {0});
  call.output = Element::kE4M3;
  call.activation = Activation::kGelu;
  if (!c.run({&codes, &scale}, [&] { return path.gemm(call, c.stream()); })) return;
  Matrix got = codes.values(), want_scale(shape.m, 1);
  for (int64_t m = 0; m < shape.m; ++m) {
    want_scale.at(m, 0) = (one.product.a.scale[size_t(m)] * bounds.at(0, 0) + bounds.at(0, 1)) / 448.0f;
    for (int64_t n = 0; n < shape.n; ++n) got.at(m, n) *= want_scale.at(m, 0);
  }
  c.expect_within("scale", scale.values(), want_scale, {1e-6, -1, -1});
  c.expect_within("codes", got, reference::activated(one.product.x, Activation::kGelu), {0.03, -1, 0.033});
}

// Image and text with weights and branches of their own, two batches, in place.
void test_gate_residual(Context& c, const Path& path, Element operand, int64_t rank) {
  constexpr int64_t kBatches = 2, kText = 70;
  const GemmShape image{333, 768, 1040};
  const int64_t tokens = kText + image.m;
  const Matrix residual = rounded_to(normal(kBatches * tokens, image.n, 21), Element::kBF16);
  const Matrix gate = normal(2 * kBatches, image.n, 22);
  const Input device_gate(gate, Element::kF32);
  Output y(kBatches * tokens, image.n, Element::kBF16);
  y.starts_as(residual);
  Matrix want = residual;
  std::vector<std::unique_ptr<LowCase>> cases;
  std::vector<GemmGroup> groups;
  for (int part = 0; part < 2; ++part) {
    const int64_t first = part == 0 ? kText : 0, rows = part == 0 ? image.m : kText;
    cases.push_back(std::make_unique<LowCase>(GemmShape{kBatches * rows, image.n, image.k}, operand, rank,
                                              std::vector<int64_t>{0}, 23 + 10 * part));
    GemmGroup group = cases.back()->group(kBatches);
    uint16_t* begin = y.data<uint16_t>() + first * image.n;
    group.c = {begin, image.n, tokens * image.n};
    group.residual = {begin, image.n, tokens * image.n};
    group.gate = device_gate.data<float>() + part * kBatches * image.n;
    group.gate_batch_stride = image.n;
    groups.push_back(group);
    for (int64_t batch = 0; batch < kBatches; ++batch) {
      for (int64_t row = 0; row < rows; ++row) {
        for (int64_t n = 0; n < image.n; ++n) {
          want.at(batch * tokens + first + row, n) +=
              gate.at(part * kBatches + batch, n) * cases.back()->product.x.at(batch * rows + row, n);
        }
      }
    }
  }
  Gemm call = call_of(operand, image, groups, rank, {0});
  call.epilogue = GemmEpilogue::kGateResidual;
  if (c.run({&y}, [&] { return path.gemm(call, c.stream()); }))
    c.expect_within("y", y.values(), want, kAfterBf16);
}

void test_qkv(Context& c, const Path& path, Element operand, int heads, int64_t mlp, int64_t batches,
              int64_t tokens, int64_t rank) {
  const int64_t hidden = heads * 128;
  const GemmShape shape{batches * tokens, 3 * hidden + mlp, 400};
  std::vector<int64_t> begins{0, hidden, 2 * hidden};
  if (mlp > 0) begins.push_back(3 * hidden);
  const LowCase one(shape, operand, rank, begins, 31);
  const HeadOperands operands(tokens, 35);
  Output qkv(shape.m, 3 * hidden, Element::kBF16), up(shape.m, std::max<int64_t>(mlp, 16), Element::kBF16);
  std::vector<GemmGroup> groups{one.group(batches)};
  operands.bind(groups[0]);
  groups[0].c = {qkv.data(), 3 * hidden, tokens * 3 * hidden};
  groups[0].mlp = {up.data(), mlp, tokens * mlp};
  Gemm call = call_of(operand, shape, groups, rank, begins);
  call.epilogue = GemmEpilogue::kQkv;
  call.activation = Activation::kGelu;
  call.heads = heads;
  Matrix want = columns_of(one.product.x, 0, 3 * hidden);
  reference::normalise_and_rotate(want, heads, operands.norm_q.values, operands.norm_k.values,
                                  operands.rope.values, call.eps);
  const auto launch = [&] { return path.gemm(call, c.stream()); };
  if (mlp == 0) {
    if (c.run({&qkv}, launch)) c.expect_within("q, k, v", qkv.values(), want, kAfterBf16);
    return;
  }
  if (!c.run({&qkv, &up}, launch)) return;
  c.expect_within("q, k, v", qkv.values(), want, kAfterBf16);
  c.expect_within("mlp", up.values(),
                  reference::activated(columns_of(one.product.x, 3 * hidden, mlp), Activation::kGelu),
                  kAfterBf16);
}

// Zeros in up: bit for bit what there is without a branch.
void test_zeros(Context& c, const Path& path, Element operand) {
  const GemmShape shape{300, 3072, 528};
  LowCase one(shape, operand, 32, {0}, 51);
  const Input zeros(Matrix(shape.n, 32), Element::kBF16);
  Output with(shape.m, shape.n, Element::kBF16), without(shape.m, shape.n, Element::kBF16);
  std::vector<GemmGroup> groups{one.group()};
  groups[0].up = zeros.data();
  groups[0].c = {with.data(), shape.n, 0};
  Gemm call = call_of(operand, shape, groups, 32, {0});
  if (!c.run({&with}, [&] { return path.gemm(call, c.stream()); })) return;
  groups[0].c = {without.data(), shape.n, 0};
  call.low_rank = 0;
  if (!c.run({&without}, [&] { return path.gemm(call, c.stream()); })) return;
  c.expect(with.bytes() == without.bytes(), "a branch of zeros changes the result");
}

// x quantised, its projection and the product in turn, again and again from poison: the product that waits for low alone gives the bits
// of the one that waits for all.
void test_low_is_next(Context& c, const Path& path, GemmEpilogue epilogue, const GemmShape& shape,
                      int64_t rank) {
  constexpr int kTurns = 20;
  const bool heads = epilogue == GemmEpilogue::kQkv;
  const std::vector<int64_t> begins =
      heads ? std::vector<int64_t>{0, 512, 1024, 1536} : std::vector<int64_t>{0};
  const int64_t ranks = rank * int64_t(begins.size());
  const Input x(rounded_to(normal(shape.m, shape.k, 91), Element::kBF16), Element::kBF16);
  const DeviceOperand w(normal(shape.n, shape.k, 92, 0.02f), Element::kE4M3);
  const DeviceOperand down(normal(ranks, shape.k, 93, 0.02f), Element::kE4M3);
  const Input up(rounded_to(normal(shape.n, rank, 94, 5000.0f), Element::kBF16), Element::kBF16);
  const Input down_scale(Matrix(1, ranks, 1e-4f), Element::kF32);
  const HeadOperands operands(shape.m, 95);
  Output codes(shape.m, shape.k, Element::kE4M3), scale(shape.m, 1, Element::kF32);
  Output low(shape.m, ranks, Element::kBF16), y(shape.m, shape.n, Element::kBF16);
  kernels::QuantiseRows quantise;
  quantise.x = x.data();
  quantise.x_row_stride = shape.k;
  quantise.width = int(shape.k);
  quantise.codes = codes.data<uint8_t>();
  quantise.codes_row_stride = shape.k;
  quantise.scale = scale.data<float>();
  quantise.rows = int(shape.m);
  DownGroup from;
  from.rows = shape.m;
  from.x = {codes.data(), shape.k, 0};
  from.down = down.data->data();
  from.scale = down_scale.data<float>();
  from.low = {low.data(), ranks, 0};
  GemmGroup group;
  group.rows = shape.m;
  group.a = {codes.data(), shape.k, 0};
  group.a_scale = scale.data<float>();
  group.w = w.data->data();
  group.w_row_stride = shape.k;
  group.w_scale = w.device_scale();
  group.low = {low.data(), ranks, 0};
  group.up = up.data();
  group.c = {y.data(), shape.n, 0};
  group.residual = {y.data(), shape.n, 0};
  operands.bind(group);
  group.mlp = {y.data<uint16_t>() + 1536, shape.n, 0};
  std::vector<GemmGroup> groups{group};
  Gemm call = call_of(Element::kE4M3, shape, groups, rank, begins);
  call.epilogue = epilogue;
  call.activation = heads ? Activation::kGelu : Activation::kNone;
  call.heads = heads ? 4 : 0;
  const auto poison = [&](const Output& output, int64_t bytes) {
    return Status::from_cuda(cudaMemsetAsync(output.data(), 0xff, size_t(bytes), c.stream()), "poison");
  };
  const auto launch = [&] {
    Status status;
    for (int turn = 0; turn < kTurns && status.ok(); ++turn) {
      status = poison(codes, shape.m * shape.k);
      if (status.ok()) status = poison(scale, shape.m * 4);
      if (status.ok()) status = poison(low, shape.m * ranks * 2);
      if (status.ok()) status = kernels::quantise_rows(quantise, c.stream());
      if (status.ok()) status = path.down({Element::kE4M3, shape.k, ranks, &from, 1}, c.stream());
      if (status.ok()) status = path.gemm(call, c.stream());
    }
    return status;
  };
  if (epilogue == GemmEpilogue::kGateResidual) y.starts_as(Matrix(shape.m, shape.n, 1.0f));
  std::vector<uint8_t> want;
  for (const bool next : {false, true}) {
    call.low_is_next = next;
    if (!c.run({&codes, &scale, &low, &y}, launch)) return;
    if (!next) want = y.bytes();
  }
  c.expect(y.bytes() == want, "the product read something before it was there");
  for (const float value : y.values().values)
    if (!std::isfinite(value)) return c.expect(false, "a result is not finite");
}

void test_branch_bounds(Context& c, Element type, const std::vector<int64_t>& begins) {
  const int64_t n = 1040, k = 400, rank = 48, parts = int64_t(begins.size());
  const DeviceOperand device_down(normal(parts * rank, k, 71, 0.1f), type);
  const Matrix& down = device_down.seen;
  const Matrix up = rounded_to(normal(n, rank, 72, 50.0f), Element::kBF16);
  const Matrix scale = normal(1, parts * rank, 73), w_scale = uniform(1, n, 74, 1e-4f, 2e-4f);
  Matrix base(1, 2, 3.0f);
  base.at(0, 1) = 0.25f;
  double most = 0;
  for (int64_t row = 0; row < n; ++row) {
    int64_t part = 0;
    while (part + 1 < parts && row >= begins[size_t(part + 1)]) ++part;
    double sum = 0;
    for (int64_t r = part * rank; r < (part + 1) * rank; ++r) {
      double squares = 0;
      for (int64_t i = 0; i < k; ++i) squares += double(down.at(r, i)) * down.at(r, i);
      sum += std::sqrt(squares) * std::abs(double(scale.at(0, r)) * up.at(row, r - part * rank));
    }
    most = std::max(most, sum * w_scale.at(0, row));
  }
  Matrix want = base;
  want.at(0, 0) += float(448 * std::sqrt(double(k)) * most);
  const Input device_up(up, Element::kBF16);
  const Input device_scale(scale, Element::kF32), device_w_scale(w_scale, Element::kF32);
  const Input device_base(base, Element::kF32);
  Output norms(1, parts * rank, Element::kF32), bounds(1, 2, Element::kF32);
  kernels::BranchBounds call;
  call.down = device_down.data->data();
  call.down_type = type;
  call.scale = device_scale.data<float>();
  call.up = device_up.data();
  call.w_scale = device_w_scale.data<float>();
  call.base = device_base.data<float>();
  call.n = n, call.k = k, call.rank = rank, call.parts = int(parts);
  std::copy(begins.begin(), begins.end(), call.begin);
  call.norms = norms.data<float>();
  call.bounds = bounds.data<float>();
  if (!c.run({&norms, &bounds}, [&] { return kernels::branch_bounds(call, c.stream()); })) return;
  c.expect(bounds.values().at(0, 0) >= want.at(0, 0), "the bound is below what the branch can reach");
  c.expect_within("bounds", bounds.values(), want, {0.015, -1, -1});
  c.expect(bounds.values().at(0, 1) == 0.25f, "the addend's bound is not the weight's");
}

// Into some columns of a wider matrix, with and without division, by eight and one by one.
void test_store_rows(Context& c, int64_t columns, bool divides) {
  const int64_t rows = 300, stride = columns + 40;
  const Matrix source = rounded_to(normal(rows, columns, 81), Element::kBF16);
  const Matrix divisor = uniform(1, rows, 82, 1e-4f, 3e-4f);
  Matrix want = source;
  if (divides) {
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t i = 0; i < columns; ++i) want.at(r, i) = source.at(r, i) / divisor.at(0, r);
    want = rounded_to(want, Element::kBF16);
  }
  const Input device_source(source, Element::kBF16), device_divisor(divisor, Element::kF32);
  Output target(rows, columns, Element::kBF16, stride);
  const kernels::StoreRows call{
      device_source.data(), rows,   columns,
      target.data(),        stride, divides ? device_divisor.data<float>() : nullptr};
  if (c.run({&target}, [&] { return kernels::store_rows(call, c.stream()); }))
    c.expect_within("rows", target.values(), want, {0, 0, 0});
}

void test_refusals(Context& c) {
  const GemmShape shape{8, 384, 64};
  const LowCase one(shape, Element::kE4M3, 16, {0, 192}, 61);
  Output y(shape.m, shape.n, Element::kBF16);
  std::vector<GemmGroup> groups{one.group()};
  groups[0].c = {y.data(), shape.n, 0};
  const Gemm good = call_of(Element::kE4M3, shape, groups, 16, {0, 192});
  const auto refused = [&](const char* what, const auto& change,
                           Status::Code code = Status::Code::kBadArgument) {
    std::vector<GemmGroup> changed_groups = groups;
    Gemm changed = good;
    changed.groups = changed_groups.data();
    change(changed, changed_groups[0]);
    c.expect_refused(what, kernels::gemm_hopper(changed, c.stream()), code);
  };
  refused("rank 8", [](Gemm& call, GemmGroup&) { call.low_rank = 8; });
  refused("no parts", [](Gemm& call, GemmGroup&) { call.low_parts = 0; });
  refused("five parts", [](Gemm& call, GemmGroup&) { call.low_parts = 5; });
  refused("a part that is empty", [](Gemm& call, GemmGroup&) { call.low_begin[1] = 0; });
  refused("a part beyond N", [](Gemm& call, GemmGroup&) { call.low_begin[1] = 384; });
  refused("no low", [](Gemm&, GemmGroup& group) { group.low.data = nullptr; });
  refused("no up", [](Gemm&, GemmGroup& group) { group.up = nullptr; });
  refused("too narrow a low", [](Gemm&, GemmGroup& group) { group.low.row_stride = 16; });
  refused(
      "a part within a tile", [](Gemm& call, GemmGroup&) { call.low_begin[1] = 128; },
      Status::Code::kUnsupported);
  DownGroup group;
  group.rows = 8;
  DownProjection down{Element::kBF16, 64, 16, &group, 1};
  c.expect_refused("down without operands", kernels::down_project(down, c.stream()),
                   Status::Code::kBadArgument);
  down.ranks = 24;
  c.expect_refused("24 ranks", kernels::down_project(down, c.stream()), Status::Code::kBadArgument);
}

const Cases kCases([](Register& add) {
  for (const Path& path : kPaths) {
    for (const Element type : {Element::kE4M3, Element::kBF16}) {
      const std::string name = std::string("lora/") + path.name + "/" + short_name(type);
      // Rows, ranks, K.
      for (const GemmShape& shape :
           {GemmShape{1, 16, 16}, GemmShape{63, 48, 144}, GemmShape{129, 64, 512}, GemmShape{300, 208, 1040},
            GemmShape{70, 16, 15360}, GemmShape{128, 512, 3072}}) {
        add.test(name + "/down/" + text(shape), [=](Context& c) { test_down(c, path, type, shape, 1, 0); });
      }
      add.test(name + "/down/groups", [=](Context& c) { test_down(c, path, type, {200, 96, 528}, 2, 70); });
      add.test(name + "/down/many_rows",
               [=](Context& c) { test_down(c, path, type, {2900, 512, 272}, 1, 70); });
      for (const GemmShape& shape :
           {GemmShape{131, 16, 528}, GemmShape{131, 64, 400}, GemmShape{131, 144, 528}}) {
        add.test(name + "/down/layout/" + text(shape),
                 [=](Context& c) { test_down_layout(c, path, type, shape); });
      }
      for (const int64_t rank : {16, 32, 64, 80, 128, 208}) {
        const std::string of = "/rank" + std::to_string(rank);
        add.test(name + "/linear" + of, [=](Context& c) {
          test_linear(c, path, type, {129, 528, 1040}, rank, {0}, Activation::kNone);
        });
        add.test(name + "/qkv" + of, [=](Context& c) { test_qkv(c, path, type, 2, 512, 1, 200, rank); });
      }
      for (const GemmShape& shape :
           {GemmShape{1, 16, 16}, GemmShape{700, 3072, 272}, GemmShape{65, 6144, 144}})
        add.test(name + "/linear/" + text(shape),
                 [=](Context& c) { test_linear(c, path, type, shape, 48, {0}, Activation::kGelu); });
      add.test(name + "/linear/parts", [=](Context& c) {
        test_linear(c, path, type, {200, 1152, 400}, 32, {0, 384, 768}, Activation::kNone);
      });
      for (const int64_t rank : {16, 80}) {
        if (type != Element::kE4M3) continue;
        add.test(name + "/codes/rank" + std::to_string(rank),
                 [=](Context& c) { test_codes(c, path, {333, 1040, 528}, rank); });
      }
      add.test(name + "/layout", [=](Context& c) { test_layout(c, path, type, {131, 400, 528}, 80, {0}); });
      add.test(name + "/layout/parts",
               [=](Context& c) { test_layout(c, path, type, {300, 1152, 272}, 48, {0, 384, 768}); });
      add.test(name + "/layout/many_tiles",
               [=](Context& c) { test_layout(c, path, type, {1500, 6144, 272}, 32, {0, 3072}); });
      for (const int64_t rank : {16, 80})
        add.test(name + "/gate_residual/rank" + std::to_string(rank),
                 [=](Context& c) { test_gate_residual(c, path, type, rank); });
      add.test(name + "/qkv/h3", [=](Context& c) { test_qkv(c, path, type, 3, 0, 2, 129, 16); });
      add.test(name + "/qkv/h1+mlp", [=](Context& c) { test_qkv(c, path, type, 1, 144, 1, 64, 80); });
      add.test(name + "/qkv/many_tiles", [=](Context& c) { test_qkv(c, path, type, 4, 3072, 1, 1200, 32); });
      add.test(name + "/zeros", [=](Context& c) { test_zeros(c, path, type); });
    }
    const std::string name = std::string("lora/") + path.name + "/low_is_next";
    add.test(name + "/linear",
             [=](Context& c) { test_low_is_next(c, path, GemmEpilogue::kLinear, {4608, 3072, 1040}, 16); });
    add.test(name + "/gate_residual", [=](Context& c) {
      test_low_is_next(c, path, GemmEpilogue::kGateResidual, {1500, 3072, 3072}, 128);
    });
    add.test(name + "/qkv",
             [=](Context& c) { test_low_is_next(c, path, GemmEpilogue::kQkv, {3000, 4608, 1040}, 128); });
  }
  for (const Element type : {Element::kE4M3, Element::kBF16}) {
    const std::string name = std::string("lora/branch_bounds/") + short_name(type);
    add.test(name, [=](Context& c) { test_branch_bounds(c, type, {0}); });
    add.test(name + "/parts", [=](Context& c) { test_branch_bounds(c, type, {0, 100, 560}); });
  }
  for (const int64_t columns : {64, 20})
    for (const bool divides : {false, true})
      add.test("lora/store_rows/" + std::to_string(columns) + (divides ? "/divided" : ""),
               [=](Context& c) { test_store_rows(c, columns, divides); });
  add.test("lora/refusals", test_refusals);
});

}  // namespace
}  // namespace flux::testing
