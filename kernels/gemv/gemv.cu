// The linear for 1 to 64 rows: modulation of all steps at once, embeddings, pooled vectors.
//
// mma.sync with the weight as its 16-row operand and x, 8 rows at a time, as its 8-column operand. A dot product does not
// care for the order of k, so a lane's 16 bytes of weight are neighbours in k and feed two (bf16) or four (e4m3) mma, with
// x read in the same order. One path serves M = 1 and M = 64: at M = 1 seven eighths of the multiplications are idle.
//
//   grid     n in tiles of 16 channels, `tiles` a block, so that two blocks a multiprocessor cover n
//   block    warp w: tile w % tiles, slice w / tiles of every chunk; up to ten warps
//   chunk    slices · kBlocks · kBlockK of k
//   weight   cp.async of 16 bytes for each of a lane's two rows into slots that only this lane reads: no barrier, no
//            registers, kBlocks KiB a warp always in flight, 80 KiB a multiprocessor (32 KiB would hide the latency)
//   x        cp.async of the next chunk into the other of two buffers while this chunk is multiplied; one barrier a chunk.
//            Two blocks a multiprocessor, so that one loads while the other waits or multiplies.
//   end      slices are added in shared memory in a fixed order, then scale, bias, activation, stores along n
#include "gemv/gemv.h"

#include "activation.cuh"
#include "launch.cuh"
#include "ptx/cp_async.cuh"
#include "ptx/mma.cuh"
#include "ptx/shared.cuh"
#include "quantise/expand.cuh"
#include "vector.cuh"

namespace flux::kernels {
namespace {

// kRowTiles: rows of x in tiles of eight. A block of k is what a warp's 16-byte loads of one row cover.
template <bool kE4m3, int kRowTiles>
struct Config {
  static constexpr bool kCodes = kE4m3;
  static constexpr int kTiles = kRowTiles;
  static constexpr int kRows = 8 * kRowTiles;
  static constexpr int kLaneK = kE4m3 ? 16 : 8;
  static constexpr int kBlockK = 4 * kLaneK;
  // Blocks of a slice: as many in flight as leave room for two thread blocks' shared memory.
  static constexpr int kBlocks = kRowTiles <= 2 ? 4 : kE4m3 ? (kRowTiles == 4 ? 3 : 2) : (kRowTiles == 4 ? 4 : 3);
  static constexpr int kSliceK = kBlocks * kBlockK;
  // Staged x is [slice][row][kPitch]; a quarter-warp's 16-byte reads fall into different banks.
  static constexpr int kPitch = kE4m3 ? kSliceK + 8 : kSliceK + (kSliceK % 64 == 0 ? 32 : 0);
  static constexpr int kSliceElements = kRows * kPitch;
  static constexpr int kWarpSlots = kBlocks * 2 * 32;  // of 16 bytes
};

constexpr int kBlocksPerProcessor = 2;
constexpr int kMaxWarps = 10;
constexpr int kMaxSlices = 4;

struct Shape {
  int tiles;   // of 16 channels, in a block
  int slices;  // of a chunk
};

// Calls visit(element of the staged buffer, row, k) for each vector of eight that this thread stages. All kRows rows, so
// that the divisions are by constants.
template <typename C, typename Visit>
__device__ __forceinline__ void for_staged(int slices, int begin, Visit visit) {
  constexpr int kVectors = C::kSliceK / 8;
#pragma unroll 1
  for (int i = threadIdx.x; i < slices * C::kRows * kVectors; i += blockDim.x) {
    const int run = i / kVectors, column = i % kVectors * 8;
    const int slice = run / C::kRows, row = run % C::kRows;
    visit(slice * C::kSliceElements + row * C::kPitch + column, row, begin + slice * C::kSliceK + column);
  }
}

// Starts the copy of `slices` runs of kSliceK from `begin` on, of all rows of x; zeros beyond k and beyond m.
template <typename C>
__device__ __forceinline__ void stage(const SmallLinear& linear, bf16* to, int begin, int slices) {
  const bf16* x = static_cast<const bf16*>(linear.x);
  for_staged<C>(slices, begin, [&](int at, int row, int k) {
    const bool inside = k < linear.k && row < linear.m;
    ptx::cp_async_16(ptx::shared_address(to + at), inside ? x + row * linear.x_row_stride + k : x, inside ? 16 : 0);
  });
}

// Applies the input activation to what this thread has copied.
template <typename C>
__device__ __forceinline__ void activate_staged(const SmallLinear& linear, bf16* staged, int slices) {
  if (linear.input_activation == Activation::kNone) return;
  for_staged<C>(slices, 0, [&](int at, int, int) {
    float values[8];
    load8(staged + at, values);
#pragma unroll
    for (int i = 0; i < 8; ++i) values[i] = silu(values[i]);
    store8(staged + at, values);
  });
}

// Volatile: after the wait for the copy, and not all of a chunk's x ahead into registers that there are not.
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
  constexpr int kHalves = C::kCodes ? 2 : 1;
  const uint32_t words[2][4] = {{weight[0].x, weight[0].y, weight[0].z, weight[0].w},
                                {weight[1].x, weight[1].y, weight[1].z, weight[1].w}};
#pragma unroll
  for (int half = 0; half < kHalves; ++half) {
    uint32_t a[2][4];
#pragma unroll
    for (int pair = 0; pair < 2; ++pair) {
      if constexpr (C::kCodes) {
        expand_e4m3(words[0][2 * half + pair], a[pair][0], a[pair][2]);
        expand_e4m3(words[1][2 * half + pair], a[pair][1], a[pair][3]);
      } else {
        a[pair][0] = words[0][2 * pair], a[pair][2] = words[0][2 * pair + 1];
        a[pair][1] = words[1][2 * pair], a[pair][3] = words[1][2 * pair + 1];
      }
    }
#pragma unroll
    for (int tile = 0; tile < C::kTiles; ++tile) {
      const uint4 b = load_in_order(x + (tile * 8 * C::kPitch + half * 8) * 2);
      ptx::mma_m16n8k16_bf16(sums[tile], a[0], b.x, b.y);
      ptx::mma_m16n8k16_bf16(sums[tile], a[1], b.z, b.w);
    }
  }
}

// Adds the slices of every sum in order and writes y.
template <typename C>
__device__ __forceinline__ void finish(const SmallLinear& linear, const Shape& shape, const float (&sums)[C::kTiles][4],
                                       float* shared) {
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
    for (int slice = 0; slice < shape.slices; ++slice) value += shared[(slice * C::kRows + row) * pitch + i % channels];
    if (linear.weight_scale) value *= linear.weight_scale[channel];
    if (linear.bias) value += linear.bias[channel];
    value = activate(linear.output_activation, value);
    const int64_t at = row * linear.y_row_stride + channel;
    if (linear.y_type == Element::kF32) {
      static_cast<float*>(linear.y)[at] = value;
    } else {
      static_cast<bf16*>(linear.y)[at] = __float2bfloat16_rn(value);
    }
  }
}

