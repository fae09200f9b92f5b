// C = A·Wᵀ with an epilogue, for several groups of operands in one launch. Needs sm_90a (Hopper).
//
// A [rows, K] and W [N, K] are row-major with K contiguous; accumulation is in f32. Operand e4m3: A carries one scale a
// row and W one scale a row (an output channel), and the accumulation is the tensor core's own "fast" one over all of K.
// A group is one set of operands: a double block's image and text parts are two groups of one launch. Rows come in
// batches, since the parts of a joint buffer [B, T, D] are not one matrix: row r of batch b starts at
// b·batch_stride + r·row_stride elements.
//
// With x = (A·Wᵀ)·a_scale[row]·w_scale[n] + bias[n]:
//   kLinear        C = activation(x)
//   kGateResidual  C = residual + gate[batch, n]·x; C may be the residual itself (bf16), and with e4m3 operands gate·x is
//                  rounded to bf16 then before it is added
//   kQkv           W's rows are q, k, v (heads·128 each), then perhaps more. q and k: RMSNorm over each head's 128 columns
//                  times norm_q or norm_k, then RoPE on adjacent pairs with the table's row. q, k, v go to C side by side as
//                  bf16, or, less key_offset, quantised into 8-bit attention's own layout (attention/qkv_layout.cuh). The remaining
//                  columns (a single block's MLP) get `activation` and go to `mlp`.
//
// Output e4m3 (kLinear's C, kQkv's mlp) needs a row's scale before any tile has seen the row's maximum. It takes a bound
// instead: c_scale[row] = (a_scale[row]·bounds[0] + bounds[1]) / 448. bounds[0] is to bound |Σ code·w| over all columns
// and bounds[1] |bias|; 448·√K·max‖w_n‖ is such a bound by Cauchy-Schwarz (quantise/quantise.h, weight_bounds). e4m3
// being a floating-point format, a scale too large by 2^5 costs only the values under 2^-9 of the row's largest. Beyond
// a smaller bound values saturate.
//
// A low-rank branch: with low_rank > 0, A·Wᵀ above stands for A·Wᵀ + low·upᵀ, both bf16, summed into the same accumulators before
// scale, bias and epilogue. With e4m3 operands low and up are in their codes' units: low = codes·downᵀ, up divided by
// w_scale. The projections that are stacked in W have a branch each: rows of W from low_begin[p] on take the columns
// [p·low_rank, (p + 1)·low_rank) of low.
//
// Alignment: N and K multiples of 16; pointers to matrices, to norm_q, norm_k and key_offset, row strides and batch strides multiples of 16
// bytes.
#pragma once

#include "attention/attention.h"
#include "status.h"

namespace flux::kernels {

inline constexpr int kGemmMaxGroups = 4;
inline constexpr int kGemmMaxParts = 4;
inline constexpr int kGemmMaxLowRank = 4096;

enum class GemmEpilogue : uint8_t { kLinear, kGateResidual, kQkv };

// A matrix of a group; strides in elements. batch_stride has no meaning with one batch.
template <typename T>
struct GemmRows {
  T* data = nullptr;
  int64_t row_stride = 0;
  int64_t batch_stride = 0;
};

// How kQkv writes q, k and v: bf16 rows, or 8-bit attention's layout with q and k as int8 or e4m3 codes.
enum class QkvHeads : uint8_t { kRows, kInt8, kE4M3 };

struct GemmGroup {
  int64_t batches = 1;
  int64_t rows = 0;  // of one batch

  GemmRows<const void> a;          // [batches, rows, K] of `operand`
  const float* a_scale = nullptr;  // [batches, rows]; e4m3 only; gemm_hopper takes none for ones
  int64_t a_scale_batch_stride = 0;
  const void* w = nullptr;  // [N, K] of `operand`
  int64_t w_row_stride = 0;
  const float* w_scale = nullptr;  // [N]; e4m3 only
  const float* bias = nullptr;     // [N], or none
  GemmRows<void> c;                // [batches, rows, N] of `output`; kQkv: bf16 [batches, rows, 3·heads·128]

  GemmRows<const void> residual;  // kGateResidual: bf16 [batches, rows, N]
  const float* gate = nullptr;    // kGateResidual: [batches, N], or none, which stands for ones
  int64_t gate_batch_stride = 0;  // 0: one gate for all batches

  const float* norm_q = nullptr;  // kQkv: [128]
  const float* norm_k = nullptr;  // kQkv: [128]
  // kQkv: cos and sin, the same for every batch: [rows, 64, 2] f32 for gemm_portable, and in the order of
  // attention/rope_pairs.cuh, [⌈rows/16⌉, 8, 32, 8] f16, for gemm_hopper.
  const float* rope = nullptr;
  const void* rope_pairs = nullptr;
  GemmRows<void> mlp;  // kQkv with N > 3·heads·128: [batches, rows, N − 3·heads·128] of `output`

  // kQkv with heads_as other than kRows, instead of c: 8-bit attention's operands for a sequence of packed_tokens, of which
  // this group's rows are the tokens from first_token on. Both ends are multiples of 64, the sequence's own end apart.
  PackedQkv packed;
  int64_t packed_tokens = 0;
  int64_t first_token = 0;
  // [batches, heads, 128], or none: what k loses before it is quantised.
  const float* key_offset = nullptr;

  GemmRows<const void> low;  // low_rank > 0: bf16 [batches, rows, low_parts·low_rank]
  const void* up = nullptr;  // low_rank > 0: bf16 [N, low_rank]

  float* c_scale = nullptr;  // output e4m3: [batches, rows], written; the output is code·c_scale
  int64_t c_scale_batch_stride = 0;
  const float* bounds = nullptr;  // output e4m3: [2]
};

struct Gemm {
  Element operand = Element::kE4M3;  // kE4M3 or kBF16, of both A and W
  // Of C (kLinear, kGateResidual) or mlp (kQkv): kBF16; kF32 with kLinear; kE4M3 with kLinear or packed kQkv and operand e4m3
  Element output = Element::kBF16;
  GemmEpilogue epilogue = GemmEpilogue::kLinear;
  Activation activation = Activation::kNone;  // kLinear: of x; kQkv: of the columns beyond q, k, v
  int64_t n = 0, k = 0;
  int64_t heads = 0;  // kQkv
  QkvHeads heads_as = QkvHeads::kRows;
  float eps = 1e-6f;  // kQkv: of the RMSNorm
  // A multiple of 16, or 0. Parts begin at multiples of 192, kQkv's with q, k, v and what lies beyond.
  int64_t low_rank = 0;
  int low_parts = 1;
  int64_t low_begin[kGemmMaxParts] = {};
  // The kernel before this one in the stream writes low and nothing else that this one reads, and lets its successor start only after
  // its own wait, as down_project does. All but low is then complete when the first CTA starts, and on Hopper is multiplied at once.
  bool low_is_next = false;
  const GemmGroup* groups = nullptr;
  int group_count = 0;
};

// kBadArgument names what is wrong with the shape or a pointer; kUnsupported: not a Hopper GPU, or a combination of
// operand, output and epilogue that has no kernel.
Status gemm_hopper(const Gemm& call, cudaStream_t stream);

// What `gemm_hopper` would choose, as text: "128x192, sharing W, last wave in halves".
std::string gemm_hopper_tile(const Gemm& call);

}  // namespace flux::kernels
