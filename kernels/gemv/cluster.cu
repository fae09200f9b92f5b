// The linear for 1 to 32 rows with e4m3 weights on sm_90.
//
// As in gemv.cu the weight is mma.sync's 16-row operand and x, shared by all, the 8-column one, and a lane's 16 bytes of weight
// are k-neighbours. What differs is where the time went there:
//   expansion  codes become f16 by one instruction for two (bf16 takes ten for four). x becomes f16 too, exactly: bf16 has 8
//              significant bits, f16 11, and each row is first multiplied by the power of two that brings its largest value to
//              2^14 to 2^15. What is 2^31 times smaller loses bits, 2^-39 of the largest. Sums are multiplied back at the end.
//   x          four blocks of a cluster have the same channels and a quarter of k each, so that a block stages a quarter of x,
//              once, before the main loop, which needs no barrier then. Two tiles of channels share each read of x.
//   weight     by cp.async into slots that only the lane itself reads, so loads wait for no registers
//
//   grid     one wave of clusters, channels in pairs of tiles of 16 (an H200 holds 30 clusters: four do not fill every GPC; N
//            18432 takes 29)
//   block    warp w: pair w % pairs, slice w / pairs of the block's k; up to 20 warps
//   shared   [warp][stage][rows g, g + 8, g + 16, g + 24][lane] 16 bytes: 2 KiB a warp and stage, 80 KiB with 20 warps;
//            then x [row][pitch]. At the end, over both: sums [slice][row][channel]
//   end      the four blocks' sums, and the slices', are added through distributed shared memory in a fixed order, each block
//            a quarter of the channels; then scale, bias, activation, stores along n
//
// Registers: 32 of sums at 32 rows, 16 codes, 16 expanded, 8 of x; 96 at most for 20 warps.
#include "gemv/cluster.h"

#include <algorithm>

#include "activation.cuh"
#include "launch.cuh"
#include "ptx/cluster.cuh"
#include "ptx/cp_async.cuh"
#include "ptx/mma.cuh"
#include "ptx/shared.cuh"
#include "vector.cuh"

namespace flux::kernels {
namespace {

constexpr int kCluster = 4;
constexpr int kMaxWarps = 20;
constexpr int kMaxRows = 32;
constexpr int kStages = 2;
constexpr int kLaneK = 16;
constexpr int kBlockK = 4 * kLaneK;  // what one 16-byte load of four lanes covers
constexpr int kSlotBytes = 32 * 16;  // of a warp, for one of its four rows a lane
constexpr int kStageBytes = 4 * kSlotBytes;

struct Shape {
  int pairs;   // of tiles of 16 channels, in a cluster
  int slices;  // of a block's k
  int blocks;  // of kBlockK, in a slice
  int pitch;   // of staged x, in elements

  __host__ __device__ int width() const { return slices * blocks * kBlockK; }  // a block's k
  __host__ __device__ int channels() const { return 32 * pairs; }              // a cluster's
  __host__ __device__ int sums_pitch() const { return channels() + 4; }        // against bank conflicts
};

// 16 bytes, or zeros. A line of the weight is fetched whole: its other half is the next block of k.
[[maybe_unused]] __device__ __forceinline__ void copy16(uint32_t to, const void* from, bool inside) {
  asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;" ::"r"(to), "l"(from),
               "r"(inside ? 16 : 0)
               : "memory");
}

// Starts the copies of this warp's rows of x, columns begin to begin + width, zeros beyond k and beyond m.
template <int kRows>
__device__ __forceinline__ void stage(const SmallLinear& linear, const Shape& shape, bf16* to, int begin) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, warps = blockDim.x / 32;
  const bf16* x = static_cast<const bf16*>(linear.x);
  for (int row = warp; row < kRows; row += warps) {
    for (int column = lane * 8; column < shape.width(); column += 256) {
      const bool inside = row < linear.m && begin + column < linear.k;
      ptx::cp_async_16(ptx::shared_address(to + row * shape.pitch + column),
                       inside ? x + row * linear.x_row_stride + begin + column : x, inside ? 16 : 0);
    }
  }
  ptx::cp_async_commit_group();
}

