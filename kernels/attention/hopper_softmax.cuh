// The softmax of the Hopper kernels: a warpgroup's accumulator of scores → probabilities in place, and the rows' state.
//
// `softmax_exact` finds each row's maximum first. `softmax_bounded`, for 8-bit operands, does not look for maxima at all: by
// Cauchy-Schwarz no score of row i exceeds |qᵢ|·max|k|, so when that bound lies within f32's range of the reference taken from the
// row's first tile, the exponentials cannot overflow, and a sum over the thread's columns that exceeds what e4m3 holds (448) tells
// afterwards that the reference is too low. P, sum and O are then multiplied by the power of two that brings the sum back, which
// is exact. That drops a third of the instructions and the wait for the maximum, and after the first tile it is rare. Queries and
// keys that are normalised, as in FLUX, always satisfy the bound; a warp whose rows do not takes the exact way.
#pragma once

#include "attention/hopper_config.cuh"

namespace flux::kernels::attention {

// What a thread knows of its two rows throughout a query tile.
template <typename C>
struct RowContext {
  float scale[2];        // of the products of the row; times log2 e
  float bound[2];        // 8-bit operands: what no score exceeds, in log2 units
  int row[2];            // in the sequence
  const float* bias[2];  // of the row
};

// A block's {kScale, kNorm, vExponent, 2^-vExponent}; neutral for blocks beyond the last key, whose memory was never written.
template <typename C, bool kRagged>
__device__ __forceinline__ float4 key_block(const Parameters& p, uint32_t blocks, int block, int first_key) {
  if constexpr (!C::kPacked) return {1.0f, 0.0f, 0.0f, 1.0f};
  if (kRagged && first_key + 16 * block >= p.keys) return {1.0f, 0.0f, 0.0f, 1.0f};
  return ptx::ld_shared_v4_f32(blocks + 16 * block);
}

// The bias of a tile, fetched while its products run.
template <typename C, bool kRagged>
__device__ __forceinline__ void load_bias(float (&y)[C::kKeyTile / 2], const Parameters& p,
                                          const RowContext<C>& rows, int first_key) {
#pragma unroll
  for (int i = 0; i < C::kKeyTile / 2; ++i) {
    const int key = first_key + i / 4 * 8 + 2 * (threadIdx.x % 4) + i % 2;
    y[i] = __ldg(rows.bias[i / 2 % 2] + (kRagged ? min(key, p.keys - 1) : key));
  }
}

// Scores up to the row's scale, biased (y comes with the bias) and masked. `first_key` is the tile's first key.
template <typename C, bool kRagged>
__device__ __forceinline__ void read_scores(float (&y)[C::kKeyTile / 2],
                                            const typename C::Accumulator (&s)[C::kKeyTile / 2],
                                            const Parameters& p, const RowContext<C>& rows, uint32_t blocks,
                                            int first_key) {
  float scale = 1.0f;
  const int column = 2 * (threadIdx.x % 4);
#pragma unroll
  for (int i = 0; i < C::kKeyTile / 2; ++i) {
    const int h = i / 2 % 2, key = first_key + i / 4 * 8 + column + i % 2;
    float v = float(s[i]);
    if constexpr (C::kPacked) {
      if (i % C::kPerBlock == 0) scale = key_block<C, kRagged>(p, blocks, i / C::kPerBlock, first_key).x;
      v *= scale;
    }
    if constexpr (C::kExtra == Extra::kBias) v = fmaf(v, p.scale, y[i]);
    if constexpr (C::kExtra == Extra::kCausal) v = key <= rows.row[h] ? v : -INFINITY;
    if constexpr (kRagged) v = key < p.keys ? v : -INFINITY;
    y[i] = v;
  }
}

// Scores of a tile to probabilities y. Returns whether O must be multiplied by `factor` first. kRagged is the first tile handled; `bounded`,
// where it is asked for, says whether the tiles after it may take `softmax_bounded`.
template <typename C, bool kRagged>
__device__ __forceinline__ bool softmax_exact(float (&y)[C::kKeyTile / 2], Rows& rows, float (&factor)[2],
                                              const typename C::Accumulator (&s)[C::kKeyTile / 2],
                                              const Parameters& p, const RowContext<C>& context,
                                              uint32_t blocks, int first_key, bool* bounded = nullptr) {
  using P = Probabilities<typename C::Value>;
  constexpr int kPerSegment = C::kSegment / 2;  // a thread's scores in one
  read_scores<C, kRagged>(y, s, p, context, blocks, first_key);
  float maximum[2] = {-INFINITY, -INFINITY};
#pragma unroll
  for (int g = 0; g < C::kSegments; ++g) {
    const float exponent = key_block<C, kRagged>(p, blocks, g * C::kSegment / 16, first_key).z;
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      float m = -INFINITY;
#pragma unroll
      for (int i = 0; i < kPerSegment; i += 4) {
        m = fmaxf(m, fmaxf(y[g * kPerSegment + i + 2 * h], y[g * kPerSegment + i + 2 * h + 1]));
      }
      // Rounded up, so that no exponent below is positive because of a large score's rounding.
      maximum[h] = fmaxf(maximum[h], __fmaf_ru(m, context.scale[h], exponent));
    }
  }
  maximum[0] = quad_max(maximum[0]);
  maximum[1] = quad_max(maximum[1]);
  const bool rescale = rows.raise<typename C::Value>(maximum, factor);
  if constexpr (C::kPacked && kRagged) {
    *bounded = __all_sync(0xffffffff, context.bound[0] - rows.reference[0] < P::kLimit &&
                                          context.bound[1] - rows.reference[1] < P::kLimit);
    if (*bounded) {
      rows.reference[0] += P::kHeadroom;
      rows.reference[1] += P::kHeadroom;
    }
  }
  const float offset[2] = {rows.offset(0, P::kBase), rows.offset(1, P::kBase)};
#pragma unroll
  for (int g = 0; g < C::kSegments; ++g) {
    const float4 block = key_block<C, kRagged>(p, blocks, g * C::kSegment / 16, first_key);
    float sum[2] = {0.0f, 0.0f};
#pragma unroll
    for (int i = 0; i < kPerSegment; ++i) {
      const int h = i / 2 % 2;
      float& v = y[g * kPerSegment + i];
      v = exp2_approx(fmaf(v, context.scale[h], offset[h] + block.z));
      sum[h] += v;
    }
#pragma unroll
    for (int h = 0; h < 2; ++h) rows.sum[h] = fmaf(sum[h], block.w, rows.sum[h]);
  }
  return rescale;
}

