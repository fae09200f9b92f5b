// LayerNorm + modulation of rows of exactly 3072, FLUX's hidden size: once before every linear of a block.
//
// A block walks over a run of neighbouring rows; the next row's loads are in flight while this one is worked on. Each thread
// keeps the modulation of its 24 columns in shared memory, where only it reads them: no barrier, and registers stay free for
// more blocks. Per row two barriers: one for the moments, one for the maximum.
//
//   thread    chunks c of 8 columns: 8·(c·128 + thread) … ; a warp reads 512 consecutive bytes
//   moments   each thread its own mean m and squared deviations q (two passes over registers). In a warp, with d = m − the
//             first lane's m: Σq + 24·(Σd² − (Σd)²/32), which cancels nothing that matters, since the first lane's mean of
//             24 values is near the warp's. The four warps are joined in pairs of equal counts (Chan et al. 1979).
//   maximum   non-negative floats are ordered as their bits: one redux instruction a warp
//   shared    24 KiB of modulation, 96 bytes of exchange slots for even and odd rows in turn, so that no third barrier
//             guards their reuse
#pragma once

#include "norm/row_norm.cuh"

namespace flux::kernels {

struct HiddenNorm {
  static constexpr int kThreads = 128;
  static constexpr int kChunks = 3;
  static constexpr int kWidth = kThreads * kChunks * 8;
  static constexpr int kWarps = kThreads / 32;
};

// What 64 Ki registers allow without spilling. With seven, 4608 rows on 132 multiprocessors are five for each block.
template <bool kToE4m3>
inline constexpr int kHiddenNormBlocks = kToE4m3 ? 7 : 6;

// Mean and sum of squared deviations of some number of values.
struct Moments {
  float mean, squares;

  // Of both; each is of `count` values.
  __device__ __forceinline__ Moments joined(const Moments& other, float count) const {
    const float apart = mean - other.mean;
    return {0.5f * (mean + other.mean), fmaf(0.5f * count * apart, apart, squares + other.squares)};
  }
};

__device__ __forceinline__ Moments own_moments(float (&values)[HiddenNorm::kChunks][8]) {
  float sums[HiddenNorm::kChunks] = {}, squares[HiddenNorm::kChunks] = {};
#pragma unroll
  for (int i = 0; i < 8; ++i) {
#pragma unroll
    for (int c = 0; c < HiddenNorm::kChunks; ++c) sums[c] += values[c][i];
  }
  const float mean = (sums[0] + sums[1] + sums[2]) * (1.0f / (8 * HiddenNorm::kChunks));
#pragma unroll
  for (int i = 0; i < 8; ++i) {
#pragma unroll
    for (int c = 0; c < HiddenNorm::kChunks; ++c) {
      values[c][i] -= mean;
      squares[c] = fmaf(values[c][i], values[c][i], squares[c]);
    }
  }
  return {mean, squares[0] + squares[1] + squares[2]};
}

// Of the whole row; `slots` hold one entry a warp.
__device__ __forceinline__ Moments row_moments(const Moments& own, Moments* slots) {
  constexpr float kOwn = 8 * HiddenNorm::kChunks;
  const float near = __shfl_sync(0xffffffffu, own.mean, 0), apart = own.mean - near;
  float sum = apart, squares = fmaf(kOwn * apart, apart, own.squares);
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) {
    sum += __shfl_xor_sync(0xffffffffu, sum, offset);
    squares += __shfl_xor_sync(0xffffffffu, squares, offset);
  }
  const float mean = sum * (1.0f / 32);
  if (threadIdx.x % 32 == 0) slots[threadIdx.x / 32] = {near + mean, fmaf(-kOwn * sum, mean, squares)};
  __syncthreads();
  static_assert(HiddenNorm::kWarps == 4);
  constexpr float kWarp = 32 * kOwn;
  return slots[0].joined(slots[1], kWarp).joined(slots[2].joined(slots[3], kWarp), 2 * kWarp);
}

__device__ __forceinline__ float row_maximum(const float (&own)[4], uint32_t* slots) {
  const float four = fmaxf(fmaxf(own[0], own[1]), fmaxf(own[2], own[3]));
  const uint32_t largest = __reduce_max_sync(0xffffffffu, __float_as_uint(four));
  if (threadIdx.x % 32 == 0) slots[threadIdx.x / 32] = largest;
  __syncthreads();
  return __uint_as_float(max(max(slots[0], slots[1]), max(slots[2], slots[3])));
}

// The groups of rows one after another.
struct HiddenRows {
  ModulatedRows groups[kNormMaxGroups];
  int first;  // rows of the first group
  int total;
};

// A row's place.
struct HiddenPlace {
  int group, batch, index;

  __device__ __forceinline__ HiddenPlace(const HiddenRows& all, int flat)
      : group(flat >= all.first),
        batch((flat - group * all.first) / all.groups[group].rows.rows),
        index((flat - group * all.first) % all.groups[group].rows.rows) {}
  __device__ __forceinline__ void advance(const HiddenRows& all) {
    if (++index < all.groups[group].rows.rows) return;
    index = 0;
    if (++batch == all.groups[group].rows.batch) batch = 0, ++group;
  }
};

