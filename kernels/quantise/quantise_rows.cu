// Per-token quantisation of bf16 rows: read once, kept packed in registers, written as codes and a scale.
//
// kLanes threads share a row (chunk c, lane l: columns 8·(c·kLanes + l) …). The maximum is taken on packed pairs in bf16,
// which is exact. The quotient is correctly rounded, so codes equal those of x / scale in IEEE arithmetic.
#include "launch.cuh"
#include "quantise/e4m3.cuh"
#include "quantise/quantise.h"
#include "reduce.cuh"
#include "vector.cuh"

namespace flux::kernels {
namespace {

template <int kLanes>
constexpr int kThreads = kLanes <= 32 ? 128 : kLanes;

__device__ __forceinline__ __nv_bfloat162 larger(__nv_bfloat162 a, uint32_t packed) {
  const uint32_t magnitude = packed & 0x7fff7fffu;
  return __hmax2(a, *reinterpret_cast<const __nv_bfloat162*>(&magnitude));
}

template <int kLanes, int kChunks, bool kFull>
__global__ void __launch_bounds__(kThreads<kLanes>) quantise_row(const QuantiseRows q) {
  constexpr int kRowsPerBlock = kThreads<kLanes> / kLanes;
  __shared__ float scratch[kLanes > 32 ? kLanes / 32 : 1];
  const int lane = threadIdx.x % kLanes;
  const int64_t flat = int64_t(blockIdx.x) * kRowsPerBlock + threadIdx.x / kLanes;
  if (flat >= int64_t(q.batch) * q.rows) return;  // whole warps or whole blocks
  const int batch = int(flat / q.rows), index = int(flat % q.rows);
  const auto column_of = [&](int chunk) { return (chunk * kLanes + lane) * 8; };

  wait_for_predecessors();
  let_successor_start();
  const bf16* x = static_cast<const bf16*>(q.x) + batch * q.x_batch_stride + index * q.x_row_stride;
  uint4 packed[kChunks];
#pragma unroll
  for (int c = 0; c < kChunks; ++c) {
    packed[c] = make_uint4(0, 0, 0, 0);
    if (kFull || column_of(c) < q.width) packed[c] = *reinterpret_cast<const uint4*>(x + column_of(c));
  }
  __nv_bfloat162 largest = __float2bfloat162_rn(0.0f);
#pragma unroll
  for (int c = 0; c < kChunks; ++c) {
    largest = larger(larger(larger(larger(largest, packed[c].x), packed[c].y), packed[c].z), packed[c].w);
  }
  const float own = fmaxf(__low2float(largest), __high2float(largest));
  const RowQuantiser quantiser(reduce_row<kLanes>(own, Maximum{}, scratch));

  if (lane == 0) q.scale[flat] = quantiser.scale;
  uint8_t* codes = q.codes + batch * q.codes_batch_stride + index * q.codes_row_stride;
#pragma unroll
  for (int c = 0; c < kChunks; ++c) {
    if (!kFull && column_of(c) >= q.width) continue;
    float values[8];
    unpack8(packed[c], values);
    *reinterpret_cast<uint2*>(codes + column_of(c)) = quantiser.codes<true>(values);
  }
}

template <int kLanes, int kChunks, bool kFull>
Status launch_rows(const QuantiseRows& q, cudaStream_t stream) {
  constexpr int kRowsPerBlock = kThreads<kLanes> / kLanes;
  const int64_t total = int64_t(q.batch) * q.rows;
  const dim3 grid(unsigned((total + kRowsPerBlock - 1) / kRowsPerBlock));
  return launch("quantise_rows", quantise_row<kLanes, kChunks, kFull>, grid, kThreads<kLanes>, 0, stream, q);
}

}  // namespace

Status quantise_rows(const QuantiseRows& q, cudaStream_t stream) {
  if (q.width <= 0 || q.width % 8 != 0 || q.width > 16384) {
    return Status::bad_argument("quantise_rows: width " + std::to_string(q.width) +
                                " is not a multiple of 8 up to 16384");
  }
  if (q.batch < 0 || q.rows < 0 || int64_t(q.batch) * q.rows > int64_t(0x7fffffff)) {
    return Status::bad_argument(
        "quantise_rows: batch and rows must not be negative, and at most 2^31 - 1 rows in all");
  }
  if (!aligned16(q.x, q.x_row_stride, 2) || !aligned16(q.x, q.x_batch_stride, 2)) {
    return Status::bad_argument("quantise_rows: x and its strides must be multiples of 16 bytes");
  }
  if (reinterpret_cast<uintptr_t>(q.codes) % 8 || q.codes_row_stride % 8 || q.codes_batch_stride % 8) {
    return Status::bad_argument("quantise_rows: codes and their strides must be multiples of 8 bytes");
  }
  if (q.batch == 0 || q.rows == 0) return {};
  if (q.width == 3072) return launch_rows<128, 3, true>(q, stream);   // FLUX's hidden size
  if (q.width == 12288) return launch_rows<256, 6, true>(q, stream);  // its MLP
  if (q.width <= 1024) return launch_rows<32, 4, false>(q, stream);
  if (q.width <= 4096) return launch_rows<256, 2, false>(q, stream);
  return launch_rows<256, 8, false>(q, stream);  // 15360: attention and MLP of a single block
}

}  // namespace flux::kernels