// In place, of the rows that this warp staged: the input activation, then f16. `row_scale` is what undoes the row's factor.
[[maybe_unused]] __device__ __forceinline__ void convert_staged(const SmallLinear& linear, const Shape& shape,
                                                                bf16* staged, float* row_scale) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, warps = blockDim.x / 32;
  const bool silu_in = linear.input_activation == Activation::kSilu;
  for (int row = warp; row < linear.m; row += warps) {
    bf16* x = staged + row * shape.pitch;
    float largest = 0.0f;
    for (int column = lane * 8; column < shape.width(); column += 256) {
      float values[8];
      load8(x + column, values);
      if (silu_in) {
#pragma unroll
        for (int i = 0; i < 8; ++i) values[i] = silu(values[i]);
        store8(x + column, values);
      }
#pragma unroll
      for (int i = 0; i < 8; ++i) largest = fmaxf(largest, fabsf(values[i]));
    }
    const uint32_t bits = __reduce_max_sync(0xffffffffu, __float_as_uint(largest));
    const int exponent = min(max(int(bits >> 23) - 127, -100), 127);  // both factors stay normal numbers
    const float factor = __uint_as_float(uint32_t(127 + 14 - exponent) << 23);
    if (lane == 0) row_scale[row] = __uint_as_float(uint32_t(127 - 14 + exponent) << 23);
    for (int column = lane * 8; column < shape.width(); column += 256) {
      float v[8];
      load8(x + column, v);
      uint4 packed;
      packed.x = ptx::cvt_rn_f16x2(v[0] * factor, v[1] * factor);
      packed.y = ptx::cvt_rn_f16x2(v[2] * factor, v[3] * factor);
      packed.z = ptx::cvt_rn_f16x2(v[4] * factor, v[5] * factor);
      packed.w = ptx::cvt_rn_f16x2(v[6] * factor, v[7] * factor);
      *reinterpret_cast<uint4*>(x + column) = packed;
    }
  }
}

// One block of k for a pair of tiles: `weight` are this lane's slots, `x` its column's k.
template <int kTiles>
__device__ __forceinline__ void multiply(float (&sums)[2][kTiles][4], uint32_t weight, uint32_t x,
                                         int pitch) {
  uint32_t codes[4][4];
#pragma unroll
  for (int r = 0; r < 4; ++r) {
    const uint4 w = ptx::ld_shared_v4_b32(weight + r * kSlotBytes);
    codes[r][0] = w.x, codes[r][1] = w.y, codes[r][2] = w.z, codes[r][3] = w.w;
  }
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    uint32_t a[2][2][4];
#pragma unroll
    for (int p = 0; p < 2; ++p) {
#pragma unroll
      for (int k = 0; k < 2; ++k) {
#pragma unroll
        for (int r = 0; r < 2; ++r) {
          const uint32_t four = codes[2 * p + r][2 * half + k];
          a[p][k][r] = ptx::cvt_rn_f16x2_e4m3x2(uint16_t(four));
          a[p][k][r + 2] = ptx::cvt_rn_f16x2_e4m3x2(uint16_t(four >> 16));
        }
      }
    }
    // Two tiles at a time: neighbouring products add to different sums, so that none waits for the one before.
    constexpr int kAtOnce = kTiles < 2 ? 1 : 2;
#pragma unroll
    for (int first = 0; first < kTiles; first += kAtOnce) {
      uint4 b[kAtOnce];
#pragma unroll
      for (int i = 0; i < kAtOnce; ++i) {
        b[i] = ptx::ld_shared_v4_b32(x + ((first + i) * 8 * pitch + half * 8) * 2);
      }
#pragma unroll
      for (int k = 0; k < 2; ++k) {
#pragma unroll
        for (int i = 0; i < kAtOnce; ++i) {
#pragma unroll
          for (int p = 0; p < 2; ++p) {
            ptx::mma_m16n8k16_f16(sums[p][first + i], a[p][k], k == 0 ? b[i].x : b[i].z,
                                  k == 0 ? b[i].y : b[i].w);
          }
        }
      }
    }
  }
}

// This warp's sums, free of the rows' factors, into shared memory.
template <int kTiles>
__device__ __forceinline__ void put_sums(const SmallLinear& linear, const Shape& shape,
                                         const float (&sums)[2][kTiles][4], const float* row_scale,
                                         float* shared) {
  int thread;  // read again, so that nothing derived from it occupies registers in the main loop
  asm volatile("mov.u32 %0, %%tid.x;" : "=r"(thread));
  const int warp = thread / 32, g = thread % 32 / 4, t = thread % 4;
  float* own = shared + (warp / shape.pairs) * 8 * kTiles * shape.sums_pitch() + warp % shape.pairs * 32;
#pragma unroll
  for (int tile = 0; tile < kTiles; ++tile) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int row = tile * 8 + t * 2 + i % 2;
      const float factor = row < linear.m ? row_scale[row] : 0.0f;
#pragma unroll
      for (int p = 0; p < 2; ++p) {
        own[row * shape.sums_pitch() + p * 16 + g + i / 2 * 8] = sums[p][tile][i] * factor;
      }
    }
  }
}

