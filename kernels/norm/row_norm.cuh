// Norms over the last axis: kLanes threads hold one row in registers, read once and written once.
//
//   load kChunks × 8 bf16 a thread (chunk c, lane l: columns 8·(c·kLanes + l) …: a warp reads 512 consecutive bytes)
//   → mean over the row, deviations and their squares (two passes over registers: no cancellation), or squares alone
//   → y = deviation · rstd, then the affine part → store bf16, or row maximum → e4m3 codes and the row's scale.
//
// Up to 32 lanes a row, a block of 128 threads holds several rows and no thread ever waits for another warp. Rows of
// FLUX's hidden size have a kernel of their own, hidden_norm.cuh: straight-line code that each warp runs once took 21 µs
// for 4608 rows of 3072, the walk over neighbouring rows there 13.
#pragma once

#include "launch.cuh"
#include "norm/norm.h"
#include "quantise/e4m3.cuh"
#include "reduce.cuh"
#include "vector.cuh"

namespace flux::kernels {

enum class Statistic { kLayer, kRootMeanSquare };

// The affine parts. `row` gives what one row needs, whose `apply` finishes eight columns; `Parameter` is the type of the
// vectors in memory.
template <typename Parameter>
struct Modulate {
  static constexpr Statistic kStatistic = Statistic::kLayer;
  Modulation modulation;

  struct Row {
    const Parameter *shift, *scale;  // both null: nothing is modulated
    __device__ __forceinline__ void load(float (&multiplier)[8], float (&addend)[8], int column) const {
#pragma unroll
      for (int i = 0; i < 8; ++i) multiplier[i] = 1.0f, addend[i] = 0.0f;
      if (scale == nullptr) return;
      load8(scale + column, multiplier);
      load8(shift + column, addend);
#pragma unroll
      for (int i = 0; i < 8; ++i) multiplier[i] += 1.0f;
    }
    __device__ __forceinline__ void apply(float (&x)[8], float rstd, int column) const {
      float a[8], b[8];
      load(a, b, column);
#pragma unroll
      for (int i = 0; i < 8; ++i) x[i] = fmaf(x[i] * rstd, a[i], b[i]);
    }
  };
  __device__ __forceinline__ Row row(int batch, int) const {
    const auto* shift = static_cast<const Parameter*>(modulation.shift);
    const auto* scale = static_cast<const Parameter*>(modulation.scale);
    const int64_t offset = batch * modulation.batch_stride;
    return scale ? Row{shift + offset, scale + offset} : Row{nullptr, nullptr};
  }
};

template <typename Parameter>
struct WeightAndBias {
  static constexpr Statistic kStatistic = Statistic::kLayer;
  const Parameter *weight, *bias;

  __device__ __forceinline__ WeightAndBias row(int, int) const { return *this; }
  __device__ __forceinline__ void apply(float (&x)[8], float rstd, int column) const {
    float a[8], b[8];
    load8(weight + column, a);
    load8(bias + column, b);
#pragma unroll
    for (int i = 0; i < 8; ++i) x[i] = fmaf(x[i] * rstd, a[i], b[i]);
  }
};

template <typename Parameter>
struct Weight {
  static constexpr Statistic kStatistic = Statistic::kRootMeanSquare;
  const Parameter* weight;

