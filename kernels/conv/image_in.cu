// The first layer of an encoder: 3 × 3 on an image's three channels, by mma.sync, on every GPU from sm_80 on.
//
//   sum     27 terms (row, column, channel of the image) padded to 32: two steps of k = 16. Nine neighbouring values of a row of x
//           are three pixels, so a term is an offset from the pixel; a lane loads its own eight terms of each pixel, value by
//           value, mostly from L1. What the kernel writes, 43 times what it reads, is its floor.
//   warp    16 neighbouring pixels × 64 channels; its part of W stays in registers. Columns of W are dealt out such that a lane
//           has eight neighbouring channels of a pixel: column n of 8-column block j is channel 32·(j / 4) + 8·(n / 2) +
//           2·(j % 4) + n % 2.
//   sums    for GroupNorm of y, in registers over all pixels of a warp, then by shuffles and shared memory, in one order
//   block   16 warps, 128 registers a thread; as many as there are multiprocessors
#include "conv/check.h"
#include "conv/image.h"
#include "launch.cuh"
#include "norm/norm.h"
#include "ptx/mma.cuh"
#include "vector.cuh"

namespace flux::kernels {
namespace conv {
namespace {

constexpr int kWarps = 16;
constexpr int kThreads = 32 * kWarps;
constexpr int kSlice = 64;  // channels of a warp
constexpr int kMostChannels = kWarps * kSlice;
constexpr int kTerms = 27;
constexpr int kStrip = 16;  // pixels

// For compute capability 8.0 ptxas wants more registers than there are: offsets of terms are found anew there, and sums are of
// fewer 8-column blocks at one time.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 890
constexpr bool kKeepsOffsets = false;
constexpr int kAtOnce = 4;
#else
constexpr bool kKeepsOffsets = true;
constexpr int kAtOnce = 8;
#endif

__device__ __forceinline__ uint32_t pack(uint16_t low, uint16_t high) { return low | uint32_t(high) << 16; }

// A lane's terms, 16·step + 8·half + 2·(lane % 4) + {0, 1}: their offsets from the first tap of a pixel.
struct Terms {
  int kept[8];
  int term[8];
  int row;  // values of the image

  __device__ __forceinline__ Terms(int width, int quarter) : row(width * 3) {
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      term[i] = 8 * (i / 2) + 2 * quarter + i % 2;
      kept[i] = found(i);
    }
  }
  __device__ __forceinline__ int offset(int i) const { return kKeepsOffsets ? kept[i] : found(i); }

 private:
  __device__ __forceinline__ int found(int i) const {
    return term[i] < kTerms ? term[i] / 9 * row + term[i] % 9 : 0;
  }
};

// Terms of one pixel as words of A: step 0 columns 0 to 7 and 8 to 15, then step 1. kInside: all taps lie in the image.
template <bool kInside>
__device__ __forceinline__ void gather(uint32_t (&words)[4], const Conv2d& conv, const Terms& terms,
                                       const uint16_t* image, int y, int x) {
  const uint16_t* first = image + (int64_t(y) * conv.width + x) * 3;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    uint16_t values[2];
#pragma unroll
    for (int k = 0; k < 2; ++k) {
      const int term = terms.term[2 * i + k];
      bool exists = term < kTerms;
      if constexpr (!kInside) {
        const int row = y + term / 9, column = x + term % 9 / 3;
        exists = exists && row >= 0 && row < conv.height && column >= 0 && column < conv.width;
      }
      values[k] = exists ? __ldg(first + terms.offset(2 * i + k)) : uint16_t(0);
    }
    words[i] = pack(values[0], values[1]);
  }
}

// `sums` and `squares` of a lane's eight pairs of channels over its pixels → part blockIdx.x of its image.
__device__ __forceinline__ void store_sums(const Conv2d& conv, float (&sums)[8], float (&squares)[8],
                                           int warp, int lane) {
  __shared__ float2 of_warps[kWarps][kSlice / 2];
#pragma unroll
  for (int i = 0; i < 8; ++i) {
#pragma unroll
    for (int distance = 4; distance < 32; distance *= 2) {
      sums[i] += __shfl_xor_sync(0xffffffff, sums[i], distance);
      squares[i] += __shfl_xor_sync(0xffffffff, squares[i], distance);
    }
    // Block i / 4 of 32 channels, four pairs to each quarter of lanes.
    if (lane < 4) of_warps[warp][16 * (i / 4) + 4 * lane + i % 4] = make_float2(sums[i], squares[i]);
  }
  __syncthreads();
  const int pairs = conv.out_channels / 2, slices = conv.out_channels / kSlice;
  float2* out = reinterpret_cast<float2*>(conv.sums) + int64_t(blockIdx.y) * kGroupNormSumParts * pairs;
  for (int pair = int(threadIdx.x); pair < pairs; pair += kThreads) {
    float2 total = make_float2(0.0f, 0.0f);
    for (int w = pair / (kSlice / 2); w < kWarps; w += slices) {
      total.x += of_warps[w][pair % (kSlice / 2)].x;
      total.y += of_warps[w][pair % (kSlice / 2)].y;
    }
    out[int64_t(blockIdx.x) * pairs + pair] = total;
    for (int other = int(blockIdx.x + gridDim.x); other < kGroupNormSumParts; other += int(gridDim.x))
      out[int64_t(other) * pairs + pair] = make_float2(0.0f, 0.0f);
  }
}

__global__ void __launch_bounds__(kThreads, 1) image_in_kernel(const __grid_constant__ Conv2d conv) {
  const int warp = int(threadIdx.x) / 32, lane = int(threadIdx.x) % 32, row = lane / 4, quarter = lane % 4;
  const int slices = conv.out_channels / kSlice, first_channel = warp % slices * kSlice;
  const Terms terms(conv.width, quarter);
  wait_for_predecessors();
  uint32_t w[2][8][2];
  __shared__ __align__(8) float bias[kMostChannels];
  for (int i = int(threadIdx.x); i < conv.out_channels; i += kThreads)
    bias[i] = conv.bias ? conv.bias[i] : 0.0f;
#pragma unroll
  for (int j = 0; j < 8; ++j) {
    const int channel = first_channel + 32 * (j / 4) + 8 * (row / 2) + 2 * (j % 4) + row % 2;
    const uint16_t* from = static_cast<const uint16_t*>(conv.weight) + channel * kTerms;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int term = terms.term[2 * i];
      w[i / 2][j][i % 2] = pack(term < kTerms ? from[term] : 0, term + 1 < kTerms ? from[term + 1] : 0);
    }
  }
  __syncthreads();
  const float2* own_bias = reinterpret_cast<const float2*>(bias + first_channel + 8 * quarter);

