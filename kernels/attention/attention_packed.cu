// 8-bit attention: q·k in int8 or e4m3, P·V in e4m3, on the operands of qkv_layout.cuh.
#include "attention/check.h"
#include "attention/hopper_packed.cuh"
#include "attention/launch_hopper.cuh"
#include "attention/qkv_layout.cuh"

namespace flux::kernels {

namespace attention {

// Blocks of 16 tokens, 2048 bytes each, in boxes of C::kKeyTile tokens.
template <typename C>
Status map_values(CUtensorMap* map, const uint8_t* values, int keys, int slices) {
  const uint64_t blocks = qkv::token_blocks(keys);
  const TensorMapShape shape{CU_TENSOR_MAP_DATA_TYPE_UINT8,
                             {256, 8, blocks, uint64_t(slices)},
                             {256, 2048, blocks * 2048},
                             {256, 8, C::kKeyTile / 16, 1},
                             CU_TENSOR_MAP_SWIZZLE_NONE};
  return make_tensor_map(map, values, shape, "value");
}

bool to_codes(const AttentionPacked& call) {
  return call.output_scale != nullptr || call.own_scale != nullptr;
}

template <typename C>
Status run_packed(const AttentionPacked& call, cudaStream_t stream) {
  const int query_tokens = call.query_tokens == 0 ? call.queries : call.query_tokens;
  Parameters p{};
  p.heads = call.heads;
  p.queries = call.queries;
  p.keys = call.keys;
  p.padded_queries = qkv::padded_tokens(query_tokens);
  p.padded_keys = qkv::padded_tokens(call.keys);
  p.scale_log2 = call.scale * 1.4426950408889634f;
  p.query_rows = reinterpret_cast<const float2*>(call.operands.query_rows);
  p.key_blocks = reinterpret_cast<const float4*>(call.operands.key_blocks);
  p.key_codes = call.operands.key;
  p.key_offset = call.key_offset;
  p.log_sum_exp = call.log_sum_exp;
  const int blocks = plan_blocks<C>(p, call.batch * call.heads, call.workspace);
  const auto map = [&](CUtensorMap* to, uint8_t* data, int tokens, int of, int rows, const char* what) {
    const int64_t slice = int64_t(of) * C::kHeadDim;
    return map_tokens(to, {data, slice * call.heads, C::kHeadDim, slice}, CU_TENSOR_MAP_DATA_TYPE_UINT8, 1,
                      C::kHeadDim, tokens, call.heads, call.batch, rows, what);
  };
  if (Status s = map(&p.query, call.operands.query, call.queries, query_tokens, 64, "query"); !s.ok())
    return s;
  if (Status s = map(&p.key, call.operands.key, call.keys, call.keys, C::kKeyTile, "key"); !s.ok()) return s;
  if (Status s = map_values<C>(&p.value, call.operands.value, call.keys, call.batch * call.heads); !s.ok())
    return s;
  if (to_codes(call)) {
    p.output_scale = call.output_scale;
    p.own_scale = call.own_scale;
    p.codes = call.output;
  } else if (Status s = map_tokens(&p.output, call.output, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 2, C::kHeadDim,
                                   call.queries, call.heads, call.batch, 64, "output");
             !s.ok()) {
    return s;
  }
  return launch_hopper<C>(p, blocks, stream);
}

}  // namespace attention

PackedSizes attention_packed_sizes(int batch, int heads, int queries, int keys) {
  const size_t slices = size_t(batch) * heads;
  return {slices * qkv::scored_slice_bytes(queries), slices * qkv::scored_slice_bytes(keys),
          slices * qkv::value_slice_bytes(keys), slices * qkv::padded_tokens(queries) * sizeof(float2),
          slices * qkv::padded_tokens(keys) / 16 * sizeof(float4)};
}

Status attention_packed(const AttentionPacked& call, cudaStream_t stream) {
  using namespace attention;
  if (Status s = check_shape("attention_packed", call.batch, call.heads, call.queries, call.keys, call.scale);
      !s.ok())
    return s;
  if (!rows_aligned(call.output)) {
    return Status::bad_argument(
        "attention_packed: align the output to 16 bytes and make its strides multiples of 8 elements");
  }
  if (call.query_tokens != 0 && call.query_tokens < call.queries) {
    return Status::bad_argument("attention_packed: " + std::to_string(call.queries) + " queries of " +
                                std::to_string(call.query_tokens) + " tokens");
  }
  if (call.output_scale != nullptr && call.own_scale != nullptr)
    return Status::bad_argument("attention_packed: give the output's scale or have it written, not both");
  const AttentionTensor& y = call.output;
  if (to_codes(call) && (y.batch_stride % 16 != 0 || y.token_stride % 16 != 0 || y.head_stride % 16 != 0)) {
    return Status::bad_argument("attention_packed: strides of an e4m3 output must be multiples of 16");
  }
  if (device_architecture() / 10 != 9) {
    return Status::unsupported(
        "attention_packed: 8-bit attention needs a Hopper GPU (sm_90); use attention_bf16 here");
  }
  if (call.type == ScoreType::kInt8) return run_packed<Config<int8_t, 128, 3, 96, 4>>(call, stream);
  return run_packed<Config<__nv_fp8_e4m3, 128, 3, 96, 4>>(call, stream);
}

}  // namespace flux::kernels