template <typename C>
__global__ void __launch_bounds__(32 * kMaxWarps, kBlocksPerProcessor) weight_bound(const SmallLinear linear, const Shape shape) {
  extern __shared__ uint4 shared[];
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  const int chunk = shape.slices * C::kSliceK, chunks = (linear.k + chunk - 1) / chunk;
  const int slice = warp / shape.tiles;
  // A block's last tiles may lie beyond n: they repeat the last tile and are not stored.
  const int tile = min(int(blockIdx.x) * shape.tiles + warp % shape.tiles, linear.n / 16 - 1);
  constexpr int kElement = C::kCodes ? 1 : 2;
  // Where this lane's weights of the next chunk to be fetched begin, and how much of k is left from there.
  const uint8_t* from = static_cast<const uint8_t*>(linear.weight) +
                        ((int64_t(tile) * 16 + g) * linear.k + slice * C::kSliceK + t * C::kLaneK) * kElement;
  const int64_t eight_rows = int64_t(8) * linear.k * kElement;
  int left = linear.k - slice * C::kSliceK - t * C::kLaneK;
  const uint32_t slots = ptx::shared_address(shared + warp * C::kWarpSlots + lane);
  const auto fetch = [&](int block) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const bool inside = block * C::kBlockK < left;
      ptx::cp_async_16_ahead(slots + (block * 2 + half) * 512,
                       inside ? from + half * eight_rows + block * C::kBlockK * kElement : linear.weight, inside ? 16 : 0);
    }
  };
  bf16* staged = reinterpret_cast<bf16*>(shared + shape.tiles * shape.slices * C::kWarpSlots);
  const int buffer = shape.slices * C::kSliceElements;
  wait_for_predecessors();
  let_successor_start();

  // One group a block of weights; x of a chunk is in the group of that chunk's first block.
  stage<C>(linear, staged, 0, shape.slices);