  const int64_t image_pixels = int64_t(conv.height) * conv.width;
  const uint16_t* image = static_cast<const uint16_t*>(conv.x) + blockIdx.y * image_pixels * 3;
  bf16* y_image = static_cast<bf16*>(conv.y) +
                  blockIdx.y * int64_t(conv.out_height) * conv.out_width * conv.out_channels + first_channel +
                  8 * quarter;
  const int across = (conv.out_width + kStrip - 1) / kStrip, strips = across * conv.out_height;
  const int at_once = kWarps / slices;
  float sums[8] = {}, squares[8] = {};
  for (int strip = int(blockIdx.x) * at_once + warp / slices; strip < strips;
       strip += int(gridDim.x) * at_once) {
    const int y = strip / across, x = (strip - y * across) * kStrip;
    const int top = y - conv.pad_top, left = x - conv.pad_left;
    const bool inside = top >= 0 && left >= 0 && top + 3 <= conv.height && left + kStrip + 2 <= conv.width;
    uint32_t a[2][4];  // of pixels `row` and `row` + 8
    if (inside) {
      gather<true>(a[0], conv, terms, image, top, left + row);
      gather<true>(a[1], conv, terms, image, top, left + row + 8);
    } else {
      gather<false>(a[0], conv, terms, image, top, left + row);
      gather<false>(a[1], conv, terms, image, top, left + row + 8);
    }
#pragma unroll
    for (int first = 0; first < 8; first += kAtOnce) {
      float d[kAtOnce][4];
#pragma unroll
      for (int j = 0; j < kAtOnce; ++j) {
        const float2 pair = own_bias[16 * ((first + j) / 4) + (first + j) % 4];
        d[j][0] = d[j][2] = pair.x;
        d[j][1] = d[j][3] = pair.y;
#pragma unroll
        for (int step = 0; step < 2; ++step) {
          const uint32_t operand[4] = {a[0][2 * step], a[1][2 * step], a[0][2 * step + 1],
                                       a[1][2 * step + 1]};
          ptx::mma_m16n8k16_bf16(d[j], operand, w[step][first + j][0], w[step][first + j][1]);
        }
      }
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        if (x + row + 8 * half >= conv.out_width) continue;
        bf16* to = y_image + (int64_t(y) * conv.out_width + x + row + 8 * half) * conv.out_channels;
#pragma unroll
        for (int j = 0; j < kAtOnce; j += 4) {
          float values[8];
#pragma unroll
          for (int i = 0; i < 8; ++i) values[i] = d[j + i / 2][2 * half + i % 2];
          store8(to + 8 * (first + j), values);
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            const float low = values[2 * i], high = values[2 * i + 1];
            sums[first + j + i] += low + high;
            squares[first + j + i] = fmaf(low, low, fmaf(high, high, squares[first + j + i]));
          }
        }
      }
    }
  }
  let_successor_start();
  if (conv.sums != nullptr) store_sums(conv, sums, squares, warp, lane);
}

}  // namespace
}  // namespace conv

bool conv2d_image_in_takes(const Conv2d& conv) {
  const int slices = conv.out_channels / conv::kSlice;
  return conv.channels == 3 && conv.kernel_height == 3 && conv.kernel_width == 3 && conv.stride == 1 &&
         !conv.upsample && conv.residual == nullptr && conv.affine == nullptr &&
         conv.out_channels % conv::kSlice == 0 && slices <= conv::kWarps && conv::kWarps % slices == 0 &&
         conv.batch <= 65535;
}

Status conv2d_image_in(const Conv2d& conv, cudaStream_t stream) {
  if (Status status = conv::check(conv); !status.ok()) return status;
  if (!conv2d_image_in_takes(conv))
    return Status::unsupported("conv2d_image_in has no kernel for this shape; see conv/image.h");
  const int blocks = device_multiprocessors();
  const dim3 grid(blocks < kGroupNormSumParts ? blocks : kGroupNormSumParts, conv.batch);
  return launch("conv2d_image_in", conv::image_in_kernel, grid, dim3(conv::kThreads), 0, stream, conv);
}

}  // namespace flux::kernels
