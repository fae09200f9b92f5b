// layerNorm, rmsNorm and groupNorm. y may be bf16, or e4m3 codes with yScale for a linear that follows.
#include "norm/norm.h"

#include <algorithm>

#include "cuda/check.h"
#include "cuda/launchers.h"
#include "cuda/views.h"

namespace flux::cuda {
namespace {

kernels::NormRows rows_of(const OpCall& call, const char* op) {
  const TensorView& x = call.tensor("x");
  const TensorView& y = call.tensor("y");
  const Matrix from = matrix_of(x, op);
  const Matrix to = matrix_of(y, op);
  kernels::NormRows rows;
  rows.x = x.data;
  rows.x_batch_stride = from.batch_stride;
  rows.x_row_stride = from.row_stride;
  rows.y = y.data;
  rows.y_batch_stride = to.batch_stride;
  rows.y_row_stride = to.row_stride;
  rows.y_type = element_of(y.dtype);
  if (const TensorView* scale = call.optional("yScale")) rows.y_scale = scale->as<float>();
  rows.batch = static_cast<int>(from.batches);
  rows.rows = static_cast<int>(from.rows);
  rows.width = static_cast<int>(from.width);
  rows.epsilon = static_cast<float>(call.number("eps"));
  return rows;
}

// Of shift and scale; without them it has no meaning.
kernels::Element parameter_type(const OpCall& call) {
  const TensorView* shift = call.optional("shift");
  return shift == nullptr ? kernels::Element::kF32 : element_of(shift->dtype);
}

// LayerNorm without weight and bias: calls that agree in everything but their rows and what these are modulated by.
void modulate(const std::vector<const OpCall*>& calls, const Launch& launch) {
  std::vector<kernels::ModulatedRows> groups;
  for (const OpCall* call : calls) {
    kernels::ModulatedRows& group = groups.emplace_back();
    group.rows = rows_of(*call, "layerNorm");
    if (const TensorView* shift = call->optional("shift")) {
      const TensorView& scale = call->tensor("scale");
      FLUX_CHECK(shift->stride[0] == scale.stride[0] && shift->dtype == scale.dtype,
                 "layerNorm: shift and scale lie differently");
      group.modulation = {shift->data, scale.data, shift->stride[0]};
    }
  }
  check(kernels::layer_norm_modulate(groups.data(), static_cast<int>(groups.size()),
                                     parameter_type(*calls.front()), launch.stream),
        "layerNorm");
}

kernels::GroupNorm group_norm_of(const OpCall& call) {
  const TensorView& x = call.tensor("x");
  require_contiguous(x, "groupNorm");
  kernels::GroupNorm norm;
  norm.x = x.data;
  norm.y = call.tensor("y").data;
  norm.weight = call.tensor("weight").as<const float>();
  norm.bias = call.tensor("bias").as<const float>();
  norm.batch = static_cast<int>(x.shape[0]);
  norm.channels = static_cast<int>(x.inner());
  norm.pixels = x.elements() / x.shape[0] / x.inner();
  norm.groups = static_cast<int>(call.integer("groups"));
  norm.epsilon = static_cast<float>(call.number("eps"));
  norm.activation = activation_of(call.integer("activation"));
  return norm;
}

}  // namespace

void layer_norm(const OpCall& call, const Launch& launch) {
  const kernels::NormRows rows = rows_of(call, "layerNorm");
  if (const TensorView* weight = call.optional("weight")) {
    const TensorView& bias = call.tensor("bias");
    check(kernels::layer_norm(rows, weight->data, bias.data, element_of(weight->dtype), launch.stream),
          "layerNorm");
    return;
  }
  modulate({&call}, launch);
}

bool layer_norm_together(const std::vector<const OpCall*>& calls, const Launch& launch) {
  const auto alike = [&](const OpCall* call) {
    const OpCall& first = *calls.front();
    return call->optional("weight") == nullptr && parameter_type(*call) == parameter_type(first) &&
           call->tensor("x").inner() == first.tensor("x").inner() &&
           call->tensor("y").dtype == first.tensor("y").dtype && call->number("eps") == first.number("eps");
  };
  if (calls.size() > kernels::kNormMaxGroups || !std::all_of(calls.begin(), calls.end(), alike)) return false;
  modulate(calls, launch);
  return true;
}

void rms_norm(const OpCall& call, const Launch& launch) {
  const TensorView& weight = call.tensor("weight");
  check(kernels::rms_norm(rows_of(call, "rmsNorm"), weight.data, element_of(weight.dtype), launch.stream),
        "rmsNorm");
}

void group_norm_sums(const OpCall& call, const Launch& launch) {
  const TensorView& x = call.tensor("x");
  require_contiguous(x, "groupNormSums");
  kernels::GroupNorm norm;
  norm.x = x.data;
  norm.batch = static_cast<int>(x.shape[0]);
  norm.channels = static_cast<int>(x.inner());
  norm.pixels = x.elements() / x.shape[0] / x.inner();
  norm.groups = 1;
  check(kernels::group_norm_pair_sums(norm, call.tensor("sums").as<float>(), launch.stream), "groupNormSums");
}

void group_norm_affine(const OpCall& call, const Launch& launch) {
  const TensorView& sums = call.tensor("sums");  // [B, parts, C / 2, 2]
  kernels::GroupNorm norm;
  norm.weight = call.tensor("weight").as<const float>();
  norm.bias = call.tensor("bias").as<const float>();
  norm.batch = static_cast<int>(sums.shape[0]);
  norm.channels = static_cast<int>(2 * sums.shape[2]);
  norm.pixels = call.integer("pixels");
  norm.groups = static_cast<int>(call.integer("groups"));
  norm.epsilon = static_cast<float>(call.number("eps"));
  kernels::GroupNormSums partial;
  partial.sums = sums.as<const float>();
  partial.parts = static_cast<int>(sums.shape[1]);
  partial.channels_per_sum = 2;
  check(kernels::group_norm_affine(norm, partial, call.tensor("y").as<float>(), launch.stream),
        "groupNormAffine");
}

void group_norm_apply(const OpCall& call, const Launch& launch) {
  const TensorView& x = call.tensor("x");
  require_contiguous(x, "groupNormApply");
  kernels::GroupNorm norm;
  norm.x = x.data;
  norm.y = call.tensor("y").data;
  norm.batch = static_cast<int>(x.shape[0]);
  norm.channels = static_cast<int>(x.inner());
  norm.pixels = x.elements() / x.shape[0] / x.inner();
  norm.groups = 1;
  norm.activation = activation_of(call.integer("activation"));
  check(kernels::group_norm_apply(norm, call.tensor("affine").as<const float>(), launch.stream),
        "groupNormApply");
}

void group_norm(const OpCall& call, const Launch& launch) {
  check(kernels::group_norm(group_norm_of(call), launch.workspace, launch.stream), "groupNorm");
}

uint64_t group_norm_workspace(const OpCall& call) {
  return static_cast<uint64_t>(kernels::group_norm_workspace_bytes(group_norm_of(call)));
}

}  // namespace flux::cuda