// The reference was too low for at least one row of the warp: raises it by whole powers of two until no thread's sum exceeds e4m3.
template <typename C>
__device__ __forceinline__ void lower_probabilities(float (&y)[C::kKeyTile / 2], Rows& rows,
                                                    float (&factor)[2], const float (&raw)[2]) {
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const float excess = quad_max(raw[h]) * (1.0f / 448.0f);
    const int shift = max(((__float_as_int(excess) + 0x7fffff) >> 23) - 127, 0);  // ⌈log2⌉
    factor[h] = __int_as_float((127 - shift) << 23);
    rows.reference[h] += float(shift);
    rows.sum[h] *= factor[h];
  }
#pragma unroll
  for (int i = 0; i < C::kKeyTile / 2; ++i) y[i] *= factor[i / 2 % 2];
}

// As `softmax_exact`, without a search for maxima.
template <typename C>
__device__ __forceinline__ bool softmax_bounded(float (&y)[C::kKeyTile / 2], Rows& rows, float (&factor)[2],
                                                const typename C::Accumulator (&s)[C::kKeyTile / 2],
                                                const RowContext<C>& context, uint32_t blocks) {
  using P = Probabilities<typename C::Value>;
  const float base[2] = {P::kBase - rows.reference[0], P::kBase - rows.reference[1]};
  float raw[2];
#pragma unroll
  for (int g = 0; g < C::kSegments; ++g) {
    constexpr int kBlocks = C::kBlocks / C::kSegments;
    float partial[2], offset[2], weight;
#pragma unroll
    for (int b = 0; b < kBlocks; ++b) {
      const float4 block = ptx::ld_shared_v4_f32(blocks + 16 * (g * kBlocks + b));
      if (b == 0) {
        offset[0] = base[0] + block.z;
        offset[1] = base[1] + block.z;
        weight = block.w;
      }
      const float scale[2] = {context.scale[0] * block.x, context.scale[1] * block.x};
#pragma unroll
      for (int i = 0; i < C::kPerBlock; ++i) {
        const int h = i / 2 % 2, at = (g * kBlocks + b) * C::kPerBlock + i;
        y[at] = exp2_approx(fmaf(float(s[at]), scale[h], offset[h]));
        partial[h] = b == 0 && i == 2 * h ? y[at] : partial[h] + y[at];
      }
    }
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      raw[h] = g == 0 ? partial[h] : raw[h] + partial[h];
      rows.sum[h] = fmaf(partial[h], weight, rows.sum[h]);
    }
  }
  const bool lower = __any_sync(0xffffffff, raw[0] > 448.0f || raw[1] > 448.0f);
  if (lower) lower_probabilities<C>(y, rows, factor, raw);
  return lower;
}

// Probabilities to wgmma's A fragments: after the products that read the old ones have finished.
template <typename C>
__device__ __forceinline__ void pack(uint32_t (&p)[C::kFragments][4], const float (&y)[C::kKeyTile / 2]) {
  constexpr int kPerFragment = Probabilities<typename C::Value>::kKeys / 2;
#pragma unroll
  for (int f = 0; f < C::kFragments; ++f) pack_fragment<typename C::Value>(p[f], y + f * kPerFragment);
}

}  // namespace flux::kernels::attention
