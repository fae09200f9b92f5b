#include "conv/conv.h"

#include "cuda/check.h"
#include "cuda/launchers.h"
#include "cuda/views.h"

namespace flux::cuda {

void conv2d(const OpCall& call, const Launch& launch) {
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
  const auto size = [](int64_t length) { return static_cast<int>(length); };
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
  check(kernels::conv2d(conv, launch.workspace, launch.stream), "conv2d");
}

}  // namespace flux::cuda
