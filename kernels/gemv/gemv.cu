// The linear for 1 to 64 rows: modulation of all steps at once, embeddings, pooled vectors.
//
// The weight goes from memory straight into registers, 16 bytes a lane, and from there into mma.sync as its 16-row operand;
// x, shared by all, is staged through shared memory a chunk of k at a time and is the 8-column operand. A dot product does
// not care for the order of k, so a lane's 16 bytes are k-neighbours and feed two mma, with x read in the same order. One
// path serves M = 1 and M = 64: at M = 1 seven eighths of the multiplications are idle and free.
//
//   grid     n in tiles of 16 channels, `tiles` tiles a block so that one block a multiprocessor covers n
//   block    warp w: tile w % tiles, slice w / tiles of every chunk; up to 18 warps
//   chunk    slices · kBlocks · kBlockK of k; x of the next chunk is staged while this one is multiplied
//   turns    17 to 32 rows have two a chunk where few slices make chunks short: a barrier is not worth 96 of k
//   weight   kBlocks 16-byte loads for each of a lane's two rows are always in flight (4 KiB a warp, 72 KiB a
//            multiprocessor: at 32 bytes a nanosecond that is over two microseconds of cover)
//   end      slices are added in shared memory in a fixed order, then scale, bias, activation, stores along n
//
// L2 traffic: x once a block, 23 MB at M = 28, K = 3072 beside 113 MB of weights. Registers: 8 · kBlocks of weight, 4 a tile
// of eight rows of accumulators; 96 at most for 18 warps.
#include "gemv/gemv.h"

#include "activation.cuh"
#include "launch.cuh"
#include "ptx/cp_async.cuh"
#include "ptx/mma.cuh"
#include "ptx/shared.cuh"
#include "vector.cuh"

namespace flux::kernels {
namespace {

constexpr int kMaxWarps = 18;
constexpr int kMaxSlices = 4;
constexpr int kLaneK = 8;            // of one 16-byte load
constexpr int kBlockK = 4 * kLaneK;  // of four lanes' loads

// kRows: rows of x in tiles of eight. A chunk is multiplied in kTurns_ turns of the weights that registers hold.
template <int kRowTiles, int kTurns_ = 1>
struct Config {
  static constexpr int kTurns = kTurns_;
  static constexpr int kTiles = kRowTiles;
  static constexpr int kRows = 8 * kRowTiles;
  static constexpr int kBlocks = kRowTiles <= 2 ? 4 : 3;  // what registers allow
  static constexpr int kTurnK = kBlocks * kBlockK;
  static constexpr int kSliceK = kTurns * kTurnK;
  // Staged x is [slice][row][kPitch]; a quarter-warp's 16-byte reads fall into different banks.
  static constexpr int kPitch = kSliceK + (kSliceK % 64 == 0 ? 32 : 0);
  static constexpr int kSliceElements = kRows * kPitch;
};

struct Shape {
  int tiles;   // of 16 channels, in a block
  int slices;  // of a chunk
};

__device__ __forceinline__ uint4 load_streaming(const bf16* from) {
  uint4 value;
  asm volatile("ld.global.nc.L1::no_allocate.L2::128B.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(value.x), "=r"(value.y), "=r"(value.z), "=r"(value.w)
               : "l"(from));
  return value;
}

// Starts the copy of `slices` runs of kSliceK from `begin` on, of all rows of x; zeros beyond k.
template <typename C>
__device__ __forceinline__ void stage(const SmallLinear& linear, bf16* to, int begin, int slices) {
  constexpr int kVectors = C::kSliceK / 8;
  const bf16* x = static_cast<const bf16*>(linear.x);
  for (int i = threadIdx.x; i < slices * linear.m * kVectors; i += blockDim.x) {
    const int run = i / kVectors, column = i % kVectors * 8;
    const int slice = run / linear.m, row = run % linear.m;
    const int k = begin + slice * C::kSliceK + column;
    const bool inside = k < linear.k;
    ptx::cp_async_16(ptx::shared_address(to + slice * C::kSliceElements + row * C::kPitch + column),
                     inside ? x + row * linear.x_row_stride + k : x, inside ? 16 : 0);
  }
  ptx::cp_async_commit_group();
}

// Volatile, so that the compiler does not read all of a chunk's x ahead into registers that it does not have.
__device__ __forceinline__ uint4 load_in_order(uint32_t shared) {
  uint4 value;
  asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(value.x), "=r"(value.y), "=r"(value.z), "=r"(value.w)
               : "r"(shared));
  return value;
}

// One block of k for one tile of channels: `weight` are a lane's 16 bytes of rows g and g + 8, `x` its column's k.
template <typename C>
__device__ __forceinline__ void multiply(float (&sums)[C::kTiles][4], const uint4 (&weight)[2], uint32_t x) {
  const uint32_t a[2][4] = {{weight[0].x, weight[1].x, weight[0].y, weight[1].y},
                            {weight[0].z, weight[1].z, weight[0].w, weight[1].w}};
#pragma unroll
  for (int tile = 0; tile < C::kTiles; ++tile) {
    const uint4 b = load_in_order(x + tile * 8 * C::kPitch * 2);
    ptx::mma_m16n8k16_bf16(sums[tile], a[0], b.x, b.y);
    ptx::mma_m16n8k16_bf16(sums[tile], a[1], b.z, b.w);
  }
}

// Adds the slices of every sum in order and writes y.
template <typename C>
__device__ __forceinline__ void finish(const SmallLinear& linear, const Shape& shape,
                                       const float (&sums)[C::kTiles][4], float* shared) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  // [slice][row of x][channel of the block], channels padded against bank conflicts
  const int channels = 16 * shape.tiles, pitch = channels + 1;
  float* own = shared + (warp / shape.tiles) * C::kRows * pitch + (warp % shape.tiles) * 16;
#pragma unroll
  for (int tile = 0; tile < C::kTiles; ++tile) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      own[(tile * 8 + lane % 4 * 2 + i % 2) * pitch + lane / 4 + i / 2 * 8] = sums[tile][i];
    }
  }
  __syncthreads();
  for (int i = threadIdx.x; i < linear.m * channels; i += blockDim.x) {
    const int row = i / channels, channel = blockIdx.x * channels + i % channels;
    if (channel >= linear.n) continue;
    float value = 0.0f;
    for (int slice = 0; slice < shape.slices; ++slice)
      value += shared[(slice * C::kRows + row) * pitch + i % channels];
    if (linear.bias) value += linear.bias[channel];
    value = activate(linear.activation, value);
    const int64_t at = row * linear.y_row_stride + channel;
    if (linear.y_type == Element::kF32) {
      static_cast<float*>(linear.y)[at] = value;
    } else {
      static_cast<bf16*>(linear.y)[at] = __float2bfloat16_rn(value);
    }
  }
}

