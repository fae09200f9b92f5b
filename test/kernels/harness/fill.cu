// Random values made on the device: benchmarks rotate gigabytes that nobody wants to make on the host.
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp8.h>

#include "harness/device_memory.h"

namespace flux::testing {
namespace {

__device__ uint64_t mixed(uint64_t counter) {
  counter += 0x9e3779b97f4a7c15ull;
  counter = (counter ^ (counter >> 30)) * 0xbf58476d1ce4e5b9ull;
  counter = (counter ^ (counter >> 27)) * 0x94d049bb133111ebull;
  return counter ^ (counter >> 31);
}

__device__ void store(float* where, float value) { *where = value; }
__device__ void store(__nv_bfloat16* where, float value) { *where = __float2bfloat16(value); }
__device__ void store(__half* where, float value) { *where = __float2half(value); }
__device__ void store(__nv_fp8_e4m3* where, float value) { *where = __nv_fp8_e4m3(value); }
__device__ void store(uint8_t* where, float value) { *where = uint8_t(__float_as_uint(value) >> 8); }

template <typename T>
__global__ void fill(T* data, int64_t count, uint64_t seed, float deviation) {
  const int64_t stride = int64_t(gridDim.x) * blockDim.x;
  for (int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; i < count; i += stride) {
    const uint64_t bits = mixed(mixed(seed) + uint64_t(i));
    const float radius = sqrtf(-2.0f * logf((float(bits >> 40) + 0.5f) * 0x1p-24f));
    store(data + i, deviation * radius * cospif(2.0f * float(bits & 0xffffff) * 0x1p-24f));
  }
}

template <typename T>
void launch(void* data, int64_t count, uint64_t seed, float deviation) {
  fill<<<1024, 256>>>(static_cast<T*>(data), count, seed, deviation);
  must(cudaGetLastError(), "fill");
  must(cudaDeviceSynchronize(), "fill");
}

}  // namespace

void fill_normal(void* data, int64_t count, Element type, uint64_t seed, float deviation) {
  switch (type) {
    case Element::kF32:
      return launch<float>(data, count, seed, deviation);
    case Element::kBF16:
      return launch<__nv_bfloat16>(data, count, seed, deviation);
    case Element::kF16:
      return launch<__half>(data, count, seed, deviation);
    case Element::kE4M3:
      return launch<__nv_fp8_e4m3>(data, count, seed, deviation);
    default:
      return launch<uint8_t>(data, count * size_of(type), seed, deviation);
  }
}

}  // namespace flux::testing
