#include "conv/conv.h"

#include "cuda/check.h"
#include "cuda/launchers.h"
#include "cuda/views.h"

namespace flux::cuda {
namespace {

int size(int64_t length) { return static_cast<int>(length); }

kernels::Conv2d conv_of(const OpCall& call) {
  const TensorView& x = call.tensor("x");
  const TensorView& weight = call.tensor("weight");
  const TensorView& y = call.tensor("y");
  for (const TensorView* view : {&x, &weight, &y}) {
    require_contiguous(*view, "conv2d");
    FLUX_CHECK(view->dtype == DType::kBF16,
               "conv2d: x, weight and y are bf16 on the GPU, not " + std::string(name_of(view->dtype)));
  }
  kernels::Conv2d conv;
  conv.x = x.data;
  conv.weight = weight.data;
  conv.y = y.data;
  if (const TensorView* bias = call.optional("bias")) conv.bias = bias->as<const float>();
  if (const TensorView* residual = call.optional("residual")) {
    require_contiguous(*residual, "conv2d");
    conv.residual = residual->data;
  }
  if (const TensorView* affine = call.optional("affine")) conv.affine = affine->as<const float>();
  if (const TensorView* sums = call.optional("sums")) conv.sums = sums->as<float>();
  conv.batch = size(x.shape[0]);
  conv.height = size(x.shape[1]);
  conv.width = size(x.shape[2]);
  conv.channels = size(x.shape[3]);
  conv.out_height = size(y.shape[1]);
  conv.out_width = size(y.shape[2]);
  conv.out_channels = size(y.shape[3]);
  conv.upsample = call.integer("upsample") == 2;
  conv.phases = call.integer("phases") != 0;
  conv.kernel_height = conv.phases ? 2 : size(weight.shape[1]);
  conv.kernel_width = conv.phases ? 2 : size(weight.shape[2]);
  conv.stride = size(call.integer("stride"));
  conv.pad_top = size(call.integer("padTop"));
  conv.pad_left = size(call.integer("padLeft"));
  return conv;
}

}  // namespace

void conv2d(const OpCall& call, const Launch& launch) {
  check(kernels::conv2d(conv_of(call), launch.workspace, launch.stream), "conv2d");
}

uint64_t conv2d_workspace(const OpCall& call) {
  return static_cast<uint64_t>(kernels::conv2d_workspace_bytes(conv_of(call)));
}

}  // namespace flux::cuda
