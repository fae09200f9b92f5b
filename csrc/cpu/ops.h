// The ops of the CPU backend: the definition of what each op means, in f32, and the oracle for every kernel.
//
// Conventions. Activations are f32 unless said otherwise. `name?` is an optional operand. Operands may be
// strided views whose innermost axis is contiguous. "rows" are all axes but the last. B batch, T tokens,
// D width, H heads. Every op checks the shapes and dtypes that it relies on and throws
// FluxError(ERR_FLUX_BAD_ARGUMENT) naming op and shape. A result never depends on the number of threads:
// every output element is summed in one fixed order. Nor does a row of linear depend on the rows beside it.
// `activation` attributes: 0 none, 1 GELU tanh form, 2 SiLU, 3 quick GELU x·σ(1.702x).
// An output may alias an input where marked [in place] (same data pointer and strides).
//
//   linear        x [.., K], weight [N, K] (f32 | bf16 | f8e4m3), weightScale? [N] f32 (always with f8e4m3),
//                 bias? [N] f32, low? [.., P·r], lowUp? [N, r] (f32 | bf16), residual? [.., N],
//                 gate? [B, N] (B = x.shape[0])  →  y [.., N];  attrs activation, part1 … part{P−1}
//                 y = residual + gate · act(x·Wᵀ · weightScale + low·lowUpᵀ + bias)   [y may alias residual]
//                 With f8e4m3 weights each row of x is quantised first: scale = max|x| / 448 (1 for a zero
//                 row), code = e4m3(x / scale); y uses Σ code·code in f32, times scale × weightScale[n].
//                 low (with lowUp, or neither) is a low-rank branch, summed in f32. Columns [part_p,
//                 part_{p+1}) of y, from part_0 = 0 to part_P = N, are its part p: they read columns
//                 [p·r, (p + 1)·r) of low, so that projections stacked in one weight have a branch each.
//   qkvLinear     as linear for x [B, T, K], weight [3·H·128 (+ F), K], then qkv [B, T, 3, H, 128] and
//                 mlp? [B, T, F]: rows q, k, v (, mlp) of the weight; q and k: RMSNorm over 128 with
//                 normQ, normK [128] f32 (attr eps), then RoPE with rope [T, 64, 2] f32 (cos, sin) on
//                 adjacent pairs; mlp gets `activation`.
//   attention     q [B, T, H, D], k, v [B, S, H, D], bias? [H, T, S]  →  y [B, T, H, D];
//                 attrs scale, causal (0 | 1)
//                 softmax(scale·q·kᵀ + bias)·v; never holds a T×S matrix.
//   packHeads     qkv [B, T, 3, H, 128]  →  q, k [B, H, T, 128] i8 | f8e4m3, v [B, H, ⌈T/16⌉, 128, 16] f8e4m3,
//                 queryRows [B, H, 64⌈T/64⌉, 2], keyBlocks [B, H, 4⌈T/64⌉, 4] f32: q and k quantised to the type
//                 of q, v to e4m3; every byte as kernels/attention/qkv_layout.cuh says. keyOffset? [B, H, 128] f32 is
//                 subtracted from k first. The GPU's qkvLinear can take keyOffset and have these outputs instead of qkv, for
//                 the tokens from attr firstToken on.
//   attentionPacked  what packHeads gives, of q and queryRows perhaps only the tokens Q in a row  →  y [B, Q, H, 128],
//                 keyOffset? [B, H, 128] f32;  attr scale
//                 softmax(scale·q·kᵀ)·v of the quantised q, k, v. The GPU rounds the softmax's numerators to
//                 e4m3, this backend does not. To keyOffset the mean of a sample of the quantised k is added
//                 (kernels/attention/key_offset.cuh), so that the next k lose it; y does not depend on what all k lost.
//   layerNorm     x [.., D], weight?, bias? [D] f32, shift?, scale? [B, D] f32 (B = x.shape[0])
//                 → y [.., D];  attr eps
//                 y = x̂·weight + bias, or x̂·(1 + scale) + shift   [in place]
//   rmsNorm       x [.., D], weight [D] f32 → y;  attr eps         [in place]
//   groupNorm     x [B, H, W, C], weight, bias [C] f32 → y;  attrs groups, eps, activation   [in place]
//   groupNormSums x [B, H, W, C] → sums [B, parts, C / 2, 2] f32: of pairs of channels over a part of the pixels, Σ x and Σ x²
//   groupNormAffine  sums [B, parts, C / 2, 2], weight, bias [C] f32 → y [B, C, 2] f32, a multiplier and an addend for each
//                 channel; attrs groups, eps, pixels (of each image, in all parts together)
//   groupNormApply   x [B, H, W, C], affine [B, C, 2] f32 → y = act(x · multiplier + addend);  attr activation  [in place]
//   conv2d        x [B, H, W, Ci], weight [Co, kh, kw, Ci] (f32 | bf16), bias? [Co] f32, residual? like y
//                 → y [B, Ho, Wo, Co];  attrs stride, padTop, padLeft, padBottom, padRight, upsample (1 | 2)
//                 upsample 2: nearest-neighbour 2× of x first, never materialised. [y may alias residual]
//                 affine? [B, Ci, 2] f32: x is read as SiLU(x · multiplier + addend); and an output sums?, groupNormSums of
//                 y. On a GPU also attr phases (1): upsample 2 and a 3 × 3 kernel as four 2 × 2 ones, weight
//                 [Co, 4 phases, 4 taps, Ci] as WeightLayout::kUpsamplePhases has it.
//   embedding     ids [B, T] i32, table [V, D] (f32 | bf16), positions? [P, D] (f32 | bf16; row t is added)
//                 → y [B, T, D]; an id outside the table throws.
//   timestepEmbedding  t [N] f32 → y [N, D];  attrs scale (1000), maxPeriod (10000)
//                 y = [cos(scale·t·f_i) …, sin(scale·t·f_i) …], f_i = exp(−ln(maxPeriod)·i / (D/2)),
//                 angle in f32 as PyTorch does
//   ropeTable     ids [T, A] f32 → y [T, Σdims/2, 2] f32 (cos, sin);  attrs theta, dim0 … dim{A−1};
//                 computed in f64
//   ropePairs     table [T, 64, 2] f32 → y [⌈T/16⌉, 8, 32, 8] f16, rearranged as kernels/attention/rope_pairs.cuh says, for the
//                 GPU's qkvLinear, whose operand ropePairs it is. Not on this backend.
//   t5Bias        table [buckets, H] (f32 | bf16) → y [H, T, T] f32;  attr maxDistance
//                 (bidirectional T5 buckets)
//   add           a, b → y   same shape; outer axes may have stride 0 (broadcast)  [in place]
//   subtract      a, b → y = a − b   [in place]
//   addScaled     x, a like x, factor [1] f32 → y = x + factor·a   [in place];  with factor 0 a is not looked at
//   multiply      a, b → y = act(a)·b;  attr activation   [in place]
//   activation    x → y = act(x);  attr activation         [in place]
//   copy          x → y   any strides, same shape; converts between f32 and bf16
//   takeRow       table [S, ...], index [1] i32 → y [...] = table[index];  throws when out of range
//   gatherRows    x [B, T, D], index [B] i32 → y [B, D] = x[b, index[b]];  throws when out of range
//   increment     counter [1] i32: counter += 1
//   eulerStep     latents [.., C] f32, velocity like latents, sigmas [S + 1] f32, step [1] i32
//                 → y = latents + (σ[i+1] − σ[i])·velocity [in place]
//   guide         uncond, cond → y = uncond + scale·(cond − uncond);  attr scale   [in place]   (true CFG)
//   scaleNoise    x, noise, sigmas, step [1] → y = σ[i]·noise + (1 − σ[i])·x   [in place]
//   packLatents   x [B, h, w, C] → y [B, (h/2)·(w/2), 4C]: channel-major patches, c·4 + dy·2 + dx;
//                 attrs scale, shift: y = (x − shift)·scale; attr channelsFirst (0 | 1): x is [B, C, h, w]
//   unpackLatents x [B, (h/2)·(w/2), 4C] → y [B, h, w, C];  attrs scale, shift: y = x/scale + shift
//   sampleLatents moments [B, h, w, 2C] (mean, log-variance), noise? [B, h, w, C]
//                 → y = mean + exp(½·clamp(lv, −30, 20))·noise
//   toImage       x f32 → y: u = clamp(x/2 + ½, 0, 1); as u8: round half to even of 255·u (NaN becomes 0);
//                 as f32: u (NaN stays)
//   blendTile     x [B, h, w, C], y a part of an image, read and written: y += s·(x − y), s = s_row·s_column with
//                 s_row(r) = clamp((r − top + ½) / topRamp, 0, 1), 0 or 1 for an empty ramp; where s = 1 y is not read;
//                 attrs top, topRamp, left, leftRamp
//   fromImage     x u8 → y f32 = x/255·2 − 1
//   greater       a, b [1] f32 → y [1] i32 = a > b
//   relativeDifference  x, base, previous of one shape → y [1] f32 = Σ|x − base − previous| / Σ|previous|, summed in f64
//   cacheDecision difference, threshold [1] f32, limits [2] i32 (w, m), state [4] i32 (steps so far, skips in a row,
//                 the last computed step, its distance to the computed step before it)
//                 → compute, skip [1] i32, factor [1] f32, differences [S] f32, decisions [S] i32, the next state
//                 Step i = steps so far is skipped when 0 < i, w ≤ i, skips in a row < m and difference < threshold (which
//                 no NaN is). skip = 1 − compute; decisions[i] = compute; differences[i] = difference, 0 at step 0.
//                 factor = (i − last computed) / distance when the step is skipped and two were computed, else 0:
//                 first-order extrapolation in steps (Liu et al. 2025, TaylorSeer, order 1). Throws when i ≥ S.
//   quantizeRows  x [.., K] f32 → codes [.., K] f8e4m3, scale [rows] f32, as in linear
//   weightBounds  weight [N, K] f8e4m3, weightScale [N] f32, bias? [N] f32 → y [2] f32:
//                 448·√K·max‖weight_n·weightScale_n‖ and max|bias|: |linear| ≤ y[0]·(row scale of x) + y[1]
//   branchBounds  down [P·r, K] (codes as well), up [N, r] f32 | bf16, scale [P·r], weightScale [N], base [2] f32 → y [2] f32;  attrs part1 …
//                 base[0] + 448·√K·max over n of weightScale_n·Σ_j |scale_j|·‖down_j‖·|up_nj|, with the j of n's part, and
//                 base[1]: the bounds with a low-rank branch, as the GPU has it
// Beside these, two kinds with a body that the runtime itself runs (runtime/program.h): "if", and "together", whose ops may run
// at the same time since none touches what another writes; the CPU runs them one after another.
#pragma once

#include <string_view>

#include "runtime/op.h"
#include "runtime/thread_pool.h"

namespace flux::cpu {

using Kernel = void (*)(const OpCall& call, ThreadPool& pool);

// nullptr when the backend has no such op.
Kernel find_kernel(std::string_view kind);

// "avx512", "avx2" or "baseline": what the dispatcher chose on this processor (FLUX_SIMD in the environment
// may lower it).
std::string_view simd_name();

}  // namespace flux::cpu
