// Checks of an op's operands. Every failure is a FluxError that names the op, the operand and its shape.
#pragma once

#include <initializer_list>
#include <string>
#include <string_view>

#include "cpu/simd/kernels.h"
#include "runtime/op.h"

namespace flux::cpu {

// Throws FluxError(ERR_FLUX_BAD_ARGUMENT) "kind: what".
[[noreturn]] void fail(const OpCall& call, const std::string& what);

// "x [2, 77, 768] f32"
std::string describe(std::string_view name, const TensorView& view);

// The operand, which must have one of the dtypes and an innermost stride of 1.
const TensorView& operand(const OpCall& call, std::string_view name,
                          std::initializer_list<DType> dtypes = {DType::kF32});
// The same, or nullptr when the call has no such operand.
const TensorView* optional_operand(const OpCall& call, std::string_view name,
                                   std::initializer_list<DType> dtypes = {DType::kF32});

// The view's shape must be this one; -1 stands for any size.
void expect_shape(const OpCall& call, std::string_view name, const TensorView& view,
                  std::initializer_list<int64_t> shape);
void expect_same_shape(const OpCall& call, std::string_view name, const TensorView& view,
                       std::string_view reference_name, const TensorView& reference);
// All axes but the last must agree.
void expect_same_rows(const OpCall& call, std::string_view name, const TensorView& view,
                      std::string_view reference_name, const TensorView& reference);

// The data of an optional vector [n] of f32; null when absent.
const float* vector_operand(const OpCall& call, std::string_view name, int64_t n);

// Attributes within their range.
Activation activation_attribute(const OpCall& call);
int64_t integer_attribute(const OpCall& call, std::string_view name, int64_t least, int64_t most);
float float_attribute(const OpCall& call, std::string_view name);

// Size of the batch axis that gates and modulations refer to: shape[0], or 1 for a single row.
inline int64_t batch_of(const TensorView& view) { return view.rank >= 2 ? view.shape[0] : 1; }

}  // namespace flux::cpu
