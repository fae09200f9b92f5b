// GroupNorm (+ SiLU) of channels-last images in three launches:
//
//   statistics: x once → sums of (x − pivot) and its square by part and channel; pivot = the channel's first pixel, so a
//               channel far from zero loses nothing.
//   affine:     parts and channels of a group combined in f64 → multiplier = weight · rstd, addend = bias − mean · multiplier.
//   apply:      x again → y, from the last pixel to the first: what the first pass read last is still in L2.
//
// A thread owns eight neighbouring channels (16 bytes) and walks over pixels; a warp reads 512 consecutive bytes.
// With 256 channels a block of 256 threads is 32 columns of channels × 8 pixels.
#include "activation.cuh"
#include "launch.cuh"
#include "norm/norm.h"
#include "vector.cuh"

namespace flux::kernels {
namespace {

constexpr int kThreads = 256;
constexpr int kAffineThreads = 256;        // of a group of up to 256 channels
constexpr int kMostAffineThreads = 1024;   // of a larger one
constexpr int kUnroll = 4;                 // independent 16-byte loads in flight for each thread
constexpr int kApplyPixelsPerThread = 32;  // amortise the 64 bytes of multipliers and addends

struct Layout {
  int columns;      // of eight channels
  int pixel_lanes;  // pixels that a block reads at once
};

__host__ __device__ Layout layout_of(int channels) { return {channels / 8, kThreads / (channels / 8)}; }

// Calls visit(pixel, eight values) for every kth pixel of [begin, end), loads ahead of use.
template <typename Visit>
__device__ __forceinline__ void walk(const bf16* column, int channels, int64_t begin, int64_t end, int step,
                                     Visit visit) {
  int64_t pixel = begin;
  for (; pixel + int64_t(kUnroll - 1) * step < end; pixel += int64_t(kUnroll) * step) {
    uint4 packed[kUnroll];
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      packed[u] = *reinterpret_cast<const uint4*>(column + (pixel + int64_t(u) * step) * channels);
    }
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) visit(pixel + int64_t(u) * step, packed[u]);
  }
  for (; pixel < end; pixel += step) visit(pixel, *reinterpret_cast<const uint4*>(column + pixel * channels));
}

// kPairs: sums of pairs of channels, without a pivot.
template <bool kPairs>
__global__ void __launch_bounds__(kThreads, 4) statistics(const GroupNorm norm, float* sums) {
  __shared__ float shared[16][kThreads];
  const Layout layout = layout_of(norm.channels);
  const int column = threadIdx.x % layout.columns, lane = threadIdx.x / layout.columns;
  const int parts = gridDim.x, part = blockIdx.x, batch = blockIdx.y;
  const int64_t begin = norm.pixels * part / parts, end = norm.pixels * (part + 1) / parts;

  wait_for_predecessors();
  let_successor_start();
  const bf16* x = static_cast<const bf16*>(norm.x) + batch * norm.pixels * norm.channels + column * 8;
  float sum[8] = {}, square[8] = {};
  if (lane < layout.pixel_lanes) {
    float pivot[8] = {};
    if constexpr (!kPairs) load8(x, pivot);
    walk(x, norm.channels, begin + lane, end, layout.pixel_lanes, [&](int64_t, const uint4& packed) {
      float values[8];
      unpack8(packed, values);
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        const float deviation = values[i] - pivot[i];
        sum[i] += deviation;
        square[i] = fmaf(deviation, deviation, square[i]);
      }
    });
  }
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    shared[i][threadIdx.x] = sum[i];
    shared[8 + i][threadIdx.x] = square[i];
  }
  __syncthreads();
  constexpr int kWidth = kPairs ? 2 : 1;
  float2* out = reinterpret_cast<float2*>(sums) + (int64_t(batch) * parts + part) * (norm.channels / kWidth);
  for (int index = threadIdx.x; index < norm.channels / kWidth; index += kThreads) {
    float2 total = make_float2(0.0f, 0.0f);
    for (int l = 0; l < layout.pixel_lanes; ++l) {
#pragma unroll
      for (int i = 0; i < kWidth; ++i) {
        const int channel = index * kWidth + i, thread = l * layout.columns + channel / 8;
        total.x += shared[channel % 8][thread];
        total.y += shared[8 + channel % 8][thread];
      }
    }
    out[index] = total;
  }
}

