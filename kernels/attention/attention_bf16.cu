// bf16 attention: checks, and the choice of kernel. Tiles are in one table:
//
//   head_dim  query × key tile  stages  why
//   128       128 × 128         2       the largest key tile of which S, P and O fit 240 registers beside two stages in 227 KiB
//   64        128 × 128         2       T5 and CLIP: 512 tokens of 64 heads are 256 tiles, 97 % of two waves
#include "attention/launch_hopper.cuh"

namespace flux::kernels {

namespace attention {

template <typename C>
Status run_bf16(const AttentionBf16& call, cudaStream_t stream) {
  Parameters p{};
  p.heads = call.heads;
  p.queries = call.queries;
  p.keys = call.keys;
  p.scale_log2 = call.scale * 1.4426950408889634f;
  p.log_sum_exp = call.log_sum_exp;
  p.bias = call.bias.data;
  p.bias_head_stride = call.bias.head_stride;
  p.bias_row_stride = call.bias.row_stride;
  const int blocks = plan_blocks<C>(p, call.batch * call.heads, call.workspace);
  const auto map = [&](CUtensorMap* to, const AttentionTensor& tensor, int tokens, int rows, const char* what) {
    return map_tokens(to, tensor, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 2, C::kHeadDim, tokens, call.heads, call.batch, rows, what);
  };
  if (Status s = map(&p.query, call.query, call.queries, 64, "query"); !s.ok()) return s;
  if (Status s = map(&p.key, call.key, call.keys, C::kKeyTile, "key"); !s.ok()) return s;
  if (Status s = map(&p.value, call.value, call.keys, C::kKeyTile, "value"); !s.ok()) return s;
  if (Status s = map(&p.output, call.output, call.queries, 64, "output"); !s.ok()) return s;
  return launch_hopper<C>(p, blocks, stream);
}

using Bf16 = __nv_bfloat16;

}  // namespace attention

Status attention_bf16(const AttentionBf16& call, cudaStream_t stream) {
  using namespace attention;
  if (call.head_dim == 64 && call.bias.data != nullptr) {
    return run_bf16<Config<Bf16, 64, 2, 128, 2, Extra::kBias>>(call, stream);
  }
  if (call.head_dim == 64 && call.causal) return run_bf16<Config<Bf16, 64, 2, 128, 2, Extra::kCausal>>(call, stream);
  if (call.head_dim == 64) return run_bf16<Config<Bf16, 64, 2, 128, 2>>(call, stream);
  return run_bf16<Config<Bf16, 128, 2, 128, 2>>(call, stream);
}

}  // namespace flux::kernels
