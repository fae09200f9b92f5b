#include "cpu/checks.h"

#include <algorithm>
#include <cmath>

#include "runtime/error.h"

namespace flux::cpu {

void fail(const OpCall& call, const std::string& what) {
  throw FluxError(code::kBadArgument, call.kind + ": " + what);
}

std::string describe(std::string_view name, const TensorView& view) {
  return std::string(name) + " " + view.shape_string() + " " + std::string(name_of(view.dtype));
}

namespace {

void check_operand(const OpCall& call, std::string_view name, const TensorView& view,
                   std::initializer_list<DType> dtypes) {
  if (std::find(dtypes.begin(), dtypes.end(), view.dtype) == dtypes.end()) {
    std::string allowed;
    for (const DType dtype : dtypes) allowed += (allowed.empty() ? "" : " or ") + std::string(name_of(dtype));
    fail(call, describe(name, view) + " must be " + allowed);
  }
  if (view.rank > 0 && view.inner() > 1 && view.stride[view.rank - 1] != 1) {
    fail(call, describe(name, view) + " must have a contiguous innermost axis");
  }
  if (view.data == nullptr && view.elements() > 0)
    fail(call, describe(name, view) + " has no memory bound to it");
}

std::string shape_text(std::initializer_list<int64_t> shape) {
  std::string text = "[";
  for (const int64_t size : shape) {
    if (text.size() > 1) text += ", ";
    text += size < 0 ? "*" : std::to_string(size);
  }
  return text + "]";
}

}  // namespace

const TensorView& operand(const OpCall& call, std::string_view name, std::initializer_list<DType> dtypes) {
  const TensorView& view = call.tensor(name);
  check_operand(call, name, view, dtypes);
  return view;
}

const TensorView* optional_operand(const OpCall& call, std::string_view name,
                                   std::initializer_list<DType> dtypes) {
  const TensorView* view = call.optional(name);
  if (view != nullptr) check_operand(call, name, *view, dtypes);
  return view;
}

void expect_shape(const OpCall& call, std::string_view name, const TensorView& view,
                  std::initializer_list<int64_t> shape) {
  bool equal = view.rank == static_cast<int>(shape.size());
  int axis = 0;
  for (const int64_t size : shape) {
    if (equal && size >= 0 && view.shape[axis] != size) equal = false;
    ++axis;
  }
  if (!equal) fail(call, describe(name, view) + " must have shape " + shape_text(shape));
}

void expect_same_shape(const OpCall& call, std::string_view name, const TensorView& view,
                       std::string_view reference_name, const TensorView& reference) {
  expect_same_rows(call, name, view, reference_name, reference);
  if (view.inner() != reference.inner()) {
    fail(call, describe(name, view) + " must have the shape of " + describe(reference_name, reference));
  }
}

void expect_same_rows(const OpCall& call, std::string_view name, const TensorView& view,
                      std::string_view reference_name, const TensorView& reference) {
  bool equal = view.rank == reference.rank;
  for (int axis = 0; equal && axis < view.rank - 1; ++axis) equal = view.shape[axis] == reference.shape[axis];
  if (!equal)
    fail(call, describe(name, view) + " must have the rows of " + describe(reference_name, reference));
}

const float* vector_operand(const OpCall& call, std::string_view name, int64_t n) {
  const TensorView* view = optional_operand(call, name);
  if (view == nullptr) return nullptr;
  expect_shape(call, name, *view, {n});
  return view->as<const float>();
}

Activation activation_attribute(const OpCall& call) {
  return static_cast<Activation>(integer_attribute(call, "activation", 0, 3));
}

int64_t integer_attribute(const OpCall& call, std::string_view name, int64_t least, int64_t most) {
  const int64_t value = call.integer(name);
  if (value < least || value > most) {
    fail(call, "attribute '" + std::string(name) + "' must be between " + std::to_string(least) + " and " +
                   std::to_string(most) + ", not " + std::to_string(value));
  }
  return value;
}

float float_attribute(const OpCall& call, std::string_view name) {
  const double value = call.number(name);
  if (!std::isfinite(value)) fail(call, "attribute '" + std::string(name) + "' must be finite");
  return static_cast<float>(value);
}

}  // namespace flux::cpu
