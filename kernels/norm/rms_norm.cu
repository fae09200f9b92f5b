// RMSNorm with a weight: T5's layers, and q and k over the 128 columns of a head. See row_norm.cuh.
#include "norm/row_norm.cuh"

namespace flux::kernels {

Status rms_norm(const NormRows& rows, const void* weight, Element type, cudaStream_t stream) {
  if (weight == nullptr || !aligned16(weight, 0, 4)) {
    return Status::bad_argument("rms_norm: weight must be given, aligned to 16 bytes");
  }
  if (type == Element::kBF16) {
    return dispatch_row_norm("rms_norm", rows, Weight<bf16>{static_cast<const bf16*>(weight)}, stream);
  }
  if (type == Element::kF32) {
    return dispatch_row_norm("rms_norm", rows, Weight<float>{static_cast<const float*>(weight)}, stream);
  }
  return Status::bad_argument("rms_norm: weight is bf16 or f32");
}

}  // namespace flux::kernels
