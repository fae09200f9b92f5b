// The launchers behind the registry, a family a file.
#pragma once

#include "cuda/ops.h"

namespace flux::cuda {

// linear.cc
void linear(const OpCall& call, const Launch& launch);
bool linear_together(const std::vector<const OpCall*>& calls, const Launch& launch);
void qkv_linear(const OpCall& call, const Launch& launch);
bool qkv_linear_together(const std::vector<const OpCall*>& calls, const Launch& launch);
void quantize_rows(const OpCall& call, const Launch& launch);
void weight_bounds(const OpCall& call, const Launch& launch);
void branch_bounds(const OpCall& call, const Launch& launch);
uint64_t branch_bounds_workspace(const OpCall& call);
// norm.cc
void layer_norm(const OpCall& call, const Launch& launch);
bool layer_norm_together(const std::vector<const OpCall*>& calls, const Launch& launch);
void rms_norm(const OpCall& call, const Launch& launch);
void group_norm(const OpCall& call, const Launch& launch);
uint64_t group_norm_workspace(const OpCall& call);
void group_norm_sums(const OpCall& call, const Launch& launch);
void group_norm_affine(const OpCall& call, const Launch& launch);
void group_norm_apply(const OpCall& call, const Launch& launch);
// conv.cc
void conv2d(const OpCall& call, const Launch& launch);
uint64_t conv2d_workspace(const OpCall& call);
// attention.cc
void attention(const OpCall& call, const Launch& launch);
void pack_heads(const OpCall& call, const Launch& launch);
void attention_packed(const OpCall& call, const Launch& launch);
// elementwise.cc
void copy(const OpCall& call, const Launch& launch);
void add(const OpCall& call, const Launch& launch);
void subtract(const OpCall& call, const Launch& launch);
void add_scaled(const OpCall& call, const Launch& launch);
void multiply(const OpCall& call, const Launch& launch);
void activation(const OpCall& call, const Launch& launch);
void guide(const OpCall& call, const Launch& launch);
void euler_step(const OpCall& call, const Launch& launch);
void scale_noise(const OpCall& call, const Launch& launch);
void to_image(const OpCall& call, const Launch& launch);
void from_image(const OpCall& call, const Launch& launch);
void take_row(const OpCall& call, const Launch& launch);
void gather_rows(const OpCall& call, const Launch& launch);
void increment(const OpCall& call, const Launch& launch);
void greater(const OpCall& call, const Launch& launch);
// cache.cc
void relative_difference(const OpCall& call, const Launch& launch);
uint64_t relative_difference_workspace(const OpCall& call);
void cache_decision(const OpCall& call, const Launch& launch);
// tables.cc
void embedding(const OpCall& call, const Launch& launch);
void timestep_embedding(const OpCall& call, const Launch& launch);
void rope_table(const OpCall& call, const Launch& launch);
void rope_pairs(const OpCall& call, const Launch& launch);
void t5_bias(const OpCall& call, const Launch& launch);
void pack_latents(const OpCall& call, const Launch& launch);
void unpack_latents(const OpCall& call, const Launch& launch);
void sample_latents(const OpCall& call, const Launch& launch);
void blend_tile(const OpCall& call, const Launch& launch);

}  // namespace flux::cuda