  __device__ __forceinline__ Weight row(int, int) const { return *this; }
  __device__ __forceinline__ void apply(float (&x)[8], float rstd, int column) const {
    float a[8];
    load8(weight + column, a);
#pragma unroll
    for (int i = 0; i < 8; ++i) x[i] = x[i] * rstd * a[i];
  }
};

template <int kLanes>
inline constexpr int kRowNormThreads = kLanes <= 32 ? 128 : kLanes;

// kFull: the row is exactly kLanes · kChunks · 8 wide, so no thread asks.
template <int kLanes, int kChunks, bool kFull, typename Affine, bool kToE4m3>
__global__ void __launch_bounds__(kRowNormThreads<kLanes>)
    row_norm(const NormRows rows, const Affine affine) {
  constexpr int kRowsPerBlock = kRowNormThreads<kLanes> / kLanes;
  __shared__ float scratch[kLanes > 32 ? kLanes / 32 : 1];
  const int lane = threadIdx.x % kLanes;
  const int64_t total = int64_t(rows.batch) * rows.rows;
  const int64_t wanted = int64_t(blockIdx.x) * kRowsPerBlock + threadIdx.x / kLanes;
  const bool active = wanted < total;  // the last block's idle groups follow along: shuffles need whole warps
  const int64_t flat = active ? wanted : total - 1;
  const int batch = int(flat / rows.rows), index = int(flat % rows.rows);
  const auto column_of = [&](int chunk) { return (chunk * kLanes + lane) * 8; };

  wait_for_predecessors();
  let_successor_start();
  const bf16* x = static_cast<const bf16*>(rows.x) + batch * rows.x_batch_stride + index * rows.x_row_stride;
  float values[kChunks][8];
#pragma unroll
  for (int c = 0; c < kChunks; ++c) {
    uint4 packed = make_uint4(0, 0, 0, 0);
    if (kFull || column_of(c) < rows.width) packed = *reinterpret_cast<const uint4*>(x + column_of(c));
    unpack8(packed, values[c]);
  }

  const float inverse_width = 1.0f / float(rows.width);
  if constexpr (Affine::kStatistic == Statistic::kLayer) {
    float sum = 0.0f;
#pragma unroll
    for (int c = 0; c < kChunks; ++c) {
#pragma unroll
      for (int i = 0; i < 8; ++i) sum += values[c][i];
    }
    const float mean = reduce_row<kLanes>(sum, Sum{}, scratch) * inverse_width;
#pragma unroll
    for (int c = 0; c < kChunks; ++c) {
      if (!kFull && column_of(c) >= rows.width) continue;  // zeros there must not become -mean
#pragma unroll
      for (int i = 0; i < 8; ++i) values[c][i] -= mean;
    }
  }
  float squares = 0.0f;
#pragma unroll
  for (int c = 0; c < kChunks; ++c) {
#pragma unroll
    for (int i = 0; i < 8; ++i) squares = fmaf(values[c][i], values[c][i], squares);
  }
  const float rstd = rsqrtf(reduce_row<kLanes>(squares, Sum{}, scratch) * inverse_width + rows.epsilon);

  const auto affine_row = affine.row(batch, index);
  const int64_t y_offset = batch * rows.y_batch_stride + index * rows.y_row_stride;
  float largest = 0.0f;
#pragma unroll
  for (int c = 0; c < kChunks; ++c) {
    if (!kFull && column_of(c) >= rows.width) continue;
    affine_row.apply(values[c], rstd, column_of(c));
    if constexpr (kToE4m3) {
#pragma unroll
      for (int i = 0; i < 8; ++i) largest = fmaxf(largest, fabsf(values[c][i]));
    } else {
      if (active) store8(static_cast<bf16*>(rows.y) + y_offset + column_of(c), values[c]);
    }
  }
  if constexpr (kToE4m3) {
    const RowQuantiser quantiser(reduce_row<kLanes>(largest, Maximum{}, scratch));
    if (active && lane == 0) rows.y_scale[flat] = quantiser.scale;
#pragma unroll
    for (int c = 0; c < kChunks; ++c) {
      if (!active || (!kFull && column_of(c) >= rows.width)) continue;
      const uint2 codes = quantiser.codes<false>(values[c]);
      *reinterpret_cast<uint2*>(static_cast<uint8_t*>(rows.y) + y_offset + column_of(c)) = codes;
    }
  }
}

// Refuses what the kernel cannot do; `name` is the operation's.
Status check_norm_rows(const NormRows& rows, const char* name);

template <int kLanes, int kChunks, bool kFull, typename Affine>
Status launch_row_norm(const char* name, const NormRows& rows, const Affine& affine, cudaStream_t stream) {
  constexpr int kThreads = kRowNormThreads<kLanes>;
  constexpr int kRowsPerBlock = kThreads / kLanes;
  const int64_t total = int64_t(rows.batch) * rows.rows;
  const dim3 grid(unsigned((total + kRowsPerBlock - 1) / kRowsPerBlock));
  if (rows.y_type == Element::kE4M3) {
    return launch(name, row_norm<kLanes, kChunks, kFull, Affine, true>, grid, kThreads, 0, stream, rows,
                  affine);
  }
  return launch(name, row_norm<kLanes, kChunks, kFull, Affine, false>, grid, kThreads, 0, stream, rows,
                affine);
}

// The shape of the kernel by width: a warp a row where its registers suffice, else a block a row.
template <typename Affine>
Status dispatch_row_norm(const char* name, const NormRows& rows, const Affine& affine, cudaStream_t stream) {
  if (Status status = check_norm_rows(rows, name); !status.ok()) return status;
  if (rows.batch == 0 || rows.rows == 0) return {};
  if constexpr (Affine::kStatistic == Statistic::kRootMeanSquare) {
    if (rows.width == 128)
      return launch_row_norm<16, 1, true>(name, rows, affine, stream);  // q and k of one head
  }
  if (rows.width <= 1024) return launch_row_norm<32, 4, false>(name, rows, affine, stream);   // CLIP's 768
  if (rows.width <= 4096) return launch_row_norm<256, 2, false>(name, rows, affine, stream);  // T5's 4096
  return launch_row_norm<256, 8, false>(name, rows, affine, stream);
}

}  // namespace flux::kernels
