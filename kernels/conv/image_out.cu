// The last layer of a decoder: 3 × 3 from many channels to an image's three, GroupNorm and SiLU of x on the way in, by mma.sync, on
// every GPU from sm_80 on.
//
// Every pixel of x is read and normalised once for all nine taps: one product of pixels × channels with channels × 27 columns (tap,
// output channel) gives what each pixel adds to its neighbours; they are added up from shared memory.
//
//   tile    30 × 14 pixels of y from 32 × 16 of x: 22 % more than are needed, which come from L2
//   warp    two rows of the tile's x, one after the other: 32 pixels × 32 columns. A lane's 16 bytes of x are eight neighbouring channels,
//           in the order in which it holds A's columns: k = 16·step + 8·half + 2·(lane % 4) + i is channel
//           8·(lane % 4) + 4·step + 2·half + i of 32.
//   shared  W in the order of B's registers, [32 channels][step][half of the columns][lane] 16 bytes; affine, [channel] 8 bytes; the
//           products, f32 [27][512 pixels], a column 516 floats so that a warp's stores hit all banks once
//   block   256 threads, two blocks a multiprocessor: one adds up while the other reads
#include "conv/check.h"
#include "conv/image.h"
#include "gemm/activation.cuh"
#include "launch.cuh"
#include "ptx/mma.cuh"
#include "ptx/shared.cuh"
#include "vector.cuh"

namespace flux::kernels {
namespace conv {
namespace {

constexpr int kThreads = 256;
constexpr int kWidth = 32, kHeight = 16;  // of x
constexpr int kPixels = kWidth * kHeight;
constexpr int kOutWidth = kWidth - 2, kOutHeight = kHeight - 2;
constexpr int kColumns = 32, kMostColumns = 27;
constexpr int kPitch = kPixels + 4;
constexpr int kRowsOfWarp = kHeight / (kThreads / 32);
constexpr int kMostChannels = 512;

struct SharedMap {
  int weights, affine, products, bytes;
};

__host__ __device__ constexpr SharedMap shared_map(int channels) {
  const int affine = channels * kColumns * 2, products = affine + channels * 8;
  return {0, affine, products, products + kMostColumns * kPitch * 4};
}

// W → B's registers: word i of a lane is columns 8·(2·half + i / 2) + lane / 4, rows (8·(i % 2) + 2·(lane % 4), the next) of a step.
__device__ __forceinline__ void stage_weights(const Conv2d& conv, uint32_t weights) {
  const uint16_t* from = static_cast<const uint16_t*>(conv.weight);
  for (int word = int(threadIdx.x); word < conv.channels * kColumns / 2; word += kThreads) {
    const int i = word % 4, lane = word / 4 % 32, half = word / 128 % 2, step = word / 256 % 2;
    const int column = 8 * (2 * half + i / 2) + lane / 4;
    const int channel = word / 512 * 32 + 8 * (lane % 4) + 4 * step + 2 * (i % 2);
    const int tap = column / conv.out_channels, out = column - tap * conv.out_channels;
    uint32_t pair = 0;
    if (tap < 9)
      pair = *reinterpret_cast<const uint32_t*>(from + (int64_t(out) * 9 + tap) * conv.channels + channel);
    ptx::st_shared_b32(weights + 4 * word, pair);
  }
}

// SiLU(x · multiplier + addend) of two channels.
__device__ __forceinline__ uint32_t normalised(uint32_t packed, float4 pairs) {
  return ptx::cvt_rn_bf16x2(gemm::activate<Activation::kSilu>(fmaf(low_of(packed), pairs.x, pairs.y)),
                            gemm::activate<Activation::kSilu>(fmaf(high_of(packed), pairs.z, pairs.w)));
}

// The products of one row of 32 pixels: two blocks of 16, a lane's pixels lane / 4 and 8 more.
template <bool kNormalises>
__device__ __forceinline__ void multiply_row(const Conv2d& conv, const SharedMap& map, uint32_t shared,
                                             const bf16* image, int y, int x, int row) {
  const int lane = int(threadIdx.x) % 32, quarter = lane % 4;
  const bf16* from[4];
  uint32_t keep[4];
#pragma unroll
  for (int p = 0; p < 4; ++p) {
    const int column = x + lane / 4 + 8 * p;
    const bool exists = y >= 0 && y < conv.height && column >= 0 && column < conv.width;
    keep[p] = exists ? 0xffffffffu : 0u;
    from[p] = image + (exists ? int64_t(y) * conv.width + column : 0) * conv.channels + 8 * quarter;
  }
  float d[2][4][4] = {};
#pragma unroll 2
  for (int channel = 0; channel < conv.channels; channel += 32) {
    uint32_t a[4][4];
#pragma unroll
    for (int p = 0; p < 4; ++p) {
      const uint4 eight = __ldg(reinterpret_cast<const uint4*>(from[p] + channel));
      a[p][0] = eight.x, a[p][1] = eight.y, a[p][2] = eight.z, a[p][3] = eight.w;
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      float4 pairs;
      if constexpr (kNormalises) {
        const uint4 bits = ptx::ld_shared_v4_b32(shared + map.affine + (channel + 8 * quarter + 2 * i) * 8);
        pairs = make_float4(__uint_as_float(bits.x), __uint_as_float(bits.y), __uint_as_float(bits.z),
                            __uint_as_float(bits.w));
      }
#pragma unroll
      for (int p = 0; p < 4; ++p) {
        if constexpr (kNormalises) a[p][i] = normalised(a[p][i], pairs);
        a[p][i] &= keep[p];
      }
    }
#pragma unroll
    for (int step = 0; step < 2; ++step) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const uint4 b = ptx::ld_shared_v4_b32(shared + map.weights +
                                              ((channel / 32 * 2 + step) * 2 + half) * 512 + lane * 16);
#pragma unroll
        for (int block = 0; block < 2; ++block) {
          const uint32_t operand[4] = {a[2 * block][2 * step], a[2 * block + 1][2 * step],
                                       a[2 * block][2 * step + 1], a[2 * block + 1][2 * step + 1]};
          ptx::mma_m16n8k16_bf16(d[block][2 * half], operand, b.x, b.y);
          ptx::mma_m16n8k16_bf16(d[block][2 * half + 1], operand, b.z, b.w);
        }
      }
    }
  }
#pragma unroll
  for (int block = 0; block < 2; ++block) {
#pragma unroll
    for (int j = 0; j < 4; ++j) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int column = 8 * j + 2 * quarter + i % 2,
                  pixel = row * kWidth + 16 * block + lane / 4 + i / 2 * 8;
        if (column < kMostColumns)
          ptx::st_shared_b32(shared + map.products + (column * kPitch + pixel) * 4,
                             __float_as_uint(d[block][j][i]));
      }
    }
  }
}

