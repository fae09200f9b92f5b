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

Status make_tensor_map(const TensorBoxSpec& spec, CUtensorMap* map) {
  const PFN_cuTensorMapEncodeTiled_v12000 encode = encode_entry_point();
  if (encode == nullptr) {
    return Status::unsupported(
        "the NVIDIA driver has no cuTensorMapEncodeTiled; install a driver for CUDA 12 or later");
  }
  const ElementFormat format = format_of(spec.element);
  cuuint64_t sizes[TensorBoxSpec::kMaxRank], strides[TensorBoxSpec::kMaxRank - 1];
  cuuint32_t box[TensorBoxSpec::kMaxRank], steps[TensorBoxSpec::kMaxRank];
  std::string shape;
  for (int axis = 0; axis < spec.rank; ++axis) {
    sizes[axis] = cuuint64_t(spec.size[axis]);
    box[axis] = cuuint32_t(spec.box[axis]);
    steps[axis] = 1;
    if (axis > 0) strides[axis - 1] = cuuint64_t(spec.stride[axis - 1] * format.bytes);
    shape = std::to_string(spec.size[axis]) + (axis > 0 ? " x " : "") + shape;
  }
  const CUresult result = encode(map, format.type, cuuint32_t(spec.rank), const_cast<void*>(spec.data), sizes,
                                 strides, box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE, swizzle_of(spec.swizzle),
                                 CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (result == CUDA_SUCCESS) return {};
  return Status::bad_argument("no tensor map for " + shape + " elements of " + std::to_string(format.bytes) +
                              " bytes: pointers and strides must be multiples of 16 bytes");
}

Status make_tensor_map(const TensorMapSpec& spec, CUtensorMap* map) {
  TensorBoxSpec boxes;
  boxes.data = spec.data;
  boxes.element = spec.element;
  boxes.rank = spec.rank;
  boxes.swizzle = spec.swizzle;
  boxes.size[0] = spec.columns, boxes.size[1] = spec.rows, boxes.size[2] = spec.batches;
  boxes.stride[0] = spec.row_stride;
  // A single batch has no stride of its own; the driver still wants a valid one.
  boxes.stride[1] = spec.batches > 1 ? spec.batch_stride : spec.row_stride;
  boxes.box[0] = spec.box_columns, boxes.box[1] = spec.box_rows, boxes.box[2] = 1;
  return make_tensor_map(boxes, map);
}

}  // namespace flux::kernels
