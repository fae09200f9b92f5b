// Convolution by mma.sync: 128 output pixels × 128 or 32 output channels a block, eight warps.
//
//   sum      over k = (tap, channel) in steps of 64, three stages of A (128 pixels × 128 bytes) and W in shared memory,
//            swizzled as in portable/kernel.cuh. A's rows are gathered: eight channels of one tap are one cp.async, whose
//            byte count of 0 outside the image makes the padding. Channels that are no multiple of 8 (an image's three)
//            are gathered one by one.
//   phases   a grid plane a phase: a 2 × 2 kernel on x whose results go to every second pixel of every second row
//   epilogue sums through shared memory, so that a thread has eight channels of one pixel: bias, residual, store
#include "conv/check.h"
#include "portable/kernel.cuh"

namespace flux::kernels {
namespace conv {
namespace {

using portable::kOperandBytes;
using portable::kRowBytes;
using portable::kStages;
using portable::kThreads;

constexpr int kTilePixels = 128;
constexpr int kStepTerms = kRowBytes / 2;

// The output pixels of one phase, or all of them, as a grid whose pixel (i, j) lies at (i, j) · spread + phase.
struct Params {
  Conv2d conv;
  int grid_height, grid_width, pixels;
  int spread;
  int terms;  // of a sum
  int weight_row;
};

struct Pixel {
  const bf16* image;
  int y, x;  // of the first tap; may lie outside the image
};

template <int kTileN>
struct Warps {
  static constexpr int kAcross = kTileN / 32;
  static constexpr int kBlocks = kAcross;  // of 16 pixels a warp: 128 · kAcross / 8 / 16
  static constexpr int kStageBytes = kOperandBytes + kTileN * kRowBytes;
  static constexpr int kPitch = kTileN + 4;
  static constexpr int kSharedBytes = kStages * kStageBytes;
  static_assert(kTilePixels * kPitch * 4 <= kSharedBytes);
};

__device__ __forceinline__ Pixel pixel_at(const Params& p, int index, int pad_top, int pad_left) {
  const int column = index % p.grid_width, rest = index / p.grid_width;
  const int row = rest % p.grid_height, batch = rest / p.grid_height;
  const Conv2d& conv = p.conv;
  return {static_cast<const bf16*>(conv.x) + int64_t(batch) * conv.height * conv.width * conv.channels,
          row * conv.stride - pad_top, column * conv.stride - pad_left};
}

// Where tap (down, right) of a pixel lies, or null outside the image.
__device__ __forceinline__ const bf16* source_of(const Conv2d& conv, const Pixel& pixel, int down,
                                                 int right) {
  const int doublings = conv.upsample && !conv.phases ? 1 : 0;
  const int y = pixel.y + down, x = pixel.x + right;
  if (y < 0 || x < 0 || y >= conv.height << doublings || x >= conv.width << doublings) return nullptr;
  return pixel.image + (int64_t(y >> doublings) * conv.width + (x >> doublings)) * conv.channels;
}

// Eight terms of the sum from `term` on, one at a time.
__device__ __forceinline__ uint4 gather8(const Params& p, const Pixel& pixel, int term) {
  __align__(16) bf16 values[8];
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    const int at = term + i, tap = at / p.conv.channels;
    const bf16* source = at < p.terms
                             ? source_of(p.conv, pixel, tap / p.conv.kernel_width, tap % p.conv.kernel_width)
                             : nullptr;
    values[i] = source ? source[at % p.conv.channels] : __ushort_as_bfloat16(0);
  }
  return *reinterpret_cast<const uint4*>(values);
}

// Starts the copy of one stage. A thread has one 16-byte chunk of every 32nd row.
template <int kTileN, bool kWhole>
__device__ __forceinline__ void load_stage(const Params& p, const Pixel (&pixels)[4], int first_pixel,
                                           const bf16* weight, int column, uint32_t stage, int step) {
  const int chunk = threadIdx.x % 8, first = threadIdx.x / 8;
  const int term = step * kStepTerms + chunk * 8;
  const auto slot = [&](uint32_t operand, int row) {
    return operand + row * kRowBytes + ((chunk ^ (row % 8)) * 16);
  };
  const Conv2d& conv = p.conv;
  const int tap = term / conv.channels;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int row = first + 32 * i;
    const bool exists = first_pixel + row < p.pixels && term < p.terms;
    if constexpr (kWhole) {
      const bf16* source =
          exists ? source_of(conv, pixels[i], tap / conv.kernel_width, tap % conv.kernel_width) : nullptr;
      const bf16* from = source ? source + term % conv.channels : static_cast<const bf16*>(conv.x);
      ptx::cp_async_16(slot(stage, row), from, source ? 16 : 0);
    } else {
      const uint4 eight = exists ? gather8(p, pixels[i], term) : make_uint4(0, 0, 0, 0);
      ptx::st_shared_v4_b32(slot(stage, row), eight);
    }
  }
#pragma unroll
  for (int row = first; row < kTileN; row += 32) {
    const bool exists = column + row < conv.out_channels && term < p.terms;
    const bf16* from = weight + int64_t(exists ? column + row : 0) * p.weight_row + (exists ? term : 0);
    if constexpr (kWhole) {
      ptx::cp_async_16(slot(stage + kOperandBytes, row), from, exists ? 16 : 0);
    } else {
      __align__(16) bf16 values[8];
#pragma unroll
      for (int i = 0; i < 8; ++i)
        values[i] = exists && term + i < p.terms ? from[i] : __ushort_as_bfloat16(0);
      ptx::st_shared_v4_b32(slot(stage + kOperandBytes, row), *reinterpret_cast<const uint4*>(values));
    }
  }
}

// Eight channels of one pixel from `column` on: + bias + residual, as many as there are.
__device__ __forceinline__ void store_pixel(const Params& p, int index, int phase, int column,
                                            float (&x)[8]) {
  const Conv2d& conv = p.conv;
  const int j = index % p.grid_width, rest = index / p.grid_width;
  const int i = rest % p.grid_height, batch = rest / p.grid_height;
  const int64_t row = int64_t(batch) * conv.out_height + i * p.spread + phase / 2;
  const int64_t at = (row * conv.out_width + j * p.spread + phase % 2) * conv.out_channels + column;
  bf16* y = static_cast<bf16*>(conv.y) + at;
  const bf16* residual = conv.residual ? static_cast<const bf16*>(conv.residual) + at : nullptr;
  if (conv.out_channels % 8 == 0) {
    float r[8] = {};
    if (residual) load8(residual, r);
#pragma unroll
    for (int c = 0; c < 8; ++c) x[c] += (conv.bias ? conv.bias[column + c] : 0.0f) + r[c];
    store8(y, x);
    return;
  }
  for (int c = 0; c < 8 && column + c < conv.out_channels; ++c) {
    const float extra = (conv.bias ? conv.bias[column + c] : 0.0f) + (residual ? float(residual[c]) : 0.0f);
    y[c] = __float2bfloat16(x[c] + extra);
  }
}

template <int kTileN, bool kWhole>
__global__ void __launch_bounds__(kThreads) conv_kernel(const __grid_constant__ Params p) {
  using Shape = Warps<kTileN>;
  extern __shared__ __align__(128) uint8_t shared[];
  const uint32_t stages = ptx::shared_address(shared);
  const int first_pixel = blockIdx.x * kTilePixels, column = blockIdx.y * kTileN, phase = blockIdx.z;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int warp_row = warp / Shape::kAcross * (16 * Shape::kBlocks),
            warp_column = warp % Shape::kAcross * 32;
  const int steps = (p.terms + kStepTerms - 1) / kStepTerms;
  const bf16* weight = static_cast<const bf16*>(p.conv.weight) + phase * p.terms;
  const int pad_top = p.conv.phases ? 1 - phase / 2 : p.conv.pad_top;
  const int pad_left = p.conv.phases ? 1 - phase % 2 : p.conv.pad_left;
  Pixel pixels[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int index = first_pixel + int(threadIdx.x) / 8 + 32 * i;
    pixels[i] = pixel_at(p, index < p.pixels ? index : 0, pad_top, pad_left);
  }
  wait_for_predecessors();
  let_successor_start();

  float sums[Shape::kBlocks][4][4] = {};
#pragma unroll
  for (int step = 0; step < kStages - 1; ++step) {
    if (step < steps)
      load_stage<kTileN, kWhole>(p, pixels, first_pixel, weight, column, stages + step * Shape::kStageBytes,
                                 step);
    ptx::cp_async_commit_group();
  }
#pragma unroll 1
  for (int step = 0; step < steps; ++step) {
    ptx::cp_async_wait_group<kStages - 2>();
    __syncthreads();  // this step's stage is there, and everybody is done with the one before, which is loaded next
    const int ahead = step + kStages - 1;
    if (ahead < steps)
      load_stage<kTileN, kWhole>(p, pixels, first_pixel, weight, column,
                                 stages + ahead % kStages * Shape::kStageBytes, ahead);
    ptx::cp_async_commit_group();
#pragma unroll
    for (int part = 0; part < kRowBytes / 32; ++part) {
      portable::multiply_step<portable::Products::kBf16>(sums, stages + step % kStages * Shape::kStageBytes,
                                                         warp_row, warp_column, part);
    }
  }
  ptx::cp_async_wait_group<0>();
  __syncthreads();

  float* tile = reinterpret_cast<float*>(shared);
#pragma unroll
  for (int i = 0; i < Shape::kBlocks; ++i) {
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      float* at = tile + (warp_row + i * 16 + lane / 4) * Shape::kPitch + warp_column + j * 8 + lane % 4 * 2;
      *reinterpret_cast<float2*>(at) = make_float2(sums[i][j][0], sums[i][j][1]);
      *reinterpret_cast<float2*>(at + 8 * Shape::kPitch) = make_float2(sums[i][j][2], sums[i][j][3]);
    }
  }
  __syncthreads();
  constexpr int kColumnLanes = kTileN / 8;
  const int in_tile = threadIdx.x % kColumnLanes * 8;
  if (column + in_tile >= p.conv.out_channels) return;
  for (int row = threadIdx.x / kColumnLanes; row < kTilePixels; row += kThreads / kColumnLanes) {
    if (first_pixel + row >= p.pixels) return;
    float x[8];
    load8(tile + row * Shape::kPitch + in_tile, x);
    store_pixel(p, first_pixel + row, phase, column + in_tile, x);
  }
}

