// Host side of hopper_attention.cuh: tensor maps, the schedule, the launch.
#pragma once

#include "attention/attention.h"
#include "attention/hopper_attention.cuh"
#include "attention/tensor_map.h"

namespace flux::kernels::attention {

inline constexpr size_t kFlagBytes = 4096;
inline constexpr int kMaxWarpgroups = 3;

// [B][T][H][D] in boxes of `rows` tokens × 128 bytes.
inline Status map_tokens(CUtensorMap* map, const AttentionTensor& tensor, CUtensorMapDataType type,
                         int element_bytes, int head_dim, int tokens, int heads, int batch, int rows,
                         const char* what) {
  TensorMapShape shape{};
  shape.type = type;
  const uint64_t extent[4] = {uint64_t(head_dim), uint64_t(tokens), uint64_t(heads), uint64_t(batch)};
  const int64_t strides[3] = {tensor.token_stride, tensor.head_stride, tensor.batch_stride};
  const uint32_t box[4] = {uint32_t(128 / element_bytes), uint32_t(rows), 1, 1};
  for (int i = 0; i < 4; ++i) shape.extent[i] = extent[i], shape.box[i] = box[i];
  for (int i = 0; i < 3; ++i) shape.stride_bytes[i] = uint64_t(strides[i]) * element_bytes;
  shape.swizzle = CU_TENSOR_MAP_SWIZZLE_128B;
  return make_tensor_map(map, tensor.data, shape, what);
}

// Fills in the schedule and the partials; returns the grid.
template <typename C>
int plan_blocks(Parameters& p, int slices, void* workspace) {
  p.slices = slices;
  const int query_tiles = (p.queries + C::kQueryTile - 1) / C::kQueryTile;
  const int key_tiles = (p.keys + C::kKeyTile - 1) / C::kKeyTile;
  const int tiles = slices * query_tiles, multiprocessors = device_multiprocessors();
  const bool may_split = workspace != nullptr && C::kExtra != Extra::kCausal && key_tiles >= 4;
  static_assert(C::kWarpgroups <= kMaxWarpgroups && C::kHeadDim / 2 <= 4 * (kPartialVectors - 1));
  // One warpgroup alone takes two thirds of the time of three; of two it was not worth it. Only the 8-bit kernel passes over the others.
  const int rest = p.queries % C::kQueryTile;
  const int part = C::kPacked && rest > 0 && rest <= 64 ? 2 * Schedule::kWhole / 3 : 0;
  p.schedule = Schedule::make(slices, query_tiles - (part > 0), part, key_tiles, multiprocessors, may_split);
  p.flags = static_cast<uint32_t*>(workspace);
  p.partials = reinterpret_cast<float4*>(static_cast<char*>(workspace) + kFlagBytes);
  return tiles < multiprocessors ? tiles : multiprocessors;
}

template <typename C>
Status launch_hopper(const Parameters& p, int blocks, cudaStream_t stream) {
  return launch("attention", attention_kernel<C>, dim3(blocks), dim3(C::kThreads), C::kSharedBytes, stream,
                p);
}

}  // namespace flux::kernels::attention
