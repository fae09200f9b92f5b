// Rows of an adapter's matrix to where a slot keeps them, read across the bus by the kernel itself: a copy engine takes rows of a few
// bytes one by one. Eight numbers a thread where rows and places allow it, so that a warp asks for 512 bytes at once.
#include "launch.cuh"
#include "lora/lora.h"
#include "vector.cuh"

namespace flux::kernels {
namespace {

constexpr int kThreads = 256;

template <int kVector>
__global__ void __launch_bounds__(kThreads) store_rows_kernel(const __grid_constant__ StoreRows call) {
  wait_for_predecessors();
  const int64_t vectors = call.columns / kVector;
  const int64_t index = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (index >= call.rows * vectors) return;
  const int64_t row = index / vectors, column = index % vectors * kVector;
  auto* to = static_cast<uint16_t*>(call.target) + row * call.stride + column;
  const auto* from = static_cast<const uint16_t*>(call.source) + index * kVector;
  if constexpr (kVector == 8) {
    if (call.divisor == nullptr) {
      *reinterpret_cast<uint4*>(to) = *reinterpret_cast<const uint4*>(from);
      return;
    }
    float values[8];
    load8(reinterpret_cast<const bf16*>(from), values);
    const float divisor = call.divisor[row];
#pragma unroll
    for (float& value : values) value /= divisor;
    store8(reinterpret_cast<bf16*>(to), values);
  } else {
    *to =
        call.divisor == nullptr
            ? *from
            : uint16_t(ptx::cvt_rn_bf16x2(__uint_as_float(uint32_t(*from) << 16) / call.divisor[row], 0.0f));
  }
}

}  // namespace

Status store_rows(const StoreRows& call, cudaStream_t stream) {
  if (call.rows < 1 || call.columns < 1 || call.stride < call.columns)
    return Status::bad_argument("store_rows: the rows would overlap, or there are none");
  const bool wide = call.columns % 8 == 0 && aligned16(call.source, call.columns, 2) &&
                    aligned16(call.target, call.stride, 2);
  const int64_t threads = call.rows * (wide ? call.columns / 8 : call.columns);
  const int64_t blocks = (threads + kThreads - 1) / kThreads;
  if (blocks > INT32_MAX) return Status::bad_argument("store_rows: more than 2^39 numbers");
  return launch("store_rows", wide ? store_rows_kernel<8> : store_rows_kernel<1>, dim3(unsigned(blocks)),
                dim3(kThreads), 0, stream, call);
}

}  // namespace flux::kernels