#pragma unroll
  for (int block = 0; block < C::kBlocks; ++block) {
    fetch(block);
    ptx::cp_async_commit_group();
  }
  float sums[C::kTiles][4] = {};
  const uint32_t x = ptx::shared_address(staged + slice * C::kSliceElements + g * C::kPitch + t * C::kLaneK);
#pragma unroll 1
  for (int index = 0; index < chunks; ++index) {
    const int current = index % 2 * buffer, next = buffer - current;
    from += chunk * kElement;
    left -= chunk;
#pragma unroll
    for (int block = 0; block < C::kBlocks; ++block) {
      ptx::cp_async_wait_group<C::kBlocks - 1>();
      if (block == 0) {
        activate_staged<C>(linear, staged + current, shape.slices);
        __syncthreads();  // x of this chunk is staged, and nobody reads the chunk before any more
        if (index + 1 < chunks) stage<C>(linear, staged + next, (index + 1) * chunk, shape.slices);
      }
      const uint4 weight[2] = {load_in_order(slots + block * 1024), load_in_order(slots + block * 1024 + 512)};
      multiply<C>(sums, weight, x + (current + block * C::kBlockK) * 2);
      fetch(block);
      ptx::cp_async_commit_group();
    }
  }
  ptx::cp_async_wait_group<0>();
  __syncthreads();
  finish<C>(linear, shape, sums, reinterpret_cast<float*>(shared));
}

template <typename C>
Status launch_small(const SmallLinear& linear, cudaStream_t stream) {
  const int tiles = linear.n / 16, blocks = kBlocksPerProcessor * device_multiprocessors();
  Shape shape;
  shape.tiles = (tiles + blocks - 1) / blocks;
  if (shape.tiles > kMaxWarps) shape.tiles = kMaxWarps;
  shape.slices = kMaxWarps / shape.tiles;
  if (shape.slices > kMaxSlices) shape.slices = kMaxSlices;
  const int staged_bytes = 2 * shape.slices * C::kSliceElements * int(sizeof(bf16)) +
                           shape.tiles * shape.slices * C::kWarpSlots * 16;
  const int summed_bytes = shape.slices * C::kRows * (16 * shape.tiles + 1) * 4;
  const dim3 grid((tiles + shape.tiles - 1) / shape.tiles);
  return launch("small_linear", weight_bound<C>, grid, dim3(32 * shape.tiles * shape.slices),
                staged_bytes > summed_bytes ? staged_bytes : summed_bytes, stream, linear, shape);
}

template <bool kE4m3>
Status by_rows(const SmallLinear& linear, cudaStream_t stream) {
  if (linear.m <= 8) return launch_small<Config<kE4m3, 1>>(linear, stream);
  if (linear.m <= 16) return launch_small<Config<kE4m3, 2>>(linear, stream);
  if (linear.m <= 32) return launch_small<Config<kE4m3, 4>>(linear, stream);
  return launch_small<Config<kE4m3, 8>>(linear, stream);
}

}  // namespace

Status small_linear(const SmallLinear& linear, cudaStream_t stream) {
  const auto refuse = [](const std::string& reason) { return Status::bad_argument("small_linear: " + reason); };
  const bool codes = linear.weight_type == Element::kE4M3;
  if (linear.m < 1 || linear.m > 64) return refuse("m is " + std::to_string(linear.m) + "; use a GEMM beyond 64 rows");
  if (linear.n < 16 || linear.n % 16 || linear.k < 16 || linear.k % 16) {
    return refuse("n " + std::to_string(linear.n) + " and k " + std::to_string(linear.k) + " must be multiples of 16");
  }
  if (!codes && linear.weight_type != Element::kBF16) return refuse("the weight is bf16 or e4m3");
  if (codes && linear.weight_scale == nullptr) return refuse("an e4m3 weight needs weight_scale");
  if (!codes && linear.weight_scale != nullptr) return refuse("a bf16 weight takes no weight_scale");
  if (linear.y_type != Element::kBF16 && linear.y_type != Element::kF32) return refuse("the output is bf16 or f32");
  if (linear.input_activation != Activation::kNone && linear.input_activation != Activation::kSilu) {
    return refuse("the input activation is none or SiLU");
  }
  if (!aligned16(linear.x, linear.x_row_stride, 2) || !aligned16(linear.weight, 0, 1)) {
    return refuse("x, its stride and the weight must be multiples of 16 bytes");
  }
  return codes ? by_rows<true>(linear, stream) : by_rows<false>(linear, stream);
}

}  // namespace flux::kernels
