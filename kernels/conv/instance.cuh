// Launching one instantiation of conv_kernel.
#pragma once

#include "conv/instance.h"
#include "conv/kernel.cuh"

namespace flux::kernels::conv {

template <typename Config, typename Epilogue>
Status launch_conv(const ConvParams& params, int clusters, cudaStream_t stream) {
  const auto kernel = conv_kernel<Config, Epilogue>;
  cudaError_t error =
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, Config::kSharedBytes);
  if (error != cudaSuccess) return Status::from_cuda(error, "conv2d_hopper");
  cudaLaunchAttribute attributes[2]{};
  attributes[0].id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attributes[0].val.programmaticStreamSerializationAllowed = 1;
  attributes[1].id = cudaLaunchAttributeClusterDimension;
  attributes[1].val.clusterDim = {Config::kCluster, 1, 1};
  cudaLaunchConfig_t launch{};
  launch.gridDim = dim3(clusters * Config::kCluster);
  launch.blockDim = dim3(Config::kThreads);
  launch.dynamicSmemBytes = Config::kSharedBytes;
  launch.stream = stream;
  launch.attrs = attributes;
  launch.numAttrs = 2;
  return Status::from_cuda(cudaLaunchKernelEx(&launch, kernel, params), "conv2d_hopper");
}

template <typename Config, template <typename> typename Epilogue = PanelEpilogue>
constexpr Instance instance() {
  return {Config::kTileWidth,
          Config::kTileHeight,
          Config::kBoxHeight,
          Config::kTileN,
          Config::kChannelRows,
          Config::kNormalises,
          launch_conv<Config, Epilogue<Config>>};
}

}  // namespace flux::kernels::conv
