// Epilogues of the portable GEMM: functors over eight columns of one row.
//
// Sixteen neighbouring lanes hold one row of a 128-column tile, lane l of them columns 8·l …, so a head of 128 columns is
// one such row and its norm is four shuffles. All lanes of a warp come here together; `inside` says whether a lane's row
// and columns exist. x is already scaled and has its bias.
#pragma once

#include "activation.cuh"
#include "portable/params.h"
#include "quantise/e4m3.cuh"
#include "vector.cuh"

namespace flux::kernels::portable {

struct Place {
  int row;     // within the batch
  int column;  // first of eight
  bool inside;
};

// Stores eight values as `output`; e4m3 with the scale that gemm.h gives the row.
__device__ __forceinline__ void store_output(const GemmRows<void>& rows, Element output, int batch,
                                             const Place& place, int column, float (&x)[8],
                                             float inverse_scale) {
  const int64_t at = batch * rows.batch_stride + place.row * rows.row_stride + column;
  if (output == Element::kBF16) {
    store8(static_cast<bf16*>(rows.data) + at, x);
  } else if (output == Element::kF32) {
    store8(static_cast<float*>(rows.data) + at, x);
  } else {
#pragma unroll
    for (int i = 0; i < 8; ++i) x[i] *= inverse_scale;
    const uint2 codes = make_uint2(e4m3x2(x[0], x[1]) | (e4m3x2(x[2], x[3]) << 16),
                                   e4m3x2(x[4], x[5]) | (e4m3x2(x[6], x[7]) << 16));
    *reinterpret_cast<uint2*>(static_cast<uint8_t*>(rows.data) + at) = codes;
  }
}

// C = activation(x)
struct Linear {
  static __device__ __forceinline__ void finish(const Params& params, const Tile& tile, const Place& place,
                                                float (&x)[8]) {
    if (!place.inside) return;
    const GemmGroup& group = *tile.group;
#pragma unroll
    for (int i = 0; i < 8; ++i) x[i] = activate(params.activation, x[i]);
    float inverse = 1.0f;
    if (params.output == Element::kE4M3) {
      const float row_scale = group.a_scale[tile.batch * group.a_scale_batch_stride + place.row];
      const float bound = fmaf(row_scale, group.bounds[0], group.bounds[1]);
      const float scale = bound > 0.0f ? bound * (1.0f / 448.0f) : 1.0f;
      inverse = 1.0f / scale;
      if (place.column == 0) group.c_scale[tile.batch * group.c_scale_batch_stride + place.row] = scale;
    }
    store_output(group.c, params.output, tile.batch, place, place.column, x, inverse);
  }
};

// C = residual + gate · x; C may be the residual.
struct GateResidual {
  static __device__ __forceinline__ void finish(const Params&, const Tile& tile, const Place& place,
                                                float (&x)[8]) {
    if (!place.inside) return;
    const GemmGroup& group = *tile.group;
    float residual[8], gate[8];
    load8(static_cast<const bf16*>(group.residual.data) + tile.batch * group.residual.batch_stride +
              place.row * group.residual.row_stride + place.column,
          residual);
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      gate[i] =
          group.gate == nullptr ? 1.0f : group.gate[tile.batch * group.gate_batch_stride + place.column + i];
    }
#pragma unroll
    for (int i = 0; i < 8; ++i) x[i] = fmaf(gate[i], x[i], residual[i]);
    store_output(group.c, Element::kBF16, tile.batch, place, place.column, x, 1.0f);
  }
};

// q and k: RMSNorm over the head, RoPE on adjacent pairs; v as it is; what lies beyond: activation, to `mlp`.
struct Qkv {
  static __device__ __forceinline__ void finish(const Params& params, const Tile& tile, const Place& place,
                                                float (&x)[8]) {
    const GemmGroup& group = *tile.group;
    const int section =
        tile.column / (params.heads * kTile);  // of the whole tile: 0 q, 1 k, 2 v, 3 and more the rest
    if (section < 2) {
      float squares = 0.0f;
#pragma unroll
      for (int i = 0; i < 8; ++i) squares = fmaf(x[i], x[i], squares);
#pragma unroll
      for (int offset = 8; offset > 0; offset /= 2) squares += __shfl_xor_sync(0xffffffffu, squares, offset);
      if (!place.inside) return;
      const float inverse = rsqrtf(fmaf(squares, 1.0f / kTile, params.eps));
      const int in_head = place.column % kTile;
      const float* norm = (section == 0 ? group.norm_q : group.norm_k) + in_head;
      const float* angles = group.rope + int64_t(place.row) * kTile + in_head;
#pragma unroll
      for (int i = 0; i < 8; i += 2) {
        const float left = x[i] * inverse * norm[i], right = x[i + 1] * inverse * norm[i + 1];
        const float cosine = angles[i], sine = angles[i + 1];
        x[i] = left * cosine - right * sine;
        x[i + 1] = right * cosine + left * sine;
      }
    }
    if (!place.inside) return;
    if (section < 3) {
      store_output(group.c, Element::kBF16, tile.batch, place, place.column, x, 1.0f);
    } else {
#pragma unroll
      for (int i = 0; i < 8; ++i) x[i] = activate(params.activation, x[i]);
      store_output(group.mlp, Element::kBF16, tile.batch, place, place.column - 3 * params.heads * kTile, x,
                   1.0f);
    }
  }
};

}  // namespace flux::kernels::portable
