// bf16 attention by mma.sync, for sm_80 and newer: every head_dim, bias, mask and log-sum-exp that attention_bf16 takes.
//
// A block takes 64 queries of one head and a slice of at most 128 value channels; each of its four warps holds 16 queries. Per tile of
// 64 keys: S = Q·Kᵀ, with K through shared memory in chunks of 64 channels (so head_dim does not matter to the footprint);
// softmax in registers, whose accumulator, packed to bf16, is already the A fragment of P·V; O += P·V. K chunks and V arrive by
// cp.async one step ahead. head_dim 512 is four slices that each repeat Q·Kᵀ: correct everywhere, fast only up to 128.
//
// Shared memory: Q [64][head_dim], K 2 × [64][64], V [64][slice] in rows of 128-byte panels with 16-byte chunks swizzled by row % 8.
#include <cuda_bf16.h>

#include "attention/attention.h"
#include "attention/check.h"
#include "attention/narrow.h"
#include "attention/softmax.cuh"
#include "launch.cuh"
#include "ptx/matrix.cuh"
#include "ptx/shared.cuh"

namespace flux::kernels {

namespace {

using attention::exp2_approx;
using attention::Rows;

constexpr int kQueries = 64, kKeys = 64, kChunk = 64;

struct PortableParameters {
  AttentionBf16 call;
  float scale_log2;
};

__device__ __forceinline__ void cp_async_16(uint32_t destination, const void* source, bool present) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(destination), "l"(source),
               "r"(present ? 16 : 0)
               : "memory");
}

__device__ __forceinline__ void cp_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }

template <int kPending>
__device__ __forceinline__ void cp_async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

__device__ __forceinline__ void ldmatrix_x4_trans(uint32_t (&r)[4], uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(address)
               : "memory");
}

__device__ __forceinline__ void mma_bf16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// Byte of 16-byte chunk `chunk` of row `row` in a panel of 128-byte rows.
__device__ __forceinline__ uint32_t swizzled(int row, int chunk) {
  return row * 128 + ((chunk ^ row % 8) << 4);
}

// 64 rows × 64 channels of a [tokens][..] tensor to a panel; rows beyond `tokens` become zero.
__device__ __forceinline__ void load_panel(uint32_t panel, const __nv_bfloat16* source, int64_t token_stride,
                                           int first_token, int tokens) {
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int index = i * 128 + threadIdx.x, row = index / 8, chunk = index % 8, token = first_token + row;
    cp_async_16(panel + swizzled(row, chunk),
                source + int64_t(min(token, tokens - 1)) * token_stride + chunk * 8, token < tokens);
  }
}

__device__ __forceinline__ const __nv_bfloat16* slice_base(const AttentionTensor& t, int batch, int head) {
  return static_cast<const __nv_bfloat16*>(t.data) + batch * t.batch_stride + head * t.head_stride;
}

// S += Q·Kᵀ over one chunk of 64 channels.
__device__ __forceinline__ void multiply_chunk(float (&s)[kKeys / 8][4], uint32_t query, uint32_t key,
                                               int lane, int warp) {
#pragma unroll
  for (int k = 0; k < 4; ++k) {
    uint32_t a[4];
    ptx::ldmatrix_x4(a, query + swizzled(16 * warp + lane % 16, 2 * k + lane / 16));
#pragma unroll
    for (int j = 0; j < kKeys / 8; j += 2) {
      uint32_t b[4];  // keys 8j .. 8j + 7: channels low, high; then keys 8j + 8 ..
      ptx::ldmatrix_x4(b, key + swizzled(8 * j + lane % 8 + lane / 16 * 8, 2 * k + lane / 8 % 2));
      mma_bf16(s[j], a, b[0], b[1]);
      mma_bf16(s[j + 1], a, b[2], b[3]);
    }
  }
}

// Scores to log2 units with bias and masks; first maxima, then probabilities in place. Multiplies O when the reference moves.
template <int kAccumulators>
__device__ __forceinline__ void portable_softmax(float (&s)[kKeys / 8][4], float (&o)[kAccumulators][4],
                                                 Rows& rows, const PortableParameters& p, int head,
                                                 int first_row, int first_key) {
  const AttentionBf16& call = p.call;
  const int lane = threadIdx.x % 32;
  float maximum[2] = {-INFINITY, -INFINITY};
#pragma unroll
  for (int j = 0; j < kKeys / 8; ++j) {
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      const int row = first_row + 8 * (e / 2), key = first_key + 8 * j + 2 * (lane % 4) + e % 2;
      float v = s[j][e] * p.scale_log2;
      const bool present = key < call.keys && row < call.queries && (!call.causal || key <= row);
      if (call.bias.data != nullptr && present) {
        v += __ldg(call.bias.data + head * call.bias.head_stride + row * call.bias.row_stride + key) *
             1.4426950408889634f;
      }
      s[j][e] = v = present ? v : -INFINITY;
      maximum[e / 2] = fmaxf(maximum[e / 2], v);
    }
  }
  maximum[0] = attention::quad_max(maximum[0]);
  maximum[1] = attention::quad_max(maximum[1]);
  float factor[2];
  if (rows.raise<__nv_bfloat16>(maximum, factor)) {
#pragma unroll
    for (int i = 0; i < kAccumulators; ++i) {
#pragma unroll
      for (int e = 0; e < 4; ++e) o[i][e] *= factor[e / 2];
    }
  }
  const float offset[2] = {rows.offset(0, 0.0f), rows.offset(1, 0.0f)};
#pragma unroll
  for (int j = 0; j < kKeys / 8; ++j) {
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      s[j][e] = exp2_approx(s[j][e] + offset[e / 2]);
      rows.sum[e / 2] += s[j][e];
    }
  }
}

