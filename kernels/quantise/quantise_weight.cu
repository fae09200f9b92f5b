// Per-channel quantisation of a weight at load: a block a channel, two passes over its row (the second from cache).
#include <cuda_fp16.h>

#include "launch.cuh"
#include "quantise/e4m3.cuh"
#include "quantise/quantise.h"
#include "reduce.cuh"
#include "vector.cuh"

namespace flux::kernels {
namespace {

constexpr int kThreads = 256;

__device__ __forceinline__ float as_float(float value) { return value; }
__device__ __forceinline__ float as_float(bf16 value) { return __bfloat162float(value); }
__device__ __forceinline__ float as_float(__half value) { return __half2float(value); }

template <typename T>
__global__ void __launch_bounds__(kThreads)
    quantise_channel(const T* weight, int width, int64_t row_stride, uint8_t* codes, float* scale) {
  __shared__ float scratch[kThreads / 32];
  const T* row = weight + blockIdx.x * row_stride;
  wait_for_predecessors();
  let_successor_start();
  float largest = 0.0f;
#pragma unroll 4
  for (int i = threadIdx.x; i < width; i += kThreads) largest = fmaxf(largest, fabsf(as_float(row[i])));
  const RowQuantiser quantiser(reduce_row<kThreads>(largest, Maximum{}, scratch));
  if (threadIdx.x == 0) scale[blockIdx.x] = quantiser.scale;
  uint8_t* out = codes + int64_t(blockIdx.x) * width;
#pragma unroll 4
  for (int i = threadIdx.x; i < width; i += kThreads)
    out[i] = uint8_t(e4m3x2(as_float(row[i]) / quantiser.scale, 0.0f));
}

}  // namespace

Status quantise_weight(const void* weight, Element type, int channels, int width, int64_t row_stride,
                       uint8_t* codes, float* scale, cudaStream_t stream) {
  if (channels < 0 || width < 1 || row_stride < width) {
    return Status::bad_argument(
        "quantise_weight: the weight must be [channels, width] with rows at least width apart");
  }
  if (channels == 0) return {};
  const auto run = [&](auto* typed, auto kernel) {
    return launch("quantise_weight", kernel, dim3(channels), dim3(kThreads), 0, stream, typed, width,
                  row_stride, codes, scale);
  };
  switch (type) {
    case Element::kF32:
      return run(static_cast<const float*>(weight), quantise_channel<float>);
    case Element::kBF16:
      return run(static_cast<const bf16*>(weight), quantise_channel<bf16>);
    case Element::kF16:
      return run(static_cast<const __half*>(weight), quantise_channel<__half>);
    default:
      return Status::bad_argument("quantise_weight: the weight is f32, f16 or bf16");
  }
}

}  // namespace flux::kernels
