// Which kernel computes a convolution; around the portable one, GroupNorm's parts are passes of their own.
#include "conv/check.h"
#include "conv/conv.h"
#include "conv/image.h"
#include "launch.cuh"
#include "norm/norm.h"
#include "portable/portable.h"

namespace flux::kernels {
namespace {

bool on_hopper(const Conv2d& conv) { return device_architecture() == 90 && conv2d_hopper_takes(conv); }

// Pixels as rows of a matrix product.
bool is_linear(const Conv2d& conv) {
  return conv.kernel_height == 1 && conv.kernel_width == 1 && conv.stride == 1 && !conv.upsample &&
         conv.pad_top == 0 && conv.pad_left == 0 && conv.out_height == conv.height &&
         conv.out_width == conv.width && conv.affine == nullptr && conv.sums == nullptr &&
         conv.channels % 16 == 0 && conv.out_channels % 16 == 0;
}

Status linear(const Conv2d& conv, cudaStream_t stream) {
  GemmGroup group;
  group.rows = int64_t(conv.batch) * conv.height * conv.width;
  group.a = {conv.x, conv.channels, 0};
  group.w = conv.weight;
  group.w_row_stride = conv.channels;
  group.bias = conv.bias;
  group.residual = {conv.residual, conv.out_channels, 0};
  group.c = {conv.y, conv.out_channels, 0};
  Gemm product;
  product.operand = Element::kBF16;
  product.epilogue = conv.residual ? GemmEpilogue::kGateResidual : GemmEpilogue::kLinear;
  product.n = conv.out_channels;
  product.k = conv.channels;
  product.groups = &group;
  product.group_count = 1;
  return gemm(product, stream);
}

GroupNorm norm_of(const Conv2d& conv, const void* from, void* to, int64_t pixels, int channels) {
  GroupNorm norm;
  norm.x = from;
  norm.y = to;
  norm.batch = conv.batch;
  norm.pixels = pixels;
  norm.channels = channels;
  norm.groups = 1;
  norm.activation = Activation::kSilu;
  return norm;
}

Status in_passes(Conv2d conv, void* workspace, cudaStream_t stream) {
  if (conv.affine != nullptr) {
    const int64_t pixels = int64_t(conv.height) * conv.width;
    const GroupNorm norm = norm_of(conv, conv.x, workspace, pixels, conv.channels);
    if (Status status = group_norm_apply(norm, conv.affine, stream); !status.ok()) return status;
    conv.x = workspace;
  }
  if (Status status = conv2d_portable(conv, stream); !status.ok() || conv.sums == nullptr) return status;
  const int64_t pixels = int64_t(conv.out_height) * conv.out_width;
  return group_norm_pair_sums(norm_of(conv, conv.y, conv.y, pixels, conv.out_channels), conv.sums, stream);
}

}  // namespace

int64_t conv2d_workspace_bytes(const Conv2d& conv) {
  if (conv.affine == nullptr || conv2d_image_out_takes(conv) || on_hopper(conv)) return 0;
  return int64_t(conv.batch) * conv.height * conv.width * conv.channels * 2;
}

Status conv2d(const Conv2d& conv, void* workspace, cudaStream_t stream) {
  if (Status status = conv::check(conv); !status.ok()) return status;
  if (is_linear(conv)) return linear(conv, stream);
  if (conv2d_image_in_takes(conv)) return conv2d_image_in(conv, stream);
  if (conv2d_image_out_takes(conv)) return conv2d_image_out(conv, stream);
  if (on_hopper(conv)) return conv2d_hopper(conv, stream);
  if (workspace == nullptr && conv2d_workspace_bytes(conv) > 0)
    return Status::bad_argument("conv2d: this shape needs a workspace");
  return in_passes(conv, workspace, stream);
}

}  // namespace flux::kernels
