// The QKV epilogue that writes 8-bit attention's operands: what the codes stand for against double precision, and its rate.
#include <cmath>

#include "attention_problem.h"
#include "head_operands.h"
#include "lora_operands.h"
#include "packed_reading.h"

namespace flux::testing {
namespace {

using namespace kernels;

ScoreType score_type(QkvHeads heads) {
  return heads == QkvHeads::kInt8 ? ScoreType::kInt8 : ScoreType::kE4M3;
}

// `rank` 0: without a branch.
struct Stream {
  Stream(const GemmShape& shape, Element operand, int64_t tokens, uint64_t seed, int64_t rank,
         const std::vector<int64_t>& begins)
      : heads(tokens, seed + 5) {
    if (rank > 0) {
      branch = std::make_unique<LowCase>(shape, operand, rank, begins, seed);
    } else {
      plain = std::make_unique<ProductCase>(random_product(shape, operand, seed));
    }
  }
  const ProductCase& product() const { return branch ? branch->product : *plain; }
  GemmGroup group(int64_t batches) const { return branch ? branch->group(batches) : plain->group(batches); }
  std::unique_ptr<LowCase> branch;
  std::unique_ptr<ProductCase> plain;
  HeadOperands heads;
};

// What gemm.h wants to bound the results with: by Cauchy-Schwarz, and the largest bias of random_product.
Matrix bounds_of(const DeviceOperand& w) {
  double largest = 0;
  for (int64_t n = 0; n < w.seen.rows; ++n) {
    double squares = 0;
    for (int64_t k = 0; k < w.seen.cols; ++k)
      squares += std::pow(w.seen.at(n, k) * double(w.scale[size_t(n)]), 2);
    largest = std::max(largest, squares);
  }
  Matrix bounds(1, 2);
  bounds.at(0, 0) = float(448 * std::sqrt(double(w.seen.cols) * largest));
  bounds.at(0, 1) = 6;
  return bounds;
}

// Two streams of `text` and `image` tokens as two groups of one launch, into one sequence; a launch of its own when text is 0.
// `up_type` is the MLP's; `centred`: k less an offset.
void hold(Context& c, Element operand, QkvHeads heads_as, int64_t text, int64_t image, int64_t mlp,
          Element up_type, int64_t rank = 0, bool centred = false) {
  constexpr int kHeads = 3, kBatches = 2;
  constexpr int64_t kHidden = kHeads * 128;
  const int tokens = int(text + image);
  const PackedMemory memory(kBatches, kHeads, tokens, tokens);
  const Matrix offset = normal(kBatches * kHeads, 128, 37, 0.5f);
  const Input offsets(offset, Element::kF32);
  Output up(kBatches * image, std::max<int64_t>(mlp, 16), up_type);
  Output up_scale(kBatches * image, 1, Element::kF32);
  std::unique_ptr<Input> bounds;
  std::vector<std::unique_ptr<Stream>> streams;
  std::vector<GemmGroup> groups;
  Matrix want(int64_t(kBatches) * tokens, 3 * kHidden);
  Gemm call;
  call.operand = operand;
  call.output = up_type;
  call.epilogue = GemmEpilogue::kQkv;
  call.activation = Activation::kGelu;
  call.n = 3 * kHidden + mlp;
  call.k = 400;
  call.heads = kHeads;
  call.heads_as = heads_as;
  std::vector<int64_t> begins{0, kHidden, 2 * kHidden};
  if (mlp > 0) begins.push_back(3 * kHidden);
  call.low_rank = rank;
  if (rank > 0) {
    call.low_parts = int(begins.size());
    std::copy(begins.begin(), begins.end(), call.low_begin);
  }
  Matrix want_up;
  for (const auto& [first, count] : {std::pair<int64_t, int64_t>{0, text}, {text, image}}) {
    if (count == 0) continue;
    streams.push_back(std::make_unique<Stream>(GemmShape{kBatches * count, call.n, call.k}, operand, count,
                                               31 + first, rank, begins));
    const Stream& stream = *streams.back();
    GemmGroup group = stream.group(kBatches);
    stream.heads.bind(group);
    group.packed = memory.operands();
    group.packed_tokens = tokens;
    group.first_token = first;
    if (centred) group.key_offset = offsets.data<float>();
    group.mlp = {up.data(), mlp, image * mlp};
    if (up_type == Element::kE4M3) {
      bounds = std::make_unique<Input>(rank > 0 ? stream.branch->bounds() : bounds_of(stream.product().w),
                                       Element::kF32);
      group.bounds = bounds->data<float>();
      group.c_scale = up_scale.data<float>();
      group.c_scale_batch_stride = image;
    }
    groups.push_back(group);
    Matrix rows = columns_of(stream.product().x, 0, 3 * kHidden);
    reference::normalise_and_rotate(rows, kHeads, stream.heads.norm_q.values, stream.heads.norm_k.values,
                                    stream.heads.rope.values, call.eps);
    for (int64_t r = 0; r < rows.rows; ++r) {
      float* to = &want.at(r / count * tokens + first + r % count, 0);
      std::copy_n(rows.row(r), rows.cols, to);
      for (int64_t x = 0; centred && x < kHidden; ++x)
        to[kHidden + x] -= offset.at(r / count * kHeads + x / 128, x % 128);
    }
    if (mlp > 0)
      want_up = reference::activated(columns_of(stream.product().x, 3 * kHidden, mlp), Activation::kGelu);
  }
  call.groups = groups.data();
  call.group_count = int(groups.size());
  Matrix first_run;
  for (int run = 0; run < 2; ++run) {
    up.prepare(uint8_t(run + 1));
    up_scale.prepare(uint8_t(run + 1));
    must(cudaDeviceSynchronize(), "poison");
    if (Status s = gemm_hopper(call, c.stream()); !s.ok()) return c.expect(false, s.message);
    must(cudaStreamSynchronize(c.stream()), "qkv");
    c.expect(up.collect(uint8_t(run + 1)).empty(), "nothing is written beside mlp");
    c.expect(up_scale.collect(uint8_t(run + 1)).empty(), "nothing is written beside its scales");
    const Matrix got = unpacked(memory.operands(), score_type(heads_as), kBatches, kHeads, tokens);
    if (run == 1) c.expect(got.values == first_run.values, "two runs give the same codes");
    first_run = got;
  }
  // int8: the largest of 128 normal values is 2.7, of 16 rows 3.6 deviations; a step of 1/127 of it is off by 1/√12 of a step in the root
  // mean square, so 0.62 and 0.82 %; a few rows alone may have larger ones. e4m3: 2.65 %.
  const bool int8 = heads_as == QkvHeads::kInt8;
  const double query = int8 ? 0.008 : 0.028, key = int8 ? 0.0095 : 0.028;
  c.expect_within("q", columns_of(first_run, 0, kHidden), columns_of(want, 0, kHidden),
                  {query, -1, 1.5 * query});
  c.expect_within("k", columns_of(first_run, kHidden, kHidden), columns_of(want, kHidden, kHidden),
                  {key, -1, 1.5 * key});
  c.expect_within("v", columns_of(first_run, 2 * kHidden, kHidden), columns_of(want, 2 * kHidden, kHidden),
                  {0.028, -1, 0.032});
  if (mlp == 0) return;
  Matrix got_up = up.values();
  if (up_type == Element::kE4M3) {
    const Matrix scale = up_scale.values();
    for (int64_t r = 0; r < got_up.rows; ++r) {
      for (int64_t n = 0; n < got_up.cols; ++n) got_up.at(r, n) *= scale.at(r, 0);
    }
    c.expect_within("mlp codes", got_up, want_up, {0.03, -1, 0.033});
  } else {
    c.expect_within("mlp", got_up, want_up, {1e-2, -1, 2e-2});
  }
}

const Cases kTests = [](Register& add) {
  for (const Element operand : {Element::kE4M3, Element::kBF16}) {
    for (const QkvHeads heads : {QkvHeads::kInt8, QkvHeads::kE4M3}) {
      const std::string path = std::string("gemm/") + short_name(operand) + "/qkv_packed_" +
                               (heads == QkvHeads::kInt8 ? "int8/" : "e4m3/");
      for (const auto& [text, image, mlp] : {std::tuple<int64_t, int64_t, int64_t>{64, 300, 0},
                                             {512, 448, 0},
                                             {128, 5, 0},
                                             {0, 333, 256},
                                             {256, 1100, 0},
                                             {0, 1, 0}}) {
        add.test(path + std::to_string(text) + "+" + std::to_string(image) + (mlp > 0 ? "+mlp" : ""),
                 [=](Context& c) { hold(c, operand, heads, text, image, mlp, Element::kBF16); });
      }
      add.test(path + "128+300+offset",
               [=](Context& c) { hold(c, operand, heads, 128, 300, 0, Element::kBF16, 0, true); });
      for (const int64_t rank : {16, 80}) {
        const std::string low = "+rank" + std::to_string(rank);
        add.test(path + "128+300" + low,
                 [=](Context& c) { hold(c, operand, heads, 128, 300, 0, Element::kBF16, rank); });
        add.test(path + "0+333+mlp" + low,
                 [=](Context& c) { hold(c, operand, heads, 0, 333, 256, Element::kBF16, rank); });
        if (operand == Element::kE4M3) {
          add.test(path + "0+333+mlp-codes" + low,
                   [=](Context& c) { hold(c, operand, heads, 0, 333, 256, Element::kE4M3, rank); });
        }
      }
      if (operand == Element::kE4M3) {
        add.test(path + "0+333+mlp-codes",
                 [=](Context& c) { hold(c, operand, heads, 0, 333, 256, Element::kE4M3); });
      }
    }
  }
};

struct BenchShape {
  QkvHeads heads;
  int64_t m, n;
  int64_t text = 0;  // of the m tokens, the first, which then have weights of their own: a double block's
  Element up = Element::kBF16;
};

constexpr int64_t kWidth = 3072;

struct BenchSet {
  BenchSet(const BenchShape& shape, uint64_t seed)
      : a(shape.m * kWidth),
        w((shape.text > 0 ? 2 : 1) * shape.n * kWidth),
        mlp(shape.m * shape.n * 2),
        a_scale(shape.m * 4),
        w_scale(shape.n * 4),
        bias(shape.n * 4),
        c_scale(shape.m * 4),
        packed(1, 24, int(shape.m), int(shape.m)) {
    fill_normal(a.data(), a.bytes(), Element::kE4M3, seed, 100);
    fill_normal(w.data(), w.bytes(), Element::kE4M3, seed + 1, 100);
    fill_normal(a_scale.data(), shape.m, Element::kF32, seed + 2, 1e-2f);
    fill_normal(w_scale.data(), shape.n, Element::kF32, seed + 3, 1e-4f);
    fill_normal(bias.data(), shape.n, Element::kF32, seed + 4);
  }
  DeviceBytes a, w, mlp, a_scale, w_scale, bias, c_scale;
  PackedMemory packed;
};

const float* floats(const DeviceBytes& data) { return reinterpret_cast<const float*>(data.data()); }

// The group of `rows` tokens from `first` on, with the second half of W where `second`.
GemmGroup bench_group(const BenchSet& set, const BenchShape& shape, int64_t first, int64_t rows,
                      bool second) {
  GemmGroup group;
  group.rows = rows;
  group.packed_tokens = shape.m;
  group.first_token = first;
  group.a = {set.a.data() + first * kWidth, kWidth, 0};
  group.a_scale = floats(set.a_scale) + first;
  group.w = set.w.data() + (second ? shape.n * kWidth : 0);
  group.w_row_stride = kWidth;
  group.w_scale = floats(set.w_scale);
  group.bias = floats(set.bias);
  group.packed = set.packed.operands();
  const int64_t bytes = size_of(shape.up), qkv = shape.heads == QkvHeads::kRows ? 3 * kWidth : 0;
  group.c = {set.mlp.data() + first * shape.n * 2, shape.n, 0};
  group.mlp = {set.mlp.data() + (first * shape.n + qkv) * bytes, shape.n, 0};
  group.c_scale = const_cast<float*>(floats(set.c_scale)) + first;
  return group;
}

void bench(Context& c, const BenchShape& shape) {
  const double tokens = double(shape.m), n = double(shape.n);
  const double bytes =
      (tokens + n) * kWidth + 3.0 * tokens * kWidth + double(size_of(shape.up)) * (n - 3.0 * kWidth) * tokens;
  const int sets = c.rotation(bytes);
  const DeviceBytes norm(128 * 4), rope(shape.m * 128 * 2), bounds(2 * 4);
  fill_normal(norm.data(), 128, Element::kF32, 91);
  fill_normal(rope.data(), shape.m * 128, Element::kF16, 92);
  const float bound[2] = {448.0f * 20, 6.0f};
  must(cudaMemcpy(bounds.data(), bound, sizeof bound, cudaMemcpyHostToDevice), "bounds");
  const size_t parts = shape.text > 0 ? 2 : 1;
  std::vector<std::unique_ptr<BenchSet>> buffers;
  std::vector<GemmGroup> groups;
  for (int i = 0; i < sets; ++i) {
    buffers.push_back(std::make_unique<BenchSet>(shape, uint64_t(100 * i)));
    if (shape.text > 0) groups.push_back(bench_group(*buffers.back(), shape, 0, shape.text, true));
    groups.push_back(bench_group(*buffers.back(), shape, shape.text, shape.m - shape.text, false));
  }
  for (GemmGroup& group : groups) {
    group.norm_q = group.norm_k = floats(norm);
    group.rope_pairs = rope.data() + group.first_token * 256;
    group.bounds = floats(bounds);
  }
  Gemm call;
  call.output = shape.up;
  call.epilogue = GemmEpilogue::kQkv;
  call.activation = Activation::kGelu;
  call.n = shape.n;
  call.k = kWidth;
  call.heads = 24;
  call.heads_as = shape.heads;
  call.group_count = int(parts);
  c.measure({bytes, 2.0 * tokens * n * kWidth, 1979}, sets, [&](int set) {
    call.groups = &groups[size_t(set) * parts];
    return gemm_hopper(call, c.stream());
  });
}

const Cases kBenches = [](Register& add) {
  const auto add_one = [&](const char* name, const BenchShape& shape) {
    const std::string rows = shape.text > 0
                                 ? std::to_string(shape.m - shape.text) + "+" + std::to_string(shape.text)
                                 : std::to_string(shape.m);
    add.bench("gemm/fp8/qkv_packed/" + std::string(name) + "/" + rows + "x" + std::to_string(shape.n) + "x" +
                  std::to_string(kWidth),
              [=](Context& c) { bench(c, shape); });
  };
  for (const int64_t n : {9216, 21504}) {
    add_one("rows", {QkvHeads::kRows, 4608, n});
    add_one("e4m3", {QkvHeads::kE4M3, 4608, n});
    for (const int64_t m : {4608, 8704}) add_one("int8", {QkvHeads::kInt8, m, n});
  }
  // What a pipeline with fp8 linears runs: the MLP's columns leave as codes, and a double block's streams share a launch.
  for (const int64_t m : {4608, 8704}) {
    add_one("int8_codes", {QkvHeads::kInt8, m, 21504, 0, Element::kE4M3});
    add_one("int8", {QkvHeads::kInt8, m, 9216, 512});
  }
};

}  // namespace
}  // namespace flux::testing