template <typename C>
__global__ void __launch_bounds__(32 * kMaxWarps) weight_bound(const SmallLinear linear, const Shape shape) {
  extern __shared__ uint4 shared[];
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  const int chunk = shape.slices * C::kSliceK;
  const int chunks = (linear.k + chunk - 1) / chunk;
  const int slice = warp / shape.tiles;
  // A block's last tiles may lie beyond n: they repeat the last tile and are not stored.
  const int tile = min(int(blockIdx.x) * shape.tiles + warp % shape.tiles, linear.n / 16 - 1);
  // Where this lane's weights of the next chunk to be fetched begin, and how much of k is left from there.
  const bf16* from = static_cast<const bf16*>(linear.weight) + (int64_t(tile) * 16 + g) * linear.k +
                     slice * C::kSliceK + t * kLaneK;
  const int eight_rows = 8 * linear.k;
  int left = linear.k - slice * C::kSliceK - t * kLaneK;
  const auto fetch = [&](uint4(&weight)[2], int block) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      weight[half] = make_uint4(0, 0, 0, 0);
      if (block * kBlockK < left) {
        weight[half] = load_streaming(from + half * eight_rows + block * kBlockK);
      }
    }
  };
  const auto advance = [&](int by) {
    from += by;
    left -= by;
  };
  const int to_next_chunk = chunk - (C::kTurns - 1) * C::kTurnK;  // from a chunk's last turn

  // The first weights may come to L2 before anything is known of the predecessors: a prefetch reads nothing.
#pragma unroll
  for (int block = 0; block < C::kBlocks; ++block) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      if (t % 2 == 0 && block * kBlockK < left) {
        asm volatile("prefetch.global.L2 [%0];" ::"l"(from + half * eight_rows + block * kBlockK));
      }
    }
  }
  bf16* staged = reinterpret_cast<bf16*>(shared);
  const int buffer = shape.slices * C::kSliceElements;
  for (int i = threadIdx.x; i < 2 * buffer / 8; i += blockDim.x) shared[i] = make_uint4(0, 0, 0, 0);
  wait_for_predecessors();
  let_successor_start();

  uint4 weight[C::kBlocks][2];
