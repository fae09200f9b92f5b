// Joins attention over disjoint sets of keys: with L = log Σ exp(Lᵢ), out = Σ exp(Lᵢ − L) · outᵢ. A thread takes 8 channels of a row.
// Limited by memory: 2 bytes a channel and part read, 2 written.
#include <cuda_bf16.h>

#include "attention/attention.h"
#include "launch.cuh"

namespace flux::kernels {

namespace {

__global__ void __launch_bounds__(256) merge_kernel(const __grid_constant__ AttentionMerge p) {
  wait_for_predecessors();
  let_successor_start();
  const int vectors = p.width / 8;
  const int64_t index = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (index >= p.rows * vectors) return;
  const int64_t row = index / vectors;
  float maximum = -INFINITY;
  for (int part = 0; part < p.parts; ++part)
    maximum = fmaxf(maximum, __ldg(p.log_sum_exps + part * p.rows + row));
  float sum = 0.0f, value[8] = {};
  for (int part = 0; part < p.parts; ++part) {
    const float l = __ldg(p.log_sum_exps + part * p.rows + row);
    if (l == -INFINITY) continue;  // a part without keys for this row
    const float weight = __expf(l - maximum);
    sum += weight;
    const uint4 words = __ldg(static_cast<const uint4*>(p.outputs) + part * p.rows * vectors + index);
    const uint32_t word[4] = {words.x, words.y, words.z, words.w};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      value[2 * i] += weight * __uint_as_float(word[i] << 16);
      value[2 * i + 1] += weight * __uint_as_float(word[i] & 0xffff0000u);
    }
  }
  const float inverse = sum > 0.0f ? 1.0f / sum : 0.0f;
  __nv_bfloat162 out[4];
#pragma unroll
  for (int i = 0; i < 4; ++i)
    out[i] = __floats2bfloat162_rn(value[2 * i] * inverse, value[2 * i + 1] * inverse);
  static_cast<uint4*>(p.output)[index] = *reinterpret_cast<const uint4*>(out);
  if (p.log_sum_exp != nullptr && index % vectors == 0) p.log_sum_exp[row] = maximum + __logf(sum);
}

}  // namespace

Status attention_merge(const AttentionMerge& call, cudaStream_t stream) {
  if (call.parts < 1 || call.rows < 1 || call.width < 8 || call.width % 8 != 0) {
    return Status::bad_argument(
        "attention_merge: parts and rows must be positive, width a positive multiple of 8");
  }
  if ((reinterpret_cast<uintptr_t>(call.outputs) | reinterpret_cast<uintptr_t>(call.output)) % 16 != 0) {
    return Status::bad_argument("attention_merge: outputs and output must be 16-byte aligned");
  }
  const int64_t threads = call.rows * (call.width / 8);
  return launch("attention_merge", merge_kernel, dim3(unsigned((threads + 255) / 256)), dim3(256), 0, stream,
                call);
}

}  // namespace flux::kernels