// O += P·V; V [64 keys][slice] in panels of 64 channels.
template <int kAccumulators>
__device__ __forceinline__ void multiply_values(float (&o)[kAccumulators][4], const float (&s)[kKeys / 8][4],
                                                uint32_t value, int lane) {
#pragma unroll
  for (int k = 0; k < kKeys / 16; ++k) {
    uint32_t a[4];
    attention::pack_fragment<__nv_bfloat16>(a, &s[2 * k][0]);
#pragma unroll
    for (int i = 0; i < kAccumulators; i += 2) {
      uint32_t b[4];
      const uint32_t panel = value + i / 8 * (kKeys * 128);
      ldmatrix_x4_trans(b, panel + swizzled(16 * k + lane % 16, i % 8 + lane / 16));
      mma_bf16(o[i], a, b[0], b[1]);
      mma_bf16(o[i + 1], a, b[2], b[3]);
    }
  }
}

// Grid: (query tiles, batch · heads, head_dim / kSlice); block: 128.
template <int kSlice>
__global__ void __launch_bounds__(128, 2) portable_kernel(const __grid_constant__ PortableParameters p) {
  extern __shared__ __align__(128) uint8_t raw[];
  wait_for_predecessors();
  let_successor_start();
  const AttentionBf16& call = p.call;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int head = blockIdx.y % call.heads, batch = blockIdx.y / call.heads;
  const int first_query = blockIdx.x * kQueries, chunks = call.head_dim / kChunk;
  const __nv_bfloat16* key = slice_base(call.key, batch, head);
  const __nv_bfloat16* value = slice_base(call.value, batch, head) + blockIdx.z * kSlice;
  const uint32_t query_at = ptx::shared_address(raw), key_at = query_at + chunks * 8192,
                 value_at = key_at + 2 * 8192;

  const int last_key = call.causal ? min(call.keys, first_query + kQueries) : call.keys;
  const int tiles = (last_key + kKeys - 1) / kKeys, steps = tiles * chunks;
  for (int c = 0; c < chunks; ++c) {
    load_panel(query_at + c * 8192, slice_base(call.query, batch, head) + c * kChunk, call.query.token_stride,
               first_query, call.queries);
  }
  // Step i is chunk i % chunks of key tile i / chunks; a tile's V travels with its first chunk.
  const auto load_step = [&](int i) {
    if (i < steps) {
      const int first_key = i / chunks * kKeys;
      load_panel(key_at + i % 2 * 8192, key + i % chunks * kChunk, call.key.token_stride, first_key,
                 call.keys);
    }
    cp_async_commit();
  };
  const auto load_value = [&](int tile) {
#pragma unroll
    for (int panel = 0; panel < kSlice / 64; ++panel) {
      load_panel(value_at + panel * 8192, value + panel * 64, call.value.token_stride, tile * kKeys,
                 call.keys);
    }
    cp_async_commit();
  };

  float o[kSlice / 8][4] = {};
  Rows rows;
  const int first_row = first_query + 16 * warp + lane / 4;
  load_step(0);
  for (int tile = 0, step = 0; tile < tiles; ++tile) {
    load_value(tile);  // the previous tile's V has been read: the barrier that ended it
    float s[kKeys / 8][4] = {};
    for (int c = 0; c < chunks; ++c, ++step) {
      load_step(step + 1);
      if (c == 0) {
        cp_async_wait<2>();  // all but this tile's V and the next chunk
      } else {
        cp_async_wait<1>();
      }
      __syncthreads();
      multiply_chunk(s, query_at + c * 8192, key_at + step % 2 * 8192, lane, warp);
      __syncthreads();
    }
    portable_softmax(s, o, rows, p, head, first_row, tile * kKeys);
    cp_async_wait<1>();
    __syncthreads();
    multiply_values(o, s, value_at, lane);
    __syncthreads();
  }

#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const int row = first_row + 8 * h;
    const float sum = attention::quad_sum(rows.sum[h]);
    if (row >= call.queries) continue;
    const float inverse = sum > 0.0f ? 1.0f / sum : 0.0f;
    __nv_bfloat16* out = const_cast<__nv_bfloat16*>(slice_base(call.output, batch, head)) +
                         row * call.output.token_stride + blockIdx.z * kSlice + 2 * (lane % 4);
#pragma unroll
    for (int i = 0; i < kSlice / 8; ++i) {
      *reinterpret_cast<__nv_bfloat162*>(out + 8 * i) =
          __floats2bfloat162_rn(o[i][2 * h] * inverse, o[i][2 * h + 1] * inverse);
    }
    if (call.log_sum_exp != nullptr && lane % 4 == 0 && blockIdx.z == 0) {
      call.log_sum_exp[int64_t(blockIdx.y) * call.queries + row] =
          sum > 0.0f ? (rows.reference[h] + attention::log2_approx(sum)) * 0.6931471805599453f : -INFINITY;
    }
  }
}

}  // namespace

Status attention_bf16_portable(const AttentionBf16& call, cudaStream_t stream) {
  if (Status status = attention::check(call); !status.ok()) return status;
  if (attention::is_narrow(call.head_dim)) return attention::run_narrow(call, stream);
  const PortableParameters p{call, call.scale * 1.4426950408889634f};
  const int slice = call.head_dim == 64 ? 64 : 128;
  const dim3 grid((call.queries + kQueries - 1) / kQueries, call.batch * call.heads, call.head_dim / slice);
  const size_t shared = size_t(call.head_dim) * 128 + 2 * 8192 + size_t(slice) * 128;
  return launch("attention_portable", slice == 64 ? portable_kernel<64> : portable_kernel<128>, grid,
                dim3(128), shared, stream, p);
}

}  // namespace flux::kernels
