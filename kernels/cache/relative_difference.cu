// Σ|x − base − previous| / Σ|previous| in two launches: a pair of sums from each block, then their quotient.
//
// Rows are cut into pieces of 4096 elements. A block of 128 threads takes every kth piece, eight elements a thread and access
// (one where alignment does not allow it); threads sum in registers, blocks by shuffles and one exchange.
#include "cache/cache.h"
#include "elementwise/scalar.cuh"
#include "launch.cuh"
#include "reduce.cuh"

namespace flux::kernels {
namespace {

constexpr int kThreads = 128;
constexpr int kPiece = 4096;
constexpr int kMaxBlocks = 1024;  // about eight on each of an H200's 132 SMs
constexpr int kFinalThreads = 256;

struct Pieces {
  int64_t in_row, count;
};

__host__ __device__ Pieces pieces_of(const Extent& extent) {
  const int64_t in_row = (extent.width + kPiece - 1) / kPiece;
  return {in_row, in_row * extent.rows * extent.batch};
}

unsigned blocks_of(const Extent& extent) {
  const int64_t count = pieces_of(extent).count;
  return unsigned(count < kMaxBlocks ? count : kMaxBlocks);
}

__device__ __forceinline__ int64_t row_of(const ConstView& view, int64_t batch, int64_t row) {
  return batch * view.batch_stride + row * view.row_stride;
}

template <typename T, int kWide>
__device__ __forceinline__ void load(const void* data, int64_t index, float (&values)[kWide]) {
  if constexpr (kWide == 8) {
    load8(static_cast<const T*>(data) + index, values);
  } else {
    values[0] = float(static_cast<const T*>(data)[index]);
  }
}

template <typename T, int kWide>
__global__ void __launch_bounds__(kThreads)
    sum_pieces(const ConstView x, const ConstView base, const ConstView previous, const Extent extent,
               float2* sums) {
  __shared__ float scratch[kThreads / 32];
  wait_for_predecessors();
  let_successor_start();
  const Pieces pieces = pieces_of(extent);
  float change = 0.0f, size = 0.0f;
  for (int64_t piece = blockIdx.x; piece < pieces.count; piece += gridDim.x) {
    const int64_t line = piece / pieces.in_row, start = piece % pieces.in_row * kPiece;
    const int64_t batch = line / extent.rows, row = line % extent.rows;
    const int64_t x_row = row_of(x, batch, row), base_row = row_of(base, batch, row),
                  previous_row = row_of(previous, batch, row);
    const int64_t end = min(start + kPiece, extent.width);
#pragma unroll 4
    for (int64_t i = start + threadIdx.x * kWide; i < end; i += kThreads * kWide) {
      float to[kWide], from[kWide], last[kWide];
      load<T>(x.data, x_row + i, to);
      load<T>(base.data, base_row + i, from);
      load<T>(previous.data, previous_row + i, last);
#pragma unroll
      for (int k = 0; k < kWide; ++k) {
        change += fabsf(to[k] - from[k] - last[k]);
        size += fabsf(last[k]);
      }
    }
  }
  change = reduce_row<kThreads>(change, Sum{}, scratch);
  size = reduce_row<kThreads>(size, Sum{}, scratch);
  if (threadIdx.x == 0) sums[blockIdx.x] = make_float2(change, size);
}

__global__ void __launch_bounds__(kFinalThreads) divide_sums(const float2* sums, int count, float* y) {
  __shared__ float scratch[kFinalThreads / 32];
  wait_for_predecessors();
  let_successor_start();
  float change = 0.0f, size = 0.0f;
  for (int i = threadIdx.x; i < count; i += kFinalThreads) {
    change += sums[i].x;
    size += sums[i].y;
  }
  change = reduce_row<kFinalThreads>(change, Sum{}, scratch);
  size = reduce_row<kFinalThreads>(size, Sum{}, scratch);
  if (threadIdx.x == 0) *y = change / size;
}

bool vectorises(const ConstView& view) {
  const int size = size_of(view.type);
  return aligned16(view.data, view.row_stride, size) && aligned16(view.data, view.batch_stride, size);
}

template <typename T>
Status sum(const RelativeDifference& d, cudaStream_t stream) {
  const bool vector =
      d.extent.width % 8 == 0 && vectorises(d.x) && vectorises(d.base) && vectorises(d.previous);
  const auto kernel = vector ? sum_pieces<T, 8> : sum_pieces<T, 1>;
  return launch("relative_difference", kernel, dim3(blocks_of(d.extent)), dim3(kThreads), 0, stream, d.x,
                d.base, d.previous, d.extent, static_cast<float2*>(d.workspace));
}

}  // namespace

int64_t relative_difference_workspace_bytes(const Extent& extent) {
  return int64_t(blocks_of(extent)) * int64_t(sizeof(float2));
}

Status relative_difference(const RelativeDifference& d, cudaStream_t stream) {
  if (d.x.type != d.base.type || d.x.type != d.previous.type || !is_float(d.x.type)) {
    return Status::bad_argument("relative_difference: the operands are all f32 or all bf16");
  }
  if (d.extent.batch < 1 || d.extent.rows < 1 || d.extent.width < 1) {
    return Status::bad_argument("relative_difference: the operands must not be empty");
  }
  const Status status = d.x.type == Element::kBF16 ? sum<bf16>(d, stream) : sum<float>(d, stream);
  if (!status.ok()) return status;
  return launch("relative_difference", divide_sums, dim3(1), dim3(kFinalThreads), 0, stream,
                static_cast<const float2*>(d.workspace), int(blocks_of(d.extent)), d.y);
}

}  // namespace flux::kernels
