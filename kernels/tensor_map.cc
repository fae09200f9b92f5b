#include "tensor_map.h"

#include <cudaTypedefs.h>

namespace flux::kernels {
namespace {

// libcuda is reached only through the runtime, so that the library loads where there is no driver.
PFN_cuTensorMapEncodeTiled_v12000 encode_entry_point() {
  static const PFN_cuTensorMapEncodeTiled_v12000 entry = [] {
    void* pointer = nullptr;
    cudaDriverEntryPointQueryResult found{};
    const cudaError_t error = cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &pointer, 12000,
                                                               cudaEnableDefault, &found);
    if (error != cudaSuccess || found != cudaDriverEntryPointSuccess) pointer = nullptr;
    return reinterpret_cast<PFN_cuTensorMapEncodeTiled_v12000>(pointer);
  }();
  return entry;
}

struct ElementFormat {
  CUtensorMapDataType type;
  int bytes;
};

ElementFormat format_of(Element element) {
  switch (element) {
    case Element::kF32:
      return {CU_TENSOR_MAP_DATA_TYPE_FLOAT32, 4};
    case Element::kI32:
      return {CU_TENSOR_MAP_DATA_TYPE_INT32, 4};
    case Element::kBF16:
      return {CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 2};
    case Element::kF16:
      return {CU_TENSOR_MAP_DATA_TYPE_FLOAT16, 2};
    case Element::kE4M3:
    case Element::kU8:
      return {CU_TENSOR_MAP_DATA_TYPE_UINT8, 1};
  }
  return {CU_TENSOR_MAP_DATA_TYPE_UINT8, 1};
}

CUtensorMapSwizzle swizzle_of(Swizzle swizzle) {
  switch (swizzle) {
    case Swizzle::k128:
      return CU_TENSOR_MAP_SWIZZLE_128B;
    case Swizzle::k64:
      return CU_TENSOR_MAP_SWIZZLE_64B;
    case Swizzle::kNone:
      return CU_TENSOR_MAP_SWIZZLE_NONE;
  }
  return CU_TENSOR_MAP_SWIZZLE_NONE;
}

}  // namespace

Status make_tensor_map(const TensorMapSpec& spec, CUtensorMap* map) {
  const PFN_cuTensorMapEncodeTiled_v12000 encode = encode_entry_point();
  if (encode == nullptr) {
    return Status::unsupported(
        "the NVIDIA driver has no cuTensorMapEncodeTiled; install a driver for CUDA 12 or later");
  }
  const ElementFormat format = format_of(spec.element);
  const cuuint64_t sizes[3] = {cuuint64_t(spec.columns), cuuint64_t(spec.rows), cuuint64_t(spec.batches)};
  // A single batch has no stride of its own; the driver still wants a valid one.
  const int64_t batch_stride = spec.batches > 1 ? spec.batch_stride : spec.row_stride;
  const cuuint64_t strides[2] = {cuuint64_t(spec.row_stride * format.bytes),
                                 cuuint64_t(batch_stride * format.bytes)};
  const cuuint32_t box[3] = {cuuint32_t(spec.box_columns), cuuint32_t(spec.box_rows), 1};
  const cuuint32_t steps[3] = {1, 1, 1};
  const CUresult result = encode(map, format.type, cuuint32_t(spec.rank), const_cast<void*>(spec.data), sizes,
                                 strides, box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE, swizzle_of(spec.swizzle),
                                 CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (result == CUDA_SUCCESS) return {};
  return Status::bad_argument("no tensor map for " + std::to_string(spec.batches) + " x " +
                              std::to_string(spec.rows) + " x " + std::to_string(spec.columns) +
                              " elements of " + std::to_string(format.bytes) + " bytes with row stride " +
                              std::to_string(spec.row_stride) +
                              ": pointers and strides must be multiples of 16 bytes");
}

}  // namespace flux::kernels
