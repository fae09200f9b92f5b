// A linear's bounds at load: a block a channel, and the maximum over channels by atomics on the bits of floats that are not
// negative, whose order is the floats' own: the result does not depend on the order of blocks.
#include "launch.cuh"
#include "quantise/expand.cuh"
#include "quantise/quantise.h"
#include "reduce.cuh"

namespace flux::kernels {
namespace {

constexpr int kThreads = 128;

__device__ __forceinline__ void raise(float* to, float value) {
  atomicMax(reinterpret_cast<unsigned*>(to), __float_as_uint(value));
}

__global__ void __launch_bounds__(kThreads)
    channel_bounds(const uint8_t* codes, const float* scale, const float* bias, int width, float* bounds) {
  __shared__ float scratch[kThreads / 32];
  const auto* row = reinterpret_cast<const uint32_t*>(codes + int64_t(blockIdx.x) * width);
  wait_for_predecessors();
  float squares = 0.0f;
  for (int i = threadIdx.x; i < width / 4; i += kThreads) {
    uint32_t pairs[2];
    expand_e4m3(row[i], pairs[0], pairs[1]);
#pragma unroll
    for (const uint32_t& pair : pairs) {
      const float2 code = __bfloat1622float2(*reinterpret_cast<const __nv_bfloat162*>(&pair));
      squares = fmaf(code.x, code.x, fmaf(code.y, code.y, squares));
    }
  }
  squares = reduce_row<kThreads>(squares, Sum{}, scratch);
  if (threadIdx.x != 0) return;
  // One part in 10⁵ for the roundings of sums and of the products themselves.
  raise(bounds, 448.0f * sqrtf(float(width) * squares) * scale[blockIdx.x] * 1.00001f);
  if (bias != nullptr) raise(bounds + 1, fabsf(bias[blockIdx.x]));
}

}  // namespace

Status weight_bounds(const uint8_t* codes, const float* scale, const float* bias, int channels, int width,
                     float* bounds, cudaStream_t stream) {
  if (channels < 1 || width < 4 || width % 4 != 0)
    return Status::bad_argument("weight_bounds: the width must be a multiple of 4");
  if (Status s = Status::from_cuda(cudaMemsetAsync(bounds, 0, 2 * sizeof(float), stream), "weight_bounds");
      !s.ok())
    return s;
  return launch("weight_bounds", channel_bounds, dim3(channels), dim3(kThreads), 0, stream, codes, scale,
                bias, width, bounds);
}

}  // namespace flux::kernels
