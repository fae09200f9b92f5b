// An adapter's part of its linear's bounds: the norm of each row of down, then a warp a channel; the maximum over channels by
// atomics on the bits of floats that are not negative, as in quantise/weight_bounds.cu.
#include "launch.cuh"
#include "lora/lora.h"
#include "ptx/convert.cuh"
#include "quantise/expand.cuh"
#include "reduce.cuh"

namespace flux::kernels {
namespace {

constexpr int kThreads = 256;

__device__ __forceinline__ float add_squares(uint32_t pair, float squares) {
  const float2 value = ptx::unpack_bf16x2(pair);
  return fmaf(value.x, value.x, fmaf(value.y, value.y, squares));
}

// `words`: of a row.
template <bool kCodes>
__global__ void __launch_bounds__(kThreads)
    down_norms(const uint32_t* down, const float* scale, int64_t words, float* norms) {
  __shared__ float scratch[kThreads / 32];
  wait_for_predecessors();
  const uint32_t* row = down + blockIdx.x * words;
  float squares = 0.0f;
  for (int64_t i = threadIdx.x; i < words; i += kThreads) {
    if constexpr (kCodes) {
      uint32_t first, second;
      expand_e4m3(row[i], first, second);
      squares = add_squares(first, add_squares(second, squares));
    } else {
      squares = add_squares(row[i], squares);
    }
  }
  squares = reduce_row<kThreads>(squares, Sum{}, scratch);
  if (threadIdx.x == 0) norms[blockIdx.x] = fabsf(scale[blockIdx.x]) * sqrtf(squares);
}

__global__ void __launch_bounds__(kThreads) channel_bounds(const __grid_constant__ BranchBounds call) {
  wait_for_predecessors();
  const int64_t channel = int64_t(blockIdx.x) * (kThreads / 32) + threadIdx.x / 32;
  if (channel >= call.n) return;
  int part = 0;
  while (part + 1 < call.parts && channel >= call.begin[part + 1]) ++part;
  const uint16_t* up = static_cast<const uint16_t*>(call.up) + channel * call.rank;
  float sum = 0.0f;
  for (int64_t r = threadIdx.x % 32; r < call.rank; r += 32)
    sum = fmaf(fabsf(__uint_as_float(uint32_t(up[r]) << 16)), call.norms[part * call.rank + r], sum);
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, offset);
  if (threadIdx.x % 32 != 0) return;
  // One part in 100 for the roundings of x·downᵀ to bf16, and of sums.
  const float reach = 448.0f * sqrtf(float(call.k)) * call.w_scale[channel] * sum * 1.01f;
  const auto raise = [](float* to, float value) {
    atomicMax(reinterpret_cast<unsigned*>(to), __float_as_uint(value));
  };
  raise(call.bounds, call.base[0] + reach);
  raise(call.bounds + 1, call.base[1]);
}

}  // namespace

Status branch_bounds(const BranchBounds& call, cudaStream_t stream) {
  if (call.n < 1 || call.k < 4 || call.k % 4 != 0 || call.rank < 1 || call.parts < 1 ||
      call.parts > kGemmMaxParts) {
    return Status::bad_argument("branch_bounds: N, K, rank and parts must be positive, K a multiple of 4");
  }
  if (Status s =
          Status::from_cuda(cudaMemsetAsync(call.bounds, 0, 2 * sizeof(float), stream), "branch_bounds");
      !s.ok())
    return s;
  const bool codes = call.down_type == Element::kE4M3;
  if (Status s =
          launch("branch_bounds", codes ? down_norms<true> : down_norms<false>,
                 dim3(unsigned(call.parts * call.rank)), dim3(kThreads), 0, stream,
                 static_cast<const uint32_t*>(call.down), call.scale, call.k / (codes ? 4 : 2), call.norms);
      !s.ok())
    return s;
  constexpr int kChannels = kThreads / 32;
  return launch("branch_bounds", channel_bounds, dim3(unsigned((call.n + kChannels - 1) / kChannels)),
                dim3(kThreads), 0, stream, call);
}

}  // namespace flux::kernels