template <bool kNormalises>
__global__ void __launch_bounds__(kThreads, 2) image_out_kernel(const __grid_constant__ Conv2d conv) {
  extern __shared__ __align__(16) uint8_t dynamic_shared[];
  const uint32_t shared = ptx::shared_address(dynamic_shared);
  const SharedMap map = shared_map(conv.channels);
  const float* products = reinterpret_cast<const float*>(dynamic_shared + map.products);
  const int batch = int(blockIdx.y), warp = int(threadIdx.x) / 32;
  wait_for_predecessors();
  let_successor_start();
  stage_weights(conv, shared + map.weights);
  if constexpr (kNormalises) {
    const float* affine = conv.affine + int64_t(batch) * conv.channels * 2;
    for (int i = int(threadIdx.x); i < conv.channels * 2; i += kThreads)
      ptx::st_shared_b32(shared + map.affine + 4 * i, __float_as_uint(affine[i]));
  }
  __syncthreads();

  const bf16* image =
      static_cast<const bf16*>(conv.x) + int64_t(batch) * conv.height * conv.width * conv.channels;
  bf16* y =
      static_cast<bf16*>(conv.y) + int64_t(batch) * conv.out_height * conv.out_width * conv.out_channels;
  const int across = (conv.out_width + kOutWidth - 1) / kOutWidth;
  const int tiles = across * ((conv.out_height + kOutHeight - 1) / kOutHeight);
  for (int tile = int(blockIdx.x); tile < tiles; tile += int(gridDim.x)) {
    const int top = tile / across * kOutHeight, left = tile % across * kOutWidth;
#pragma unroll 1
    for (int i = 0; i < kRowsOfWarp; ++i) {
      const int row = warp * kRowsOfWarp + i;
      multiply_row<kNormalises>(conv, map, shared, image, top - conv.pad_top + row, left - conv.pad_left,
                                row);
    }
    __syncthreads();
    for (int pixel = int(threadIdx.x); pixel < kOutHeight * kWidth; pixel += kThreads) {
      const int row = pixel / kWidth, column = pixel % kWidth;
      if (column >= kOutWidth || top + row >= conv.out_height || left + column >= conv.out_width) continue;
      bf16* to = y + (int64_t(top + row) * conv.out_width + left + column) * conv.out_channels;
      for (int out = 0; out < conv.out_channels; ++out) {
        float sum = conv.bias ? __ldg(conv.bias + out) : 0.0f;
#pragma unroll
        for (int tap = 0; tap < 9; ++tap)
          sum += products[(tap * conv.out_channels + out) * kPitch + pixel + tap / 3 * kWidth + tap % 3];
        to[out] = __float2bfloat16(sum);
      }
    }
    __syncthreads();
  }
}

}  // namespace
}  // namespace conv

bool conv2d_image_out_takes(const Conv2d& conv) {
  return conv.out_channels <= 3 && conv.channels % 32 == 0 && conv.channels <= conv::kMostChannels &&
         conv.kernel_height == 3 && conv.kernel_width == 3 && conv.stride == 1 && !conv.upsample &&
         conv.residual == nullptr && conv.sums == nullptr && conv.batch <= 65535;
}

Status conv2d_image_out(const Conv2d& conv, cudaStream_t stream) {
  if (Status status = conv::check(conv); !status.ok()) return status;
  if (!conv2d_image_out_takes(conv))
    return Status::unsupported("conv2d_image_out has no kernel for this shape; see conv/image.h");
  const int tiles = (conv.out_width + conv::kOutWidth - 1) / conv::kOutWidth *
                    ((conv.out_height + conv::kOutHeight - 1) / conv::kOutHeight);
  const int blocks = 2 * device_multiprocessors();
  const auto kernel = conv.affine ? conv::image_out_kernel<true> : conv::image_out_kernel<false>;
  return launch("conv2d_image_out", kernel, dim3(tiles < blocks ? tiles : blocks, conv.batch),
                dim3(conv::kThreads), conv::shared_map(conv.channels).bytes, stream, conv);
}

}  // namespace flux::kernels
