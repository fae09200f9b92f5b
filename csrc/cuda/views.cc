#include "cuda/views.h"

#include <vector>

namespace flux::cuda {
namespace {

struct Axis {
  int64_t length;
  int64_t strides[4];
};

}  // namespace

Folded fold(std::initializer_list<const TensorView*> views, const char* op) {
  const TensorView& first = **views.begin();
  std::vector<Axis> axes;
  for (int axis = 0; axis < first.rank; ++axis) {
    Axis next{first.shape[axis], {}};
    int index = 0;
    bool dense = !axes.empty();
    for (const TensorView* view : views) {
      next.strides[index] = view->stride[axis];
      dense = dense && axes.back().strides[index] == view->stride[axis] * next.length;
      ++index;
    }
    if (!axes.empty() && axes.back().length == 1) {
      axes.back() = next;
    } else if (dense) {
      next.length *= axes.back().length;
      axes.back() = next;
    } else if (next.length != 1 || axis + 1 == first.rank || axes.empty()) {
      axes.push_back(next);
    }
  }
  if (axes.size() > 3)
    throw FluxError(code::kUnsupported,
                    std::string(op) + ": no kernel takes views of such strides, " + first.shape_string());
  Folded folded;
  const size_t count = axes.size();
  if (count > 0) folded.width = axes[count - 1].length;
  if (count > 1) folded.rows = axes[count - 2].length;
  if (count > 2) folded.batch = axes[count - 3].length;
  for (size_t index = 0; index < views.size(); ++index) {
    if (count > 1) folded.views[index].row_stride = axes[count - 2].strides[index];
    if (count > 2) folded.views[index].batch_stride = axes[count - 3].strides[index];
  }
  return folded;
}

Matrix matrix_of(const TensorView& view, const char* op) {
  if (view.rank == 3) return {view.shape[0], view.shape[1], view.shape[2], view.stride[0], view.stride[1]};
  if (view.rank == 2) return {1, view.shape[0], view.shape[1], 0, view.stride[0]};
  require_contiguous(view, op);
  return {1, view.rows(), view.inner(), 0, view.inner()};
}

void require_contiguous(const TensorView& view, const char* op) {
  if (!view.contiguous())
    throw FluxError(code::kUnsupported,
                    std::string(op) + ": the kernel takes contiguous values, not such a view");
}

}  // namespace flux::cuda