template <typename Parameter, bool kToE4m3>
__global__ void __launch_bounds__(HiddenNorm::kThreads, kHiddenNormBlocks<kToE4m3>)
    hidden_norm(const __grid_constant__ HiddenRows all) {
  constexpr int kChunks = HiddenNorm::kChunks;
  __shared__ Moments moments[2][HiddenNorm::kWarps];
  __shared__ uint32_t maxima[2][HiddenNorm::kWarps];
  __shared__ float4 modulations[kChunks][4][HiddenNorm::kThreads];  // multipliers 0-3, 4-7, addends 0-3, 4-7
  const int begin = int(int64_t(all.total) * blockIdx.x / gridDim.x);
  const int end = int(int64_t(all.total) * (blockIdx.x + 1) / gridDim.x);
  const auto column_of = [](int chunk) { return (chunk * HiddenNorm::kThreads + int(threadIdx.x)) * 8; };
  HiddenPlace next(all, begin);

  wait_for_predecessors();
  let_successor_start();
  uint4 packed[kChunks];
  const auto fetch = [&] {
    const NormRows& rows = all.groups[next.group].rows;
    const bf16* x =
        static_cast<const bf16*>(rows.x) + next.batch * rows.x_batch_stride + next.index * rows.x_row_stride;
#pragma unroll
    for (int c = 0; c < kChunks; ++c) packed[c] = *reinterpret_cast<const uint4*>(x + column_of(c));
  };
  fetch();
  for (int flat = begin; flat < end; ++flat) {
    const HiddenPlace place = next;
    const NormRows& rows = all.groups[place.group].rows;
    if (flat == begin || place.index == 0) {
      const auto row = Modulate<Parameter>{all.groups[place.group].modulation}.row(place.batch, place.index);
#pragma unroll
      for (int c = 0; c < kChunks; ++c) {
        float multiplier[8], addend[8];
        row.load(multiplier, addend, column_of(c));
#pragma unroll
        for (int q = 0; q < 2; ++q) {
          modulations[c][q][threadIdx.x] = reinterpret_cast<const float4*>(multiplier)[q];
          modulations[c][2 + q][threadIdx.x] = reinterpret_cast<const float4*>(addend)[q];
        }
      }
    }
    float values[kChunks][8];
#pragma unroll
    for (int c = 0; c < kChunks; ++c) unpack8(packed[c], values[c]);
    next.advance(all);
    if (flat + 1 < end) fetch();

    const Moments own = own_moments(values);  // values are now deviations from the thread's own mean
    const Moments whole = row_moments(own, moments[flat % 2]);
    const float rstd = rsqrtf(fmaf(whole.squares, 1.0f / HiddenNorm::kWidth, rows.epsilon));
    const float offset = (own.mean - whole.mean) * rstd;
    const int64_t y_offset = place.batch * rows.y_batch_stride + place.index * rows.y_row_stride;
    float largest[4] = {};  // four chains in place of one long one
#pragma unroll
    for (int c = 0; c < kChunks; ++c) {
#pragma unroll
      for (int q = 0; q < 2; ++q) {
        const float4 multiplier = modulations[c][q][threadIdx.x], addend = modulations[c][2 + q][threadIdx.x];
        float* four = values[c] + 4 * q;
        four[0] = fmaf(fmaf(four[0], rstd, offset), multiplier.x, addend.x);
        four[1] = fmaf(fmaf(four[1], rstd, offset), multiplier.y, addend.y);
        four[2] = fmaf(fmaf(four[2], rstd, offset), multiplier.z, addend.z);
        four[3] = fmaf(fmaf(four[3], rstd, offset), multiplier.w, addend.w);
      }
      if constexpr (kToE4m3) {
#pragma unroll
        for (int i = 0; i < 8; ++i) largest[i % 4] = fmaxf(largest[i % 4], fabsf(values[c][i]));
      }
      if constexpr (!kToE4m3) store8(static_cast<bf16*>(rows.y) + y_offset + column_of(c), values[c]);
    }
    if constexpr (kToE4m3) {
      const QuickQuantiser quantiser(row_maximum(largest, maxima[flat % 2]));
      if (threadIdx.x == 0) rows.y_scale[place.batch * rows.rows + place.index] = quantiser.scale;
      quantiser.raise(values);
      uint8_t* y = static_cast<uint8_t*>(rows.y) + y_offset;
#pragma unroll
      for (int c = 0; c < kChunks; ++c) {
        *reinterpret_cast<uint2*>(y + column_of(c)) = quantiser.codes(values[c]);
      }
    }
  }
}

template <typename Parameter>
Status launch_hidden_norm(const char* name, const ModulatedRows* groups, int count, cudaStream_t stream) {
  HiddenRows all{};
  for (int i = 0; i < count; ++i) all.groups[i] = groups[i];
  const int64_t first = int64_t(groups[0].rows.batch) * groups[0].rows.rows;
  const int64_t total = first + int64_t(all.groups[1].rows.batch) * all.groups[1].rows.rows;
  if (total > int64_t(0x7fffffff)) return Status::bad_argument(std::string(name) + ": at most 2^31 - 1 rows");
  if (total == 0) return {};
  all.first = int(first);
  all.total = int(total);
  const bool to_e4m3 = groups[0].rows.y_type == Element::kE4M3;
  const int64_t most =
      int64_t(device_multiprocessors()) * (to_e4m3 ? kHiddenNormBlocks<true> : kHiddenNormBlocks<false>);
  const dim3 grid(unsigned(total < most ? total : most));
  const auto kernel = to_e4m3 ? hidden_norm<Parameter, true> : hidden_norm<Parameter, false>;
  return launch(name, kernel, grid, dim3(HiddenNorm::kThreads), 0, stream, all);
}

}  // namespace flux::kernels
