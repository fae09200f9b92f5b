#include "lora/down_hopper.cuh"

#include "lora/launchers.h"

namespace flux::kernels::lora {
namespace {

template <typename Config>
Status launch_config(const Params& params, int tiles, int parts, cudaStream_t stream) {
  const auto kernel = down_kernel<Config>;
  cudaError_t error =
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, Config::kSharedBytes);
  if (error != cudaSuccess) return Status::from_cuda(error, "down_project");
  cudaLaunchAttribute attributes[2]{};
  attributes[0].id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attributes[0].val.programmaticStreamSerializationAllowed = 1;
  attributes[1].id = cudaLaunchAttributeClusterDimension;
  attributes[1].val.clusterDim = {unsigned(parts), 1, 1};
  cudaLaunchConfig_t launch{};
  launch.gridDim = dim3(tiles * parts);
  launch.blockDim = dim3(Config::kThreads);
  launch.dynamicSmemBytes = Config::kSharedBytes;
  launch.stream = stream;
  launch.attrs = attributes;
  launch.numAttrs = 2;
  return Status::from_cuda(cudaLaunchKernelEx(&launch, kernel, params, parts), "down_project");
}

}  // namespace

Status launch_hopper(const Params& params, bool codes, int columns, int tiles, int parts,
                     cudaStream_t stream) {
  const auto of = [&]<typename Operand>(Operand) {
    if (columns == 16) return launch_config<DownConfig<Operand, 16>>(params, tiles, parts, stream);
    if (columns == 64) return launch_config<DownConfig<Operand, 64>>(params, tiles, parts, stream);
    return launch_config<DownConfig<Operand, 128>>(params, tiles, parts, stream);
  };
  return codes ? of(__nv_fp8_e4m3{}) : of(__nv_bfloat16{});
}

}  // namespace flux::kernels::lora
