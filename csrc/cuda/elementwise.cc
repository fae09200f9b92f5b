#include "cuda/check.h"
#include "cuda/launchers.h"
#include "cuda/views.h"

namespace flux::cuda {
namespace {

// An op of one input and one output of the same shape.
template <typename Function, typename... Extra>
void unary(const OpCall& call, const Launch& launch, Function function, const char* input, const char* output,
           Extra... extra) {
  const TensorView& x = call.tensor(input);
  const TensorView& y = call.tensor(output);
  const Folded folded = fold({&x, &y}, call.kind.c_str());
  check(function(const_view(x, folded.views[0]), view_of(y, folded.views[1]), extent_of(folded), extra...,
                 launch.stream),
        call.kind);
}

template <typename Function, typename... Extra>
void binary(const OpCall& call, const Launch& launch, Function function, const char* first,
            const char* second, Extra... extra) {
  const TensorView& a = call.tensor(first);
  const TensorView& b = call.tensor(second);
  const TensorView& y = call.tensor("y");
  const Folded folded = fold({&a, &b, &y}, call.kind.c_str());
  check(function(const_view(a, folded.views[0]), const_view(b, folded.views[1]), view_of(y, folded.views[2]),
                 extent_of(folded), extra..., launch.stream),
        call.kind);
}

kernels::Activation activation_attribute(const OpCall& call) {
  return activation_of(call.integer("activation"));
}

}  // namespace

void copy(const OpCall& call, const Launch& launch) { unary(call, launch, kernels::copy, "x", "y"); }

void add(const OpCall& call, const Launch& launch) { binary(call, launch, kernels::add, "a", "b"); }

void subtract(const OpCall& call, const Launch& launch) { binary(call, launch, kernels::subtract, "a", "b"); }

void add_scaled(const OpCall& call, const Launch& launch) {
  binary(call, launch, kernels::add_scaled, "x", "a", call.tensor("factor").as<const float>());
}

void multiply(const OpCall& call, const Launch& launch) {
  binary(call, launch, kernels::multiply, "a", "b", activation_attribute(call));
}

void activation(const OpCall& call, const Launch& launch) {
  unary(call, launch, kernels::activation, "x", "y", activation_attribute(call));
}

void guide(const OpCall& call, const Launch& launch) {
  binary(call, launch, kernels::guide, "uncond", "cond", static_cast<float>(call.number("scale")));
}

void euler_step(const OpCall& call, const Launch& launch) {
  const auto* sigmas = call.tensor("sigmas").as<const float>();
  const auto* step = call.tensor("step").as<const int32_t>();
  binary(call, launch, kernels::euler_step, "latents", "velocity", sigmas, step);
}

void scale_noise(const OpCall& call, const Launch& launch) {
  const auto* sigmas = call.tensor("sigmas").as<const float>();
  const auto* step = call.tensor("step").as<const int32_t>();
  binary(call, launch, kernels::scale_noise, "x", "noise", sigmas, step);
}

void to_image(const OpCall& call, const Launch& launch) { unary(call, launch, kernels::to_image, "x", "y"); }

void from_image(const OpCall& call, const Launch& launch) {
  unary(call, launch, kernels::from_image, "x", "y");
}

void take_row(const OpCall& call, const Launch& launch) {
  const TensorView& table = call.tensor("table");
  const TensorView& y = call.tensor("y");
  require_contiguous(table, "takeRow");
  require_contiguous(y, "takeRow");
  const auto row_bytes = static_cast<int64_t>(y.elements() * static_cast<int64_t>(size_of(y.dtype)));
  check(kernels::take_row(table.data, static_cast<int>(table.shape[0]), row_bytes,
                          call.tensor("index").as<const int32_t>(), y.data, launch.stream),
        "takeRow");
}

void gather_rows(const OpCall& call, const Launch& launch) {
  const TensorView& x = call.tensor("x");
  require_contiguous(x, "gatherRows");
  const auto row_bytes = static_cast<int64_t>(x.inner() * static_cast<int64_t>(size_of(x.dtype)));
  check(kernels::gather_rows(x.data, static_cast<int>(x.shape[0]), static_cast<int>(x.shape[1]), row_bytes,
                             call.tensor("index").as<const int32_t>(), call.tensor("y").data, launch.stream),
        "gatherRows");
}

void increment(const OpCall& call, const Launch& launch) {
  check(kernels::increment(call.tensor("counter").as<int32_t>(), launch.stream), "increment");
}

void greater(const OpCall& call, const Launch& launch) {
  check(kernels::greater(call.tensor("a").as<const float>(), call.tensor("b").as<const float>(),
                         call.tensor("y").as<int32_t>(), launch.stream),
        "greater");
}

}  // namespace flux::cuda
