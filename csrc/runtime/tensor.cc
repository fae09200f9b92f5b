#include "runtime/tensor.h"

namespace flux {

int64_t TensorView::elements() const {
  int64_t count = 1;
  for (int axis = 0; axis < rank; ++axis) count *= shape[axis];
  return count;
}

int64_t TensorView::row_offset(int64_t row) const {
  int64_t offset = 0;
  for (int axis = rank - 2; axis >= 0; --axis) {
    if (axis == 0) {
      offset += row * stride[0];
      break;
    }
    offset += (row % shape[axis]) * stride[axis];
    row /= shape[axis];
  }
  return offset;
}

bool TensorView::contiguous() const {
  int64_t expected = 1;
  for (int axis = rank - 1; axis >= 0; --axis) {
    if (shape[axis] != 1 && stride[axis] != expected) return false;
    expected *= shape[axis];
  }
  return true;
}

int64_t TensorView::extent() const {
  int64_t last = 0;
  for (int axis = 0; axis < rank; ++axis) {
    if (shape[axis] == 0) return 0;
    last += (shape[axis] - 1) * stride[axis];
  }
  return last + 1;
}

std::string TensorView::shape_string() const {
  std::string text = "[";
  for (int axis = 0; axis < rank; ++axis) {
    if (axis > 0) text += ", ";
    text += std::to_string(shape[axis]);
  }
  return text + "]";
}

}  // namespace flux
