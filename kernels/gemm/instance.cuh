// Launching one instantiation of gemm_kernel.
#pragma once

#include "gemm/instance.h"
#include "gemm/kernel.cuh"

namespace flux::kernels::gemm {

template <typename Operand>
using Tile192 = GemmConfig<Operand, Order::kTogether, 3, 3, Multicast::kW>;
template <typename Operand>
using Tile192Deep = GemmConfig<Operand, Order::kTogether, 3, 4, Multicast::kW, 0, 1>;
template <typename Operand>
using Tile128 = GemmConfig<Operand, Order::kInTurn, 2, 4, Multicast::kW>;
template <typename Operand>
using Tile128Heads = GemmConfig<Operand, Order::kInTurn, 2, 4, Multicast::kA>;
template <typename Operand>
using Tile64 = GemmConfig<Operand, Order::kInTurn, 1, 5, Multicast::kNone>;
// For f32 results of fp8 products, which the tensor cores' own sums would leave at 1e-3.
template <typename Operand>
using Tile64Promoting = GemmConfig<Operand, Order::kInTurn, 1, 5, Multicast::kNone, 2>;

template <typename Config, typename Epilogue>
Status launch_gemm(const GemmParams& params, int clusters, cudaStream_t stream) {
  const auto kernel = gemm_kernel<Config, Epilogue>;
  cudaError_t error =
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, Config::kSharedBytes);
  if (error != cudaSuccess) return Status::from_cuda(error, "gemm_hopper");
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
  error = cudaLaunchKernelEx(&launch, kernel, params);
  return Status::from_cuda(error, "gemm_hopper");
}

template <typename T>
inline constexpr Element kElementOf = Element::kF32;
template <>
inline constexpr Element kElementOf<__nv_bfloat16> = Element::kBF16;
template <>
inline constexpr Element kElementOf<__nv_fp8_e4m3> = Element::kE4M3;

// The entry of one instantiation.
template <typename Config, typename Epilogue>
constexpr Instance instance(GemmEpilogue epilogue, QkvHeads heads_as = QkvHeads::kRows) {
  return {kElementOf<typename Config::Operand>,  epilogue,       heads_as,
          kElementOf<typename Epilogue::Output>, Config::kShape, launch_gemm<Config, Epilogue>};
}

}  // namespace flux::kernels::gemm
