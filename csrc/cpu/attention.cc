// attention: softmax(scale·q·kᵀ + bias)·v, one pass over the keys with an online softmax (Milakov and
// Gimelshein 2018; the blocking is FlashAttention's). Scores are computed transposed, S = K·Qᵀ as
// [key][query] and O = Vᵀ·P as [channel][query]: queries fill the vector lanes, so the softmax needs no
// reduction across lanes and its result already is the right-hand panel of the second product.
//
//   task          one head and up to kMaxGroups groups of tile_columns queries
//   per block     of kKeyBlock keys: K and V are packed once, then for each group: S, softmax, O =
//   correction·O + Vᵀ·P state         O [D][group], maximum, sum [group] for each group, in the second-level
//   cache
#include <algorithm>
#include <limits>

#include "cpu/checks.h"
#include "cpu/gemm.h"
#include "cpu/kernels.h"
#include "cpu/scratch.h"

namespace flux::cpu {

namespace {

constexpr int64_t kKeyBlock =
    112;  // a multiple of the tile heights of AVX-512 (14); fixed, since it orders the sums
constexpr int64_t kMaxGroups = 8;

int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }
int64_t round_up(int64_t a, int64_t b) { return divide_up(a, b) * b; }

struct Attention {
  const TensorView &q, &k, &v, &y;
  const TensorView* bias;
  float scale;
  bool causal;

  int64_t queries() const { return q.shape[1]; }
  int64_t keys() const { return k.shape[1]; }
  int64_t head_size() const { return q.shape[3]; }
  static const float* row(const TensorView& view, int64_t batch, int64_t token, int64_t head) {
    return view.as<const float>() + batch * view.stride[0] + token * view.stride[1] + head * view.stride[2];
  }
};

// What a task holds, cut from one scratch buffer.
struct Workspace {
  float *queries, *keys, *values, *scores, *bias, *outputs, *maximum, *sum, *correction;

  Workspace(Scratch& scratch, const SimdKernels& kernels, int64_t head_size, int64_t groups, bool with_bias) {
    const int64_t width = kernels.tile_columns, height = kernels.tile_rows;
    const int64_t sizes[] = {groups * head_size * width,
                             round_up(kKeyBlock, height) * head_size,
                             kKeyBlock * round_up(head_size, height),
                             round_up(kKeyBlock, height) * width,
                             with_bias ? kKeyBlock * width : 0,
                             groups * round_up(head_size, height) * width,
                             groups * width,
                             groups * width,
                             width};
    float** parts[] = {&queries, &keys, &values, &scores, &bias, &outputs, &maximum, &sum, &correction};
    int64_t total = 0;
    for (const int64_t size : sizes) total += round_up(size + kPanelSlack, 16);
    float* next = scratch.reserve<float>(total);
    for (size_t i = 0; i < std::size(sizes); ++i) {
      *parts[i] = next;
      next += round_up(sizes[i] + kPanelSlack, 16);
    }
  }
};

// One head, queries [first, first + count).
class HeadTask {
 public:
  HeadTask(const Attention& attention, int64_t batch, int64_t head, int64_t first, int64_t count,
           Workspace& workspace)
      : a_(attention), batch_(batch), head_(head), first_(first), count_(count), w_(workspace) {}

  void run() {
    pack_queries();
    const int64_t keys = a_.causal ? std::min(a_.keys(), first_ + count_) : a_.keys();
    for (int64_t key = 0; key < keys; key += kKeyBlock) {
      const int64_t block = std::min(kKeyBlock, keys - key);
      pack_keys(key, block);
      for (int64_t group = 0; group < groups(); ++group) attend(group, key, block);
    }
    for (int64_t group = 0; group < groups(); ++group) {
      const int64_t query = first_ + group * width_;
      float* y = const_cast<float*>(Attention::row(a_.y, batch_, query, head_));
      kernels_.store_transposed(outputs(group), a_.head_size(), group_size(group), w_.sum + group * width_, y,
                                a_.y.stride[1]);
    }
  }

 private:
  int64_t groups() const { return divide_up(count_, width_); }
  int group_size(int64_t group) const { return static_cast<int>(std::min(width_, count_ - group * width_)); }
  float* outputs(int64_t group) const {
    return w_.outputs + group * round_up(a_.head_size(), height_) * width_;
  }

  void pack_tokens(const TensorView& view, int64_t token, int count, int64_t width, float* panel) const {
    const void* rows[64];  // wider than any panel
    for (int i = 0; i < count; ++i) rows[i] = Attention::row(view, batch_, token + i, head_);
    kernels_.pack_f32(rows, count, static_cast<int>(width), a_.head_size(), panel);
  }

  void pack_queries() {
    const int64_t size = a_.head_size();
    for (int64_t group = 0; group < groups(); ++group) {
      pack_tokens(a_.q, first_ + group * width_, group_size(group), width_,
                  w_.queries + group * size * width_);
    }
    std::fill_n(w_.maximum, groups() * width_, -std::numeric_limits<float>::infinity());
    std::fill_n(w_.sum, groups() * width_, 0.0f);
  }