template <int kTileN>
Status launch_tile(const Params& params, cudaStream_t stream) {
  const Conv2d& conv = params.conv;
  const dim3 grid(unsigned((params.pixels + kTilePixels - 1) / kTilePixels),
                  unsigned((conv.out_channels + kTileN - 1) / kTileN), conv.phases ? 4 : 1);
  const auto kernel = conv.channels % 8 == 0 ? conv_kernel<kTileN, true> : conv_kernel<kTileN, false>;
  return launch("conv2d_portable", kernel, grid, dim3(kThreads), Warps<kTileN>::kSharedBytes, stream, params);
}

}  // namespace
}  // namespace conv

Status conv2d_portable(const Conv2d& conv, cudaStream_t stream) {
  if (Status status = conv::check(conv); !status.ok()) return status;
  if (device_architecture() < 80)
    return Status::unsupported("conv2d_portable needs compute capability 8.0 or newer");
  conv::Params params{};
  params.conv = conv;
  params.spread = conv.phases ? 2 : 1;
  params.grid_height = conv.out_height / params.spread;
  params.grid_width = conv.out_width / params.spread;
  params.pixels = conv.batch * params.grid_height * params.grid_width;
  params.terms = conv.kernel_height * conv.kernel_width * conv.channels;
  params.weight_row = (conv.phases ? 4 : 1) * params.terms;
  return conv.out_channels <= 32 ? conv::launch_tile<32>(params, stream)
                                 : conv::launch_tile<128>(params, stream);
}

}  // namespace flux::kernels
