#include "runtime/op.h"

#include <cmath>

#include "runtime/error.h"

namespace flux {

const TensorView* OpCall::optional(std::string_view name) const {
  for (const auto& [key, view] : operands) {
    if (key == name) return &view;
  }
  return nullptr;
}

const TensorView& OpCall::tensor(std::string_view name) const {
  const TensorView* view = optional(name);
  FLUX_CHECK(view != nullptr, kind + ": operand '" + std::string(name) + "' is missing");
  return *view;
}

double OpCall::number(std::string_view name) const {
  for (const auto& [key, value] : attributes) {
    if (key == name) return value;
  }
  throw FluxError(code::kBadArgument, kind + ": attribute '" + std::string(name) + "' is missing");
}

int64_t OpCall::integer(std::string_view name) const {
  const double value = number(name);
  // Beyond 2^53 a double no longer names one integer; NaN fails the comparison too.
  FLUX_CHECK(
      std::abs(value) <= 0x1p53 && value == std::floor(value),
      kind + ": attribute '" + std::string(name) + "' must be an integer, not " + std::to_string(value));
  return static_cast<int64_t>(value);
}

}  // namespace flux