#pragma unroll
  for (int block = 0; block < C::kBlocks; ++block) fetch(weight[block], block);
  advance(C::kTurns == 1 ? to_next_chunk : C::kTurnK);
  __syncthreads();
  stage<C>(linear, staged, 0, shape.slices);
  ptx::cp_async_wait_group<0>();
  float sums[C::kTiles][4] = {};
  const uint32_t x = ptx::shared_address(staged + slice * C::kSliceElements + g * C::kPitch + t * kLaneK);
  for (int index = 0; index < chunks; ++index) {
    __syncthreads();  // this chunk is staged, and nobody reads the one before any more
    const int next = (index + 1) % 2 * buffer;
    if (index + 1 < chunks) stage<C>(linear, staged + next, (index + 1) * chunk, shape.slices);
    const uint32_t own = x + (buffer - next) * 2;
#pragma unroll
    for (int turn = 0; turn < C::kTurns; ++turn) {
#pragma unroll
      for (int block = 0; block < C::kBlocks; ++block) {
        multiply<C>(sums, weight[block], own + (turn * C::kTurnK + block * kBlockK) * 2);
        fetch(weight[block], block);
      }
      advance((turn + 2) % C::kTurns == 0 ? to_next_chunk : C::kTurnK);
    }
    ptx::cp_async_wait_group<0>();
  }
  __syncthreads();
  finish<C>(linear, shape, sums, reinterpret_cast<float*>(shared));
}

template <typename C>
Status launch_small(const SmallLinear& linear, cudaStream_t stream) {
  const int tiles = linear.n / 16, processors = device_multiprocessors();
  Shape shape;
  shape.tiles = (tiles + processors - 1) / processors;
  if (shape.tiles > kMaxWarps) shape.tiles = kMaxWarps;
  shape.slices = kMaxWarps / shape.tiles < kMaxSlices ? kMaxWarps / shape.tiles : kMaxSlices;
  const auto shared_bytes = [&] {
    const int staged = 2 * shape.slices * C::kSliceElements * int(sizeof(bf16));
    const int summed =
        shape.slices * C::kRows * (16 * shape.tiles + 1) * 4;  // in place of the staged, at the end
    return staged > summed ? staged : summed;
  };
  while (shape.slices > 1 && shared_bytes() > device_shared_bytes()) --shape.slices;
  const dim3 grid((tiles + shape.tiles - 1) / shape.tiles);
  return launch("small_linear", weight_bound<C>, grid, dim3(32 * shape.tiles * shape.slices), shared_bytes(),
                stream, linear, shape);
}

Status by_rows(const SmallLinear& linear, cudaStream_t stream) {
  if (linear.m <= 8) return launch_small<Config<1>>(linear, stream);
  if (linear.m <= 16) return launch_small<Config<2>>(linear, stream);
  if (linear.m <= 32) {
    const bool wide = linear.n / 16 > kMaxWarps / 3 * device_multiprocessors();  // two slices or one
    return wide ? launch_small<Config<4, 2>>(linear, stream) : launch_small<Config<4>>(linear, stream);
  }
  return launch_small<Config<8>>(linear, stream);
}

}  // namespace

Status small_linear(const SmallLinear& linear, cudaStream_t stream) {
  const auto refuse = [](const std::string& reason) {
    return Status::bad_argument("small_linear: " + reason);
  };
  if (linear.m < 1 || linear.m > 64)
    return refuse("m is " + std::to_string(linear.m) + "; use a GEMM beyond 64 rows");
  if (linear.n < 16 || linear.n % 16 || linear.k < 16 || linear.k % 16) {
    return refuse("n " + std::to_string(linear.n) + " and k " + std::to_string(linear.k) +
                  " must be multiples of 16");
  }
  if (linear.y_type != Element::kBF16 && linear.y_type != Element::kF32)
    return refuse("the output is bf16 or f32");
  if (!aligned16(linear.x, linear.x_row_stride, 2) || !aligned16(linear.weight, 0, 1)) {
    return refuse("x, its stride and the weight must be multiples of 16 bytes");
  }
  return by_rows(linear, stream);
}

}  // namespace flux::kernels