// A block a group. First every thread adds one channel (or pair of channels) up over every kth part, then those are added up in
// halves, in one order.
__global__ void __launch_bounds__(kMostAffineThreads, 1)
    combine(const GroupNorm norm, const GroupNormSums partial, float* affine) {
  __shared__ double sum[kMostAffineThreads], square[kMostAffineThreads];
  __shared__ double group_mean, group_rstd;
  const int width = partial.channels_per_sum;
  const int size = norm.channels / norm.groups / width, first = blockIdx.x * size, batch = blockIdx.y;
  const int sums_wide = norm.channels / width;
  const int lanes = int(blockDim.x) / size, offset = threadIdx.x % size, lane = threadIdx.x / size;
  const double count = double(norm.pixels) * width;

  wait_for_predecessors();
  let_successor_start();
  double own_sum = 0.0, own_square = 0.0;
  if (lane < lanes) {
    const float2* in = reinterpret_cast<const float2*>(partial.sums) +
                       int64_t(batch) * partial.parts * sums_wide + first + offset;
#pragma unroll 4
    for (int part = lane; part < partial.parts; part += lanes) {
      const float2 value = in[int64_t(part) * sums_wide];
      own_sum += value.x;
      own_square += value.y;
    }
  }
  sum[threadIdx.x] = own_sum;
  square[threadIdx.x] = own_square;
  __syncthreads();
  for (int rows = lanes; rows > 1; rows = (rows + 1) / 2) {
    const int upper = threadIdx.x + (rows + 1) / 2 * size;
    if (lane < rows / 2) {
      sum[threadIdx.x] = own_sum += sum[upper];
      square[threadIdx.x] = own_square += square[upper];
    }
    __syncthreads();
  }
  // Each one's mean and sum of squared deviations; they replace the sums of lane 0.
  if (threadIdx.x < size) {
    const bf16* pivots = static_cast<const bf16*>(partial.pivots);
    const double pivot =
        pivots ? double(__bfloat162float(pivots[batch * partial.pivot_batch_stride + first + threadIdx.x]))
               : 0.0;
    sum[threadIdx.x] = pivot + own_sum / count;
    square[threadIdx.x] = own_square - own_sum * own_sum / count;
  }
  __syncthreads();
  if (threadIdx.x == 0) {
    double mean = 0.0, deviations = 0.0;
    for (int c = 0; c < size; ++c) mean += sum[c];
    mean /= size;
    for (int c = 0; c < size; ++c) deviations += square[c] + count * (sum[c] - mean) * (sum[c] - mean);
    group_mean = mean;
    group_rstd = rsqrt(fmax(deviations, 0.0) / (count * size) + double(norm.epsilon));
  }
  __syncthreads();
  if (threadIdx.x < size * width) {
    const int channel = first * width + threadIdx.x;
    const double multiplier = norm.weight[channel] * group_rstd;
    reinterpret_cast<float2*>(affine)[int64_t(batch) * norm.channels + channel] =
        make_float2(float(multiplier), float(norm.bias[channel] - group_mean * multiplier));
  }
}

template <bool kSilu>
__global__ void __launch_bounds__(kThreads, 4) apply(const GroupNorm norm, const float* affine) {
  const Layout layout = layout_of(norm.channels);
  const int column = threadIdx.x % layout.columns, lane = threadIdx.x / layout.columns;
  if (lane >= layout.pixel_lanes) return;
  const int batch = blockIdx.y;
  const int64_t run = int64_t(layout.pixel_lanes) * kApplyPixelsPerThread;
  const int64_t begin = (gridDim.x - 1 - blockIdx.x) * run;  // the last pixels first
  const int64_t end = min(begin + run, norm.pixels);

  wait_for_predecessors();
  let_successor_start();
  const int64_t image = batch * norm.pixels * norm.channels + column * 8;
  const bf16* x = static_cast<const bf16*>(norm.x) + image;
  bf16* y = static_cast<bf16*>(norm.y) + image;
  float multiplier[8], addend[8];
  const float2* pairs = reinterpret_cast<const float2*>(affine) + int64_t(batch) * norm.channels + column * 8;
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    const float2 pair = pairs[i];
    multiplier[i] = pair.x;
    addend[i] = pair.y;
  }
  walk(x, norm.channels, begin + lane, end, layout.pixel_lanes, [&](int64_t pixel, const uint4& packed) {
    float values[8];
    unpack8(packed, values);
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      values[i] = fmaf(values[i], multiplier[i], addend[i]);
      if constexpr (kSilu) values[i] = silu(values[i]);
    }
    store8(y + pixel * norm.channels, values);
  });
}

