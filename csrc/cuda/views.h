// TensorViews as the kernels' own view types.
#pragma once

#include <initializer_list>

#include "elementwise/elementwise.h"
#include "runtime/error.h"
#include "runtime/tensor.h"

namespace flux::cuda {

inline kernels::Element element_of(DType dtype) {
  switch (dtype) {
    case DType::kF32:
      return kernels::Element::kF32;
    case DType::kBF16:
      return kernels::Element::kBF16;
    case DType::kF16:
      return kernels::Element::kF16;
    case DType::kF8E4M3:
      return kernels::Element::kE4M3;
    case DType::kI32:
      return kernels::Element::kI32;
    case DType::kU8:
      return kernels::Element::kU8;
    default:
      throw FluxError(code::kUnsupported, "the CUDA backend has no dtype " + std::string(name_of(dtype)));
  }
}

inline kernels::Activation activation_of(int64_t attribute) {
  return static_cast<kernels::Activation>(attribute);
}

// A view as [batch, rows, width].
struct Rows {
  int64_t batch_stride = 0, row_stride = 0;
};

// The common extent of views of one shape, and their strides in it.
struct Folded {
  int64_t batch = 1, rows = 1, width = 1;
  Rows views[4];
};

// Merges axes that are dense in all views until three are left. Throws when that is not possible.
Folded fold(std::initializer_list<const TensorView*> views, const char* op);

inline kernels::Extent extent_of(const Folded& folded) {
  return {static_cast<int>(folded.batch), static_cast<int>(folded.rows), folded.width};
}
inline kernels::ConstView const_view(const TensorView& view, const Rows& rows) {
  return {view.data, element_of(view.dtype), rows.batch_stride, rows.row_stride};
}
inline kernels::View view_of(const TensorView& view, const Rows& rows) {
  return {view.data, element_of(view.dtype), rows.batch_stride, rows.row_stride};
}

// A view as batches of rows: [D], [rows, D] and [batches, rows, D] as they stand, more axes if they are dense.
struct Matrix {
  int64_t batches = 1, rows = 1, width = 1;
  int64_t batch_stride = 0, row_stride = 0;
};
Matrix matrix_of(const TensorView& view, const char* op);

void require_contiguous(const TensorView& view, const char* op);

}  // namespace flux::cuda
