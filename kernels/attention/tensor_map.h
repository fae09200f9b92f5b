// Tensor maps of four axes: made on the host through the driver's entry point, so that nothing links against libcuda.
#pragma once

#include <cuda.h>
#include <cuda_runtime_api.h>

#include <cstdint>

#include "status.h"

namespace flux::kernels::attention {

struct TensorMapShape {
  CUtensorMapDataType type;
  uint64_t extent[4];        // elements, innermost first
  uint64_t stride_bytes[3];  // of axes 1 to 3, multiples of 16
  uint32_t box[4];           // elements
  CUtensorMapSwizzle swizzle;
};

// Reads outside the tensor give zeros, writes there are dropped.
inline Status make_tensor_map(CUtensorMap* map, const void* base, const TensorMapShape& shape,
                              const char* what) {
  static const auto encode = [] {
    void* entry = nullptr;
    cudaDriverEntryPointQueryResult found = cudaDriverEntryPointSymbolNotFound;
    const cudaError_t error =
        cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &entry, 12000, cudaEnableDefault, &found);
    return error == cudaSuccess && found == cudaDriverEntryPointSuccess
               ? reinterpret_cast<decltype(&cuTensorMapEncodeTiled)>(entry)
               : nullptr;
  }();
  if (encode == nullptr) {
    return Status::unsupported(
        "the driver has no cuTensorMapEncodeTiled: install a driver for CUDA 12.0 or newer");
  }
  const uint32_t unit[4] = {1, 1, 1, 1};
  const CUresult result =
      encode(map, shape.type, 4, const_cast<void*>(base), shape.extent, shape.stride_bytes, shape.box, unit,
             CU_TENSOR_MAP_INTERLEAVE_NONE, shape.swizzle, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
             CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (result != CUDA_SUCCESS) {
    return Status::bad_argument(
        std::string("attention: ") + what +
        " cannot be tiled: align its base to 16 bytes and make its strides multiples of 16 bytes");
  }
  return {};
}

}  // namespace flux::kernels::attention
