// LayerNorm + modulation of rows of exactly 3072, FLUX's hidden size: once before every linear of a block.
//
// A block walks over a run of neighbouring rows; the next row's loads are in flight while this one is worked on. The run's first row
// is on its way to L2 before the predecessors are waited for: a prefetch reads nothing. Per row one barrier for the moments and,
// for codes, one for the maximum.
//
//   thread      chunks c of 8 columns: 8·(c·128 + thread) … ; a warp reads 512 consecutive bytes
//   moments     sums of x and x² in one pass, the four warps' through shared memory. Where the mean is further from zero than
//               the standard deviation, where E(x²) − mean² would cancel, once more of x − mean.
//   maximum     non-negative floats are ordered as their bits: one redux instruction a warp
//   modulation  to codes: in shared memory, 24 KiB a block, loaded with every 16 bytes beside the next lane's. To bf16: read from L1
//               for each row, since a block has no second barrier that would keep fast warps from what slow ones read.
//   shared      rows of modulation are 64 bytes longer than they need to be, so that both halves of 8 columns lie in different banks;
//               96 bytes of exchange slots for even and odd rows in turn, so that no third barrier guards their reuse
#pragma once

#include "norm/row_norm.cuh"
#include "ptx/cp_async.cuh"

namespace flux::kernels {

struct HiddenNorm {
  static constexpr int kThreads = 128;
  static constexpr int kChunks = 3;
  static constexpr int kWidth = kThreads * kChunks * 8;
  static constexpr int kWarps = kThreads / 32;
};

// What 64 Ki registers allow without spilling; 4608 rows on 132 multiprocessors are five for each block.
inline constexpr int kHiddenNormBlocks = 7;

struct Sums {
  float values, squares;
};

__device__ __forceinline__ Sums own_sums(const float (&values)[HiddenNorm::kChunks][8]) {
  float sums[HiddenNorm::kChunks] = {}, squares[HiddenNorm::kChunks] = {};
#pragma unroll
  for (int i = 0; i < 8; ++i) {
#pragma unroll
    for (int c = 0; c < HiddenNorm::kChunks; ++c) {
      sums[c] += values[c][i];
      squares[c] = fmaf(values[c][i], values[c][i], squares[c]);
    }
  }
  return {sums[0] + sums[1] + sums[2], squares[0] + squares[1] + squares[2]};
}

// Of the whole row; `slots` hold one entry a warp.
__device__ __forceinline__ Sums row_sums(Sums own, Sums* slots) {
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) {
    own.values += __shfl_xor_sync(0xffffffffu, own.values, offset);
    own.squares += __shfl_xor_sync(0xffffffffu, own.squares, offset);
  }
  if (threadIdx.x % 32 == 0) slots[threadIdx.x / 32] = own;
  __syncthreads();
  static_assert(HiddenNorm::kWarps == 4);
  return {(slots[0].values + slots[1].values) + (slots[2].values + slots[3].values),
          (slots[0].squares + slots[1].squares) + (slots[2].squares + slots[3].squares)};
}

// x̂ = value · rstd + offset.
struct Normaliser {
  float rstd, offset;
};

// Values may be moved by their mean.
__device__ __forceinline__ Normaliser normaliser(float (&values)[HiddenNorm::kChunks][8], Sums* slots,
                                                 float epsilon) {
  constexpr float kInverse = 1.0f / HiddenNorm::kWidth;
  const Sums sums = row_sums(own_sums(values), slots);
  float mean = sums.values * kInverse, variance = fmaf(-mean, mean, sums.squares * kInverse);
  if (!(mean * mean <= variance)) {
#pragma unroll
    for (int c = 0; c < HiddenNorm::kChunks; ++c) {
#pragma unroll
      for (int i = 0; i < 8; ++i) values[c][i] -= mean;
    }
    __syncthreads();  // the slots have been read
    const Sums moved = row_sums(own_sums(values), slots);
    mean = moved.values * kInverse;
    variance = fmaf(-mean, mean, moved.squares * kInverse);
  }
  const float rstd = rsqrtf(variance + epsilon);
  return {rstd, -mean * rstd};
}

__device__ __forceinline__ float row_maximum(const float (&own)[4], uint32_t* slots) {
  const float four = fmaxf(fmaxf(own[0], own[1]), fmaxf(own[2], own[3]));
  const uint32_t largest = __reduce_max_sync(0xffffffffu, __float_as_uint(four));
  if (threadIdx.x % 32 == 0) slots[threadIdx.x / 32] = largest;
  __syncthreads();
  return __uint_as_float(max(max(slots[0], slots[1]), max(slots[2], slots[3])));
}

// Multipliers of columns 0-3 and 4-7 of each thread's chunks, and addends.
using SharedModulation = float4[HiddenNorm::kChunks][4][HiddenNorm::kThreads + 4];

