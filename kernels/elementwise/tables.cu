// Values made from positions: timestep embeddings, rotary tables, T5's relative attention bias.
#include "attention/rope_pairs.cuh"
#include "elementwise/elementwise.h"
#include "elementwise/scalar.cuh"
#include "launch.cuh"

namespace flux::kernels {
namespace {

constexpr int kThreads = 256;
constexpr int kMaxAxes = 4;

struct Axes {
  int count;
  int dims[kMaxAxes];
};

__global__ void __launch_bounds__(kThreads)
    embed_timesteps(const float* t, int width, float scale, float log_period, void* y, Element type) {
  wait_for_predecessors();
  let_successor_start();
  const int half = width / 2;
  const float time = scale * t[blockIdx.x];
  for (int i = threadIdx.x; i < half; i += kThreads) {
    const float angle = time * expf(-log_period * float(i) / float(half));
    const int64_t row = int64_t(blockIdx.x) * width;
    store_scalar(y, type, row + i, cosf(angle));
    store_scalar(y, type, row + half + i, sinf(angle));
  }
}

__global__ void __launch_bounds__(kThreads)
    rotary(const float* ids, int tokens, const Axes axes, int pairs, double log_theta, float2* y) {
  wait_for_predecessors();
  let_successor_start();
  const int64_t flat = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (flat >= int64_t(tokens) * pairs) return;
  const int token = int(flat / pairs);
  int axis = 0, pair = int(flat % pairs), width = axes.dims[0];
#pragma unroll
  for (int next = 1; next < kMaxAxes; ++next) {
    if (next < axes.count && axis == next - 1 && pair >= width / 2) {
      pair -= width / 2;
      axis = next;
      width = axes.dims[next];
    }
  }
  const double angle = double(ids[int64_t(token) * axes.count + axis]) * exp(-log_theta * 2.0 * pair / width);
  double sine, cosine;
  sincos(angle, &sine, &cosine);
  y[flat] = make_float2(float(cosine), float(sine));
}

// A thread has 16 bytes of the result: of two pairs in two rows. Rows beyond the last repeat it.
__global__ void __launch_bounds__(kThreads)
    pair_rope(const float2* table, int tokens, int vectors, uint4* y) {
  wait_for_predecessors();
  let_successor_start();
  const int flat = blockIdx.x * kThreads + threadIdx.x;
  if (flat >= vectors) return;
  const int lane = flat % 32, j = flat / 32 % 8;
  const int row = flat / qkv::kRopeBlockVectors * qkv::kTokenBlock + lane / 4;
  const float2* low = table + int64_t(min(row, tokens - 1)) * 64 + lane % 4;
  const float2* high = table + int64_t(min(row + 8, tokens - 1)) * 64 + lane % 4;
  uint32_t words[4];
#pragma unroll
  for (int b = 0; b < 2; ++b) {
    const float2 first = low[4 * (2 * j + b)], second = high[4 * (2 * j + b)];
    words[2 * b] = qkv::as_word(__floats2half2_rn(first.x, second.x));
    words[2 * b + 1] = qkv::as_word(__floats2half2_rn(first.y, second.y));
  }
  y[flat] = make_uint4(words[0], words[1], words[2], words[3]);
}

// The bucket of key − query. Logarithms in f32 as the published code takes them.
__device__ int bucket_of(int distance, int buckets, int max_distance) {
  const int half = buckets / 2, exact = half / 2;
  const int sign = distance > 0 ? half : 0;
  const int magnitude = abs(distance);
  if (magnitude < exact) return sign + magnitude;
  const float position = logf(float(magnitude) / float(exact)) / logf(float(max_distance) / float(exact));
  return sign + min(exact + int(position * float(half - exact)), half - 1);
}

__global__ void __launch_bounds__(kThreads) relative_bias(const void* table, Element type, int buckets,
                                                          int heads, int tokens, int max_distance, float* y) {
  wait_for_predecessors();
  let_successor_start();
  const int query = blockIdx.x, head = blockIdx.y;
  float* row = y + (int64_t(head) * tokens + query) * tokens;
  for (int key = threadIdx.x; key < tokens; key += kThreads) {
    const int bucket = bucket_of(key - query, buckets, max_distance);
    row[key] = load_scalar(table, type, int64_t(bucket) * heads + head);
  }
}

}  // namespace

Status timestep_embedding(const float* t, int count, int width, float scale, float max_period, void* y,
                          Element y_type, cudaStream_t stream) {
  if (count < 0 || width < 2 || width % 2 != 0 || !(max_period > 0.0f) || !is_float(y_type)) {
    return Status::bad_argument(
        "timestep_embedding: width must be even, max_period positive, the output f32 or bf16");
  }
  if (count == 0) return {};
  return launch("timestep_embedding", embed_timesteps, dim3(count), dim3(kThreads), 0, stream, t, width,
                scale, float(log(double(max_period))), y, y_type);
}

Status rope_table(const float* ids, int tokens, int axes, const int* dims, double theta, float* y,
                  cudaStream_t stream) {
  Axes all{axes, {}};
  int pairs = 0;
  for (int a = 0; a < axes && a < kMaxAxes; ++a) {
    if (dims[a] < 2 || dims[a] % 2 != 0)
      return Status::bad_argument("rope_table: every axis must be even and at least 2");
    all.dims[a] = dims[a];
    pairs += dims[a] / 2;
  }
  if (axes < 1 || axes > kMaxAxes || tokens < 0 || !(theta > 0.0)) {
    return Status::bad_argument("rope_table: it takes 1 to 4 axes and a positive theta");
  }
  if (tokens == 0) return {};
  const int64_t blocks = (int64_t(tokens) * pairs + kThreads - 1) / kThreads;
  return launch("rope_table", rotary, dim3(unsigned(blocks)), dim3(kThreads), 0, stream, ids, tokens, all,
                pairs, log(theta), reinterpret_cast<float2*>(y));
}

Status rope_pairs(const float* table, int tokens, void* y, cudaStream_t stream) {
  if (tokens < 0 || tokens > (1 << 22)) return Status::bad_argument("rope_pairs: up to 2^22 tokens");
  if (tokens == 0) return {};
  const int vectors = qkv::token_blocks(tokens) * qkv::kRopeBlockVectors;
  return launch("rope_pairs", pair_rope, dim3(unsigned((vectors + kThreads - 1) / kThreads)), dim3(kThreads),
                0, stream, reinterpret_cast<const float2*>(table), tokens, vectors, static_cast<uint4*>(y));
}

Status t5_bias(const void* table, Element table_type, int buckets, int heads, int tokens, int max_distance,
               float* y, cudaStream_t stream) {
  if (!is_float(table_type) || buckets < 4 || buckets % 4 != 0 || max_distance <= buckets / 4) {
    return Status::bad_argument(
        "t5_bias: the table is f32 or bf16, buckets a multiple of 4, max_distance over a quarter");
  }
  if (heads < 1 || heads > 65535 || tokens < 0)
    return Status::bad_argument("t5_bias: heads must be 1 to 65535");
  if (tokens == 0) return {};
  return launch("t5_bias", relative_bias, dim3(tokens, heads), dim3(kThreads), 0, stream, table, table_type,
                buckets, heads, tokens, max_distance, y);
}

}  // namespace flux::kernels
