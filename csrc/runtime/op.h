// OpCall: one recorded step with its operands bound to memory. Both backends execute these.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "runtime/tensor.h"

namespace flux {

struct OpCall {
  std::string kind;
  std::vector<std::pair<std::string, TensorView>> operands;
  std::vector<std::pair<std::string, double>> attributes;

  const TensorView& tensor(std::string_view name) const;    // throws when absent
  const TensorView* optional(std::string_view name) const;  // nullptr when absent
  double number(std::string_view name) const;               // throws when absent
  int64_t integer(std::string_view name) const;
};

}  // namespace flux