// Adds the slices and blocks of every sum of this block's quarter of the channels in order and writes y.
template <int kTiles>
__device__ __forceinline__ void finish(const SmallLinear& linear, const Shape& shape, uint32_t sums, int rank,
                                       int first_channel) {
  const int quarter = shape.channels() / kCluster;
  for (int i = threadIdx.x; i < linear.m * quarter; i += blockDim.x) {
    const int row = i / quarter, within = rank * quarter + i % quarter, channel = first_channel + within;
    if (channel >= linear.n) continue;
    float value = 0.0f;
    for (int slice = 0; slice < shape.slices; ++slice) {
      const uint32_t at = sums + ((slice * 8 * kTiles + row) * shape.sums_pitch() + within) * 4;
      float parts[kCluster];
#pragma unroll
      for (int block = 0; block < kCluster; ++block) {
        parts[block] = ptx::ld_shared_cluster_f32(ptx::mapa(at, block));
      }
#pragma unroll
      for (int block = 0; block < kCluster; ++block) value += parts[block];
    }
    value *= linear.weight_scale[channel];
    if (linear.bias) value += linear.bias[channel];
    value = activate(linear.output_activation, value);
    const int64_t to = row * linear.y_row_stride + channel;
    if (linear.y_type == Element::kF32) {
      static_cast<float*>(linear.y)[to] = value;
    } else {
      static_cast<bf16*>(linear.y)[to] = __float2bfloat16_rn(value);
    }
  }
}

// kTiles: rows of x in tiles of eight.
template <int kTiles>
__global__ void __launch_bounds__(32 * kMaxWarps) split_k(const SmallLinear linear, const Shape shape) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  extern __shared__ uint4 shared[];
  __shared__ float row_scale[8 * kTiles];
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  const int rank = int(ptx::cluster_ctarank()), cluster = blockIdx.x / kCluster;
  const int slice = warp / shape.pairs, slice_k = shape.blocks * kBlockK;
  const int begin = rank * shape.width() + slice * slice_k;  // of this warp's k
  bf16* staged = reinterpret_cast<bf16*>(shared + blockDim.x / 32 * kStages * kStageBytes / 16);

  // A cluster's last tiles may lie beyond n: zeros, or the last tile again, and not stored.
  const int tile = (cluster * shape.pairs + warp % shape.pairs) * 2, last = linear.n / 16 - 1;
  const bool both = tile < last;
  const int eight_rows = 8 * linear.k;
  const uint8_t* from = static_cast<const uint8_t*>(linear.weight) +
                        (int64_t(min(tile, last)) * 16 + g) * linear.k + begin + t * kLaneK;
  int left = min(linear.k - begin, slice_k) - t * kLaneK;  // of this lane's k from there
  const uint32_t own = ptx::shared_address(shared) + warp * kStages * kStageBytes + lane * 16;
  const auto fetch = [&](int into) {
    const uint32_t to = own + into * kStageBytes;
    const uint8_t* row = from;
    copy16(to, row, left > 0);
    copy16(to + kSlotBytes, row += eight_rows, left > 0);
    copy16(to + 2 * kSlotBytes, row += eight_rows, left > 0 && both);
    copy16(to + 3 * kSlotBytes, row += eight_rows, left > 0 && both);
    from += kBlockK;
    left -= kBlockK;
    ptx::cp_async_commit_group();
  };

  wait_for_predecessors();
  let_successor_start();
  stage<8 * kTiles>(linear, shape, staged, rank * shape.width());
#pragma unroll
  for (int i = 0; i < kStages; ++i) fetch(i);
  ptx::cp_async_wait_group<kStages>();  // x alone
  __syncwarp();
  convert_staged(linear, shape, staged, row_scale);
  __syncthreads();

  float sums[2][kTiles][4] = {};
  const uint32_t x = ptx::shared_address(staged + g * shape.pitch + slice * slice_k + t * kLaneK);
