#include "runtime/cuda_info.h"

#ifdef FLUX_HAVE_CUDA
#include <cuda_runtime_api.h>
#else
#include "runtime/backend.h"
#include "runtime/error.h"
#endif

namespace flux {

#ifdef FLUX_HAVE_CUDA

namespace {

constexpr int kOldestMajor = 8;  // sm_80: the first with bf16 mma.sync

CudaDeviceInfo describe_device(int index) {
  CudaDeviceInfo info;
  cudaDeviceProp properties{};
  if (cudaGetDeviceProperties(&properties, index) != cudaSuccess) return info;
  info.index = index;
  info.name = properties.name;
  info.major = properties.major;
  info.minor = properties.minor;
  info.multiprocessors = properties.multiProcessorCount;
  info.memory_bytes = properties.totalGlobalMem;
  info.l2_bytes = static_cast<uint64_t>(properties.l2CacheSize);
  return info;
}

}  // namespace

CudaInfo query_cuda() {
  CudaInfo info;
  info.built = true;
  cudaDriverGetVersion(&info.driver_version);
  if (info.driver_version == 0) {
    info.reason = "no NVIDIA driver is loaded";
    return info;
  }
  int count = 0;
  const cudaError_t error = cudaGetDeviceCount(&count);
  if (error != cudaSuccess) {
    info.reason = std::string("the NVIDIA driver reports: ") + cudaGetErrorString(error);
    return info;
  }
  for (int i = 0; i < count; ++i) {
    const CudaDeviceInfo device = describe_device(i);
    if (device.major >= kOldestMajor) info.devices.push_back(device);
  }
  if (info.devices.empty()) info.reason = "no GPU of compute capability 8.0 or newer was found";
  return info;
}

#else

CudaInfo query_cuda() {
  CudaInfo info;
  info.reason =
      "this build of fluxwarp has no CUDA kernels (it was built without nvcc, or with FLUX_CUDA=OFF)";
  return info;
}

std::shared_ptr<Backend> make_cuda_backend(int) { throw FluxError(code::kNoDevice, query_cuda().reason); }

#endif

}  // namespace flux
