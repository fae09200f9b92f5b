// Tiles of an image laid over each other.
#include "elementwise/elementwise.h"
#include "elementwise/scalar.cuh"
#include "launch.cuh"

namespace flux::kernels {
namespace {

constexpr int kThreads = 256;

__device__ __forceinline__ float share(int position, int edge, int ramp) {
  const float into = float(position - edge) + 0.5f;
  return ramp > 0 ? __saturatef(into / float(ramp)) : (into > 0.0f ? 1.0f : 0.0f);
}

__global__ void __launch_bounds__(kThreads) blend_rows(const TileBlend b, int64_t count) {
  wait_for_predecessors();
  let_successor_start();
  const int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= count) return;
  const int64_t row_width = int64_t(b.width) * b.channels, line = i / row_width, in_row = i % row_width;
  const int row = int(line % b.height);
  const float part = share(row, b.top, b.top_ramp) * share(int(in_row / b.channels), b.left, b.left_ramp);
  if (part == 0.0f) return;
  const int64_t at = line / b.height * b.y_batch_stride + row * b.y_row_stride + in_row;
  float value = load_scalar(b.x, b.type, i);
  if (part < 1.0f) {
    const float before = load_scalar(b.y, b.type, at);
    value = fmaf(part, value - before, before);
  }
  store_scalar(b.y, b.type, at, value);
}

}  // namespace

Status blend_tile(const TileBlend& b, cudaStream_t stream) {
  if (!is_float(b.type)) return Status::bad_argument("blend_tile: x and y are f32 or bf16");
  if (b.batch < 0 || b.height < 0 || b.width < 0 || b.channels < 1 || b.top < 0 || b.top_ramp < 0 ||
      b.left < 0 || b.left_ramp < 0) {
    return Status::bad_argument("blend_tile: no size or ramp may be negative");
  }
  const int64_t count = int64_t(b.batch) * b.height * b.width * b.channels;
  if (count == 0) return {};
  const dim3 grid(unsigned((count + kThreads - 1) / kThreads));
  return launch("blend_tile", blend_rows, grid, dim3(kThreads), 0, stream, b, count);
}

}  // namespace flux::kernels
