#include "attention/attention.h"
#include "cuda/check.h"
#include "cuda/launchers.h"
#include "cuda/views.h"

namespace flux::cuda {
namespace {

// [B, T, H, D]
kernels::AttentionTensor tensor_of(const TensorView& view) {
  return {view.data, view.stride[0], view.stride[1], view.stride[2]};
}

}  // namespace

void attention(const OpCall& call, const Launch& launch) {
  const TensorView& q = call.tensor("q");
  const TensorView& k = call.tensor("k");
  kernels::AttentionBf16 attention;
  attention.query = tensor_of(q);
  attention.key = tensor_of(k);
  attention.value = tensor_of(call.tensor("v"));
  attention.output = tensor_of(call.tensor("y"));
  attention.batch = static_cast<int>(q.shape[0]);
  attention.queries = static_cast<int>(q.shape[1]);
  attention.heads = static_cast<int>(q.shape[2]);
  attention.head_dim = static_cast<int>(q.shape[3]);
  attention.keys = static_cast<int>(k.shape[1]);
  attention.scale = static_cast<float>(call.number("scale"));
  attention.causal = call.integer("causal") != 0;
  if (const TensorView* bias = call.optional("bias")) {
    attention.bias = {bias->as<const float>(), bias->stride[0], bias->stride[1]};
  }
  attention.workspace = launch.attention_workspace;
  check(kernels::attention_bf16(attention, launch.stream), "attention");
}

}  // namespace flux::cuda
