#include "attention/attention.h"
#include "cuda/check.h"
#include "cuda/launchers.h"
#include "cuda/packed_heads.h"
#include "cuda/views.h"

namespace flux::cuda {
namespace {

// [B, T, H, D]
kernels::AttentionTensor tensor_of(const TensorView& view) {
  return {view.data, view.stride[0], view.stride[1], view.stride[2]};
}

// [B, T, H, 128] of part 0, 1 or 2 of [B, T, 3, H, 128].
kernels::AttentionTensor part_of(const TensorView& qkv, int part) {
  return {qkv.as<uint16_t>() + part * qkv.stride[2], qkv.stride[0], qkv.stride[1], qkv.stride[3]};
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

void pack_heads(const OpCall& call, const Launch& launch) {
  const TensorView& qkv = call.tensor("qkv");
  kernels::AttentionPack pack;
  pack.query = part_of(qkv, 0);
  pack.key = part_of(qkv, 1);
  pack.value = part_of(qkv, 2);
  pack.operands = packed_heads(call, 0);
  pack.type = score_type(call);
  if (const TensorView* offset = call.optional("keyOffset")) pack.key_offset = offset->as<const float>();
  pack.batch = static_cast<int>(qkv.shape[0]);
  pack.heads = static_cast<int>(qkv.shape[3]);
  pack.queries = pack.keys = static_cast<int>(qkv.shape[1]);
  check(kernels::attention_pack(pack, launch.stream), "packHeads");
}

void attention_packed(const OpCall& call, const Launch& launch) {
  const TensorView& y = call.tensor("y");
  kernels::AttentionPacked attention;
  attention.operands = packed_heads(call, 0);
  attention.type = score_type(call);
  attention.output = tensor_of(y);
  if (const TensorView* scale = call.optional("yScale")) attention.output_scale = scale->as<const float>();
  if (const TensorView* scale = call.optional("ownScale")) attention.own_scale = scale->as<float>();
  const TensorView& q = call.tensor("q");  // [B, H, T, 128]
  attention.batch = static_cast<int>(q.shape[0]);
  attention.heads = static_cast<int>(q.shape[1]);
  attention.queries = static_cast<int>(q.shape[2]);
  attention.query_tokens = static_cast<int>(q.stride[1] / q.stride[2]);
  attention.keys = static_cast<int>(call.tensor("k").shape[2]);
  attention.scale = static_cast<float>(call.number("scale"));
  attention.workspace = launch.attention_workspace;
  if (const TensorView* offset = call.optional("keyOffset")) attention.key_offset = offset->as<float>();
  check(kernels::attention_packed(attention, launch.stream), "attentionPacked");
}

}  // namespace flux::cuda