  void pack_keys(int64_t key, int64_t block) {
    for (int64_t i = 0; i < block; i += height_) {
      pack_tokens(a_.k, key + i, static_cast<int>(std::min(height_, block - i)), height_,
                  w_.keys + i * a_.head_size());
    }
    kernels_.pack_columns(Attention::row(a_.v, batch_, key, head_), a_.v.stride[1], block, a_.head_size(),
                          w_.values);
  }

  void attend(int64_t group, int64_t key, int64_t block) {
    const int64_t size = a_.head_size(), query = first_ + group * width_;
    // The last query of the group sees keys up to itself; a block beyond it has nothing for the group.
    if (a_.causal && key > query + group_size(group) - 1) return;
    for (int64_t i = 0; i < block; i += height_) {
      const int rows = static_cast<int>(std::min(height_, block - i));
      kernels_.tile(w_.keys + i * size, w_.queries + group * size * width_, size, rows, false,
                    w_.scores + i * width_, width_);
    }
    if (a_.bias != nullptr) pack_bias(query, group_size(group), key, block);
    const int64_t visible = a_.causal ? query - key + 1 : block;
    kernels_.softmax_block(w_.scores, a_.bias != nullptr ? w_.bias : nullptr, block, a_.scale, visible,
                           w_.maximum + group * width_, w_.sum + group * width_, w_.correction);
    float* output = outputs(group);
    if (key > 0) kernels_.scale_columns(output, size, w_.correction);
    for (int64_t i = 0; i < size; i += height_) {
      const int rows = static_cast<int>(std::min(height_, size - i));
      kernels_.tile(w_.values + i * block, w_.scores, block, rows, key > 0, output + i * width_, width_);
    }
  }

  // bias [H, T, S] of the group's queries, transposed like the scores.
  void pack_bias(int64_t query, int count, int64_t key, int64_t block) {
    const void* rows[64];
    const float* base = a_.bias->as<const float>() + head_ * a_.bias->stride[0] + key;
    for (int i = 0; i < count; ++i) rows[i] = base + (query + i) * a_.bias->stride[1];
    kernels_.pack_f32(rows, count, static_cast<int>(width_), block, w_.bias);
  }

  const SimdKernels& kernels_ = simd();
  const int64_t width_ = kernels_.tile_columns, height_ = kernels_.tile_rows;
  const Attention& a_;
  int64_t batch_, head_, first_, count_;
  Workspace& w_;
};

Attention check(const OpCall& call) {
  const Attention a{operand(call, "q"),
                    operand(call, "k"),
                    operand(call, "v"),
                    operand(call, "y"),
                    optional_operand(call, "bias"),
                    float_attribute(call, "scale"),
                    integer_attribute(call, "causal", 0, 1) == 1};
  expect_shape(call, "q", a.q, {-1, -1, -1, -1});
  const int64_t batches = a.q.shape[0], heads = a.q.shape[2], size = a.q.shape[3];
  expect_shape(call, "k", a.k, {batches, -1, heads, size});
  if (a.keys() < 1 || size < 1)
    fail(call, describe("k", a.k) + " must have at least one key and one channel");
  expect_same_shape(call, "v", a.v, "k", a.k);
  expect_same_shape(call, "y", a.y, "q", a.q);
  if (a.bias != nullptr) expect_shape(call, "bias", *a.bias, {heads, a.queries(), a.keys()});
  if (a.causal && a.queries() > a.keys()) {
    fail(call, describe("q", a.q) + " has more queries than keys, which causal attention does not define");
  }
  return a;
}

}  // namespace

void attention(const OpCall& call, ThreadPool& pool) {
  const Attention a = check(call);
  const int64_t width = simd().tile_columns, heads = a.q.shape[2];
  const int64_t head_tasks = a.q.shape[0] * heads, groups = divide_up(a.queries(), width);
  // Long runs of groups share packed keys; short ones keep every thread busy.
  const int64_t wanted = divide_up(2 * pool.threads(), std::max<int64_t>(head_tasks, 1));
  const int64_t per_task = std::clamp<int64_t>(groups / std::max<int64_t>(wanted, 1), 1, kMaxGroups);
  const int64_t tasks_per_head = divide_up(groups, per_task);
  pool.parallel_for(head_tasks * tasks_per_head, 1, [&](int64_t begin, int64_t end) {
    thread_local Scratch scratch;
    Workspace workspace(scratch, simd(), a.head_size(), per_task, a.bias != nullptr);
    for (int64_t task = begin; task < end; ++task) {
      const int64_t head = task / tasks_per_head, first = task % tasks_per_head * per_task * width;
      const int64_t count = std::min(per_task * width, a.queries() - first);
      HeadTask(a, head / heads, head % heads, first, count, workspace).run();
    }
  });
}

}  // namespace flux::cpu
