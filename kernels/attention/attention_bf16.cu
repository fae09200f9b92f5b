// bf16 attention: checks, and the choice of kernel. Tiles are in one table:
//
//   head_dim  extra   query × key tile  stages  why
//   128       –       192 × 80          3       three warpgroups hide each other's softmax; 80 keys is the most that 160 registers hold
//   64        –       128 × 128         2       512 tokens of 64 heads (T5's shape) are 256 tiles, 97 % of two waves
//   64        causal  128 × 128         2       CLIP's 77 tokens are one tile
//   64        bias    128 × 64          4       the bias's addresses take the registers that a longer tile would need
//   512       –       64 × 128          –       attention_wide.cu
//
// Narrower heads go to attention_narrow.cu. What these do not take, and every device but sm_90, gets the portable kernel.
#include "attention/check.h"
#include "attention/launch_hopper.cuh"
#include "attention/narrow.h"
#include "attention/wide.h"

namespace flux::kernels {

namespace attention {

template <typename C>
Status run_bf16(const AttentionBf16& call, cudaStream_t stream) {
  Parameters p{};
  p.heads = call.heads;
  p.queries = call.queries;
  p.keys = call.keys;
  p.scale = call.scale;
  p.scale_log2 = call.scale * 1.4426950408889634f;
  p.log_sum_exp = call.log_sum_exp;
  p.bias = call.bias.data;
  p.bias_head_stride = call.bias.head_stride;
  p.bias_row_stride = call.bias.row_stride;
  const int blocks = plan_blocks<C>(p, call.batch * call.heads, call.workspace);
  const auto map = [&](CUtensorMap* to, const AttentionTensor& tensor, int tokens, int rows,
                       const char* what) {
    return map_tokens(to, tensor, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 2, C::kHeadDim, tokens, call.heads,
                      call.batch, rows, what);
  };
  if (Status s = map(&p.query, call.query, call.queries, 64, "query"); !s.ok()) return s;
  if (Status s = map(&p.key, call.key, call.keys, C::kKeyTile, "key"); !s.ok()) return s;
  if (Status s = map(&p.value, call.value, call.keys, C::kKeyTile, "value"); !s.ok()) return s;
  if (Status s = map(&p.output, call.output, call.queries, 64, "output"); !s.ok()) return s;
  return launch_hopper<C>(p, blocks, stream);
}

using Bf16 = __nv_bfloat16;

}  // namespace attention

size_t attention_workspace_bytes() {
  constexpr size_t kPartialBytes = attention::kPartialVectors * 128 * sizeof(float4);
  return attention::kFlagBytes + size_t(device_multiprocessors()) * attention::kMaxWarpgroups * kPartialBytes;
}

Status attention_bf16(const AttentionBf16& call, cudaStream_t stream) {
  using namespace attention;
  if (Status s = check(call); !s.ok()) return s;
  const bool biased = call.bias.data != nullptr;
  if (device_architecture() / 10 != 9) return attention_bf16_portable(call, stream);
  if (is_narrow(call.head_dim)) return run_narrow(call, stream);
  if (call.head_dim == 64) {
    if (biased) return run_bf16<Config<Bf16, 64, 2, 64, 4, Extra::kBias>>(call, stream);
    if (call.causal) return run_bf16<Config<Bf16, 64, 2, 128, 2, Extra::kCausal>>(call, stream);
    return run_bf16<Config<Bf16, 64, 2, 128, 2>>(call, stream);
  }
  if (biased || call.causal) return attention_bf16_portable(call, stream);
  return call.head_dim == 512 ? run_wide(call, stream) : run_bf16<Config<Bf16, 128, 3, 80, 3>>(call, stream);
}

}  // namespace flux::kernels