Status check(const GroupNorm& norm) {
  if (norm.channels < 8 || norm.channels % 8 != 0 || norm.channels > 8 * kThreads) {
    return Status::bad_argument("group_norm: " + std::to_string(norm.channels) +
                                " channels; it takes multiples of 8 up to 2048");
  }
  if (norm.groups < 1 || norm.channels % norm.groups != 0 ||
      norm.channels / norm.groups > kMostAffineThreads) {
    return Status::bad_argument(
        "group_norm: channels must be a multiple of groups, at most 1024 channels a group");
  }
  if (norm.batch < 1 || norm.batch > 65535 || norm.pixels < 1) {
    return Status::bad_argument("group_norm: batch must be 1 to 65535 and pixels at least 1");
  }
  if (!aligned16(norm.x, 0, 2) || !aligned16(norm.y, 0, 2)) {
    return Status::bad_argument("group_norm: x and y must be aligned to 16 bytes");
  }
  if (norm.activation != Activation::kNone && norm.activation != Activation::kSilu) {
    return Status::bad_argument("group_norm: the activation is none or SiLU");
  }
  return {};
}

}  // namespace

int group_norm_parts(const GroupNorm& norm) {
  // One wave of blocks, four on a multiprocessor, but no part under sixteen pixels a thread.
  const int64_t shortest = int64_t(layout_of(norm.channels).pixel_lanes) * 16;
  const int64_t most = (norm.pixels + shortest - 1) / shortest;
  const int64_t wave = (4 * device_multiprocessors() + norm.batch - 1) / norm.batch;
  return int(most < wave ? most : wave);
}

int64_t group_norm_workspace_bytes(const GroupNorm& norm) {
  return int64_t(norm.batch) * norm.channels * 8 * (group_norm_parts(norm) + 1);
}

Status group_norm_statistics(const GroupNorm& norm, float* sums, cudaStream_t stream) {
  if (Status status = check(norm); !status.ok()) return status;
  const dim3 grid(group_norm_parts(norm), norm.batch);
  return launch("group_norm_statistics", statistics<false>, grid, dim3(kThreads), 0, stream, norm, sums);
}

Status group_norm_pair_sums(const GroupNorm& norm, float* sums, cudaStream_t stream) {
  if (Status status = check(norm); !status.ok()) return status;
  const dim3 grid(kGroupNormSumParts, norm.batch);
  return launch("group_norm_pair_sums", statistics<true>, grid, dim3(kThreads), 0, stream, norm, sums);
}

Status group_norm_affine(const GroupNorm& norm, const GroupNormSums& sums, float* affine,
                         cudaStream_t stream) {
  if (Status status = check(norm); !status.ok()) return status;
  if (sums.channels_per_sum == 2 && norm.channels / norm.groups % 2 != 0) {
    return Status::bad_argument("group_norm: pairs of channels need groups of an even number of channels");
  }
  const dim3 grid(norm.groups, norm.batch);
  const int threads = norm.channels / norm.groups > kAffineThreads ? kMostAffineThreads : kAffineThreads;
  return launch("group_norm_affine", combine, grid, dim3(threads), 0, stream, norm, sums, affine);
}

Status group_norm_apply(const GroupNorm& norm, const float* affine, cudaStream_t stream) {
  if (Status status = check(norm); !status.ok()) return status;
  const int64_t run = int64_t(layout_of(norm.channels).pixel_lanes) * kApplyPixelsPerThread;
  const dim3 grid(unsigned((norm.pixels + run - 1) / run), norm.batch);
  const auto kernel = norm.activation == Activation::kSilu ? apply<true> : apply<false>;
  return launch("group_norm_apply", kernel, grid, dim3(kThreads), 0, stream, norm, affine);
}

Status group_norm(const GroupNorm& norm, void* workspace, cudaStream_t stream) {
  if (Status status = check(norm); !status.ok()) return status;
  if (workspace == nullptr || !aligned16(workspace, 0, 4)) {
    return Status::bad_argument("group_norm: the workspace must be given, aligned to 16 bytes");
  }
  const int parts = group_norm_parts(norm);
  float* affine = static_cast<float*>(workspace);
  float* sums = affine + int64_t(norm.batch) * norm.channels * 2;
  if (Status status = group_norm_statistics(norm, sums, stream); !status.ok()) return status;
  const GroupNormSums partial{sums, parts, 1, norm.x, norm.pixels * norm.channels};
  if (Status status = group_norm_affine(norm, partial, affine, stream); !status.ok()) return status;
  return group_norm_apply(norm, affine, stream);
}

}  // namespace flux::kernels
