// The functions behind find_kernel, by file. ops.h says what each op means.
#pragma once

#include "cpu/ops.h"
#include "cpu/simd/kernels.h"

namespace flux::cpu {

// linear.cc
void linear(const OpCall& call, ThreadPool& pool);
void quantize_rows(const OpCall& call, ThreadPool& pool);
void weight_bounds(const OpCall& call, ThreadPool& pool);
void branch_bounds(const OpCall& call, ThreadPool& pool);
// qkv.cc
void qkv_linear(const OpCall& call, ThreadPool& pool);
// attention.cc
void attention(const OpCall& call, ThreadPool& pool);
// packed_heads.cc
void pack_heads(const OpCall& call, ThreadPool& pool);
void attention_packed(const OpCall& call, ThreadPool& pool);
// norm.cc
void layer_norm(const OpCall& call, ThreadPool& pool);
void rms_norm(const OpCall& call, ThreadPool& pool);
// group_norm.cc
void group_norm(const OpCall& call, ThreadPool& pool);
void group_norm_sums(const OpCall& call, ThreadPool& pool);
void group_norm_affine(const OpCall& call, ThreadPool& pool);
void group_norm_apply(const OpCall& call, ThreadPool& pool);
// What groupNormSums and groupNormApply do, for conv2d.
void pair_sums(const TensorView& x, const TensorView& sums, ThreadPool& pool);
void apply_affine(const OpCall& call, const TensorView& x, const TensorView& affine, Activation act,
                  const TensorView& y, ThreadPool& pool);
// conv.cc
void conv2d(const OpCall& call, ThreadPool& pool);
// embedding.cc
void embedding(const OpCall& call, ThreadPool& pool);
void timestep_embedding(const OpCall& call, ThreadPool& pool);
void rope_table(const OpCall& call, ThreadPool& pool);
void t5_bias(const OpCall& call, ThreadPool& pool);
// elementwise.cc
void add(const OpCall& call, ThreadPool& pool);
void subtract(const OpCall& call, ThreadPool& pool);
void add_scaled(const OpCall& call, ThreadPool& pool);
void multiply(const OpCall& call, ThreadPool& pool);
void activation(const OpCall& call, ThreadPool& pool);
void guide(const OpCall& call, ThreadPool& pool);
// copy.cc
void copy(const OpCall& call, ThreadPool& pool);
void take_row(const OpCall& call, ThreadPool& pool);
void gather_rows(const OpCall& call, ThreadPool& pool);
// sampler.cc
void increment(const OpCall& call, ThreadPool& pool);
void euler_step(const OpCall& call, ThreadPool& pool);
void scale_noise(const OpCall& call, ThreadPool& pool);
void greater(const OpCall& call, ThreadPool& pool);
// cache.cc
void relative_difference(const OpCall& call, ThreadPool& pool);
void cache_decision(const OpCall& call, ThreadPool& pool);
// latents.cc
void pack_latents(const OpCall& call, ThreadPool& pool);
void unpack_latents(const OpCall& call, ThreadPool& pool);
void sample_latents(const OpCall& call, ThreadPool& pool);
void to_image(const OpCall& call, ThreadPool& pool);
void from_image(const OpCall& call, ThreadPool& pool);
void blend_tile(const OpCall& call, ThreadPool& pool);

}  // namespace flux::cpu