#pragma unroll 1
  for (int block = 0; block < shape.blocks; ++block) {
    ptx::cp_async_wait_group<kStages - 1>();
    multiply<kTiles>(sums, own + block % kStages * kStageBytes, x + block * kBlockK * 2, shape.pitch);
    fetch(block % kStages);
  }
  ptx::cp_async_wait_group<0>();  // the last fetches fill slots with zeros, where the sums go
  __syncthreads();                // nobody reads the weight or x any more
  put_sums<kTiles>(linear, shape, sums, row_scale, reinterpret_cast<float*>(shared));
  ptx::cluster_arrive();
  ptx::cluster_wait();
  finish<kTiles>(linear, shape, ptx::shared_address(shared), rank, cluster * shape.channels());
  ptx::cluster_arrive();  // the others may still read this block's sums
  ptx::cluster_wait();
#endif
}

int divide_up(int value, int by) { return (value + by - 1) / by; }

using Kernel = void (*)(SmallLinear, Shape);

Kernel kernel_for(int rows) { return rows <= 8 ? split_k<1> : rows <= 16 ? split_k<2> : split_k<4>; }

struct Launch {
  Shape shape;
  int warps, shared_bytes, grid;
};

Launch plan(const SmallLinear& linear, int clusters) {
  Launch launch;
  const int pairs = divide_up(linear.n, 32), blocks = divide_up(linear.k, kBlockK);
  const int rows = linear.m <= 16 ? divide_up(linear.m, 8) * 8 : kMaxRows;
  Shape& shape = launch.shape;
  shape.pairs = std::min(divide_up(pairs, clusters), kMaxWarps);
  shape.slices = std::min(kMaxWarps / shape.pairs, divide_up(blocks, kCluster));
  shape.blocks = divide_up(blocks, kCluster * shape.slices);
  shape.pitch = shape.width() + 8;  // a quarter-warp's 16-byte reads fall into different banks
  launch.warps = shape.pairs * shape.slices;
  launch.shared_bytes = std::max(launch.warps * kStages * kStageBytes + rows * shape.pitch * 2,
                                 shape.slices * rows * shape.sums_pitch() * 4);
  launch.grid = divide_up(pairs, shape.pairs) * kCluster;
  return launch;
}

cudaLaunchConfig_t configuration(const Launch& launch, cudaLaunchAttribute (&attributes)[2],
                                 cudaStream_t stream) {
  attributes[0].id = cudaLaunchAttributeClusterDimension;
  attributes[0].val.clusterDim = {kCluster, 1, 1};
  attributes[1].id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attributes[1].val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(launch.grid);
  config.blockDim = dim3(32 * launch.warps);
  config.dynamicSmemBytes = launch.shared_bytes;
  config.stream = stream;
  config.attrs = attributes;
  config.numAttrs = 2;
  return config;
}

// How many clusters of the largest blocks the device holds at once.
int clusters_at_once() {
  static const int count = [] {
    const Kernel kernel = kernel_for(kMaxRows);
    Launch largest{};
    largest.grid = kCluster, largest.warps = kMaxWarps, largest.shared_bytes = device_shared_bytes() - 1024;
    cudaLaunchAttribute attributes[2]{};
    cudaLaunchConfig_t config = configuration(largest, attributes, nullptr);
    config.numAttrs = 1;
    int clusters = 0;
    if (cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, largest.shared_bytes) !=
            cudaSuccess ||
        cudaOccupancyMaxActiveClusters(&clusters, kernel, &config) != cudaSuccess)
      return 0;
    return clusters;
  }();
  return count;
}

}  // namespace

bool cluster_linear_takes(const SmallLinear& linear) {
  return linear.weight_type == Element::kE4M3 && linear.m <= kMaxRows && device_architecture() == 90 &&
         clusters_at_once() > 0 &&
         plan(linear, clusters_at_once()).shared_bytes <= device_shared_bytes() - 1024;
}

Status cluster_linear(const SmallLinear& linear, cudaStream_t stream) {
  const Launch launch = plan(linear, clusters_at_once());
  const Kernel kernel = kernel_for(linear.m);
  cudaLaunchAttribute attributes[2]{};
  const cudaLaunchConfig_t config = configuration(launch, attributes, stream);
  cudaError_t error =
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, launch.shared_bytes);
  if (error == cudaSuccess) error = cudaLaunchKernelEx(&config, kernel, linear, launch.shape);
  return Status::from_cuda(error, "small_linear");
}

}  // namespace flux::kernels