// Read by others than those that write it: after the next barrier.
template <typename Parameter>
__device__ __forceinline__ void share(const typename Modulate<Parameter>::Row& row, SharedModulation& to) {
  if constexpr (sizeof(Parameter) == 2) {
#pragma unroll
    for (int c = 0; c < HiddenNorm::kChunks; ++c) {
      float multiplier[8], addend[8];
      row.load(multiplier, addend, (c * HiddenNorm::kThreads + int(threadIdx.x)) * 8);
#pragma unroll
      for (int q = 0; q < 2; ++q) {
        to[c][q][threadIdx.x] = reinterpret_cast<const float4*>(multiplier)[q];
        to[c][2 + q][threadIdx.x] = reinterpret_cast<const float4*>(addend)[q];
      }
    }
  } else {
#pragma unroll
    for (int i = 0; i < 2 * HiddenNorm::kChunks; ++i) {
      const int four = i * HiddenNorm::kThreads + int(threadIdx.x);  // of columns
      const int half = four % 2, thread = four / 2 % HiddenNorm::kThreads;
      float4 multiplier = make_float4(1, 1, 1, 1), addend = make_float4(0, 0, 0, 0);
      if (row.scale != nullptr) {
        multiplier = reinterpret_cast<const float4*>(row.scale)[four];
        addend = reinterpret_cast<const float4*>(row.shift)[four];
        multiplier.x += 1.0f, multiplier.y += 1.0f, multiplier.z += 1.0f, multiplier.w += 1.0f;
      }
      to[i / 2][half][thread] = multiplier;
      to[i / 2][2 + half][thread] = addend;
    }
  }
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
__global__ void __launch_bounds__(HiddenNorm::kThreads, kHiddenNormBlocks)
    hidden_norm(const __grid_constant__ HiddenRows all) {
  constexpr int kChunks = HiddenNorm::kChunks;
  __shared__ Sums sums[2][HiddenNorm::kWarps];
  [[maybe_unused]] __shared__ uint32_t maxima[2][HiddenNorm::kWarps];
  [[maybe_unused]] __shared__ SharedModulation modulation;
  const int begin = int(int64_t(all.total) * blockIdx.x / gridDim.x);
  const int end = int(int64_t(all.total) * (blockIdx.x + 1) / gridDim.x);
  const auto column_of = [](int chunk) { return (chunk * HiddenNorm::kThreads + int(threadIdx.x)) * 8; };
  HiddenPlace next(all, begin);
  const auto next_row = [&] {
    const NormRows& rows = all.groups[next.group].rows;
    return static_cast<const bf16*>(rows.x) + next.batch * rows.x_batch_stride +
           next.index * rows.x_row_stride;
  };
  if (threadIdx.x == 0) ptx::prefetch_bulk_l2(next_row(), HiddenNorm::kWidth * sizeof(bf16));
  wait_for_predecessors();
  let_successor_start();

  uint4 packed[kChunks];
  const auto fetch = [&] {
    const bf16* x = next_row();
#pragma unroll
    for (int c = 0; c < kChunks; ++c) packed[c] = *reinterpret_cast<const uint4*>(x + column_of(c));
  };
  fetch();
  typename Modulate<Parameter>::Row modulated{};
  for (int flat = begin; flat < end; ++flat) {
    const HiddenPlace place = next;
    const NormRows& rows = all.groups[place.group].rows;
    if (flat == begin || place.index == 0) {
      modulated = Modulate<Parameter>{all.groups[place.group].modulation}.row(place.batch, place.index);
      if constexpr (kToE4m3) share<Parameter>(modulated, modulation);
    }
    float values[kChunks][8];
#pragma unroll
    for (int c = 0; c < kChunks; ++c) unpack8(packed[c], values[c]);
    next.advance(all);
    if (flat + 1 < end) fetch();

    const auto [rstd, offset] = normaliser(values, sums[flat % 2], rows.epsilon);
    const int64_t y_offset = place.batch * rows.y_batch_stride + place.index * rows.y_row_stride;
    if constexpr (kToE4m3) {
      float largest[4] = {};  // four chains in place of one long one
#pragma unroll
      for (int c = 0; c < kChunks; ++c) {
#pragma unroll
        for (int q = 0; q < 2; ++q) {
          const float4 multiplier = modulation[c][q][threadIdx.x], addend = modulation[c][2 + q][threadIdx.x];
          float* four = values[c] + 4 * q;
          four[0] = fmaf(fmaf(four[0], rstd, offset), multiplier.x, addend.x);
          four[1] = fmaf(fmaf(four[1], rstd, offset), multiplier.y, addend.y);
          four[2] = fmaf(fmaf(four[2], rstd, offset), multiplier.z, addend.z);
          four[3] = fmaf(fmaf(four[3], rstd, offset), multiplier.w, addend.w);
        }
#pragma unroll
        for (int i = 0; i < 8; ++i) largest[i % 4] = fmaxf(largest[i % 4], fabsf(values[c][i]));
      }
      const QuickQuantiser quantiser(row_maximum(largest, maxima[flat % 2]));
      if (threadIdx.x == 0) rows.y_scale[place.batch * rows.rows + place.index] = quantiser.scale;
      quantiser.raise(values);
      uint8_t* y = static_cast<uint8_t*>(rows.y) + y_offset;
#pragma unroll
      for (int c = 0; c < kChunks; ++c) {
        *reinterpret_cast<uint2*>(y + column_of(c)) = quantiser.codes(values[c]);
      }
    } else {
#pragma unroll
      for (int c = 0; c < kChunks; ++c) {
        float multiplier[8], addend[8];
        modulated.load(multiplier, addend, column_of(c));
#pragma unroll
        for (int i = 0; i < 8; ++i)
          values[c][i] = fmaf(fmaf(values[c][i], rstd, offset), multiplier[i], addend[i]);
        store8(static_cast<bf16*>(rows.y) + y_offset + column_of(c), values[c]);
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
  const int64_t most = int64_t(device_multiprocessors()) * kHiddenNormBlocks;
  const dim3 grid(unsigned(total < most ? total : most));
  const auto kernel = to_e4m3 ? hidden_norm<Parameter, true> : hidden_norm<Parameter, false>;
  return launch(name, kernel, grid, dim3(HiddenNorm::kThreads), 0, stream, all);
}

}  // namespace flux::kernels
