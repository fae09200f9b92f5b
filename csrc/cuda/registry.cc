#include <string>
#include <unordered_map>

#include "cuda/launchers.h"

namespace flux::cuda {

const Kernel* find_kernel(std::string_view kind) {
  static const std::unordered_map<std::string_view, Kernel> kernels = {
      {"linear", {linear, nullptr, linear_together}},
      {"qkvLinear", {qkv_linear, nullptr, qkv_linear_together}},
      {"quantizeRows", {quantize_rows}},
      {"weightBounds", {weight_bounds}},
      {"branchBounds", {branch_bounds, branch_bounds_workspace}},
      {"layerNorm", {layer_norm, nullptr, layer_norm_together}},
      {"rmsNorm", {rms_norm}},
      {"groupNorm", {group_norm, group_norm_workspace}},
      {"groupNormSums", {group_norm_sums}},
      {"groupNormAffine", {group_norm_affine}},
      {"groupNormApply", {group_norm_apply}},
      {"conv2d", {conv2d, conv2d_workspace}},
      {"attention", {attention}},
      {"packHeads", {pack_heads}},
      {"attentionPacked", {attention_packed}},
      {"embedding", {embedding}},
      {"timestepEmbedding", {timestep_embedding}},
      {"ropeTable", {rope_table}},
      {"ropePairs", {rope_pairs}},
      {"t5Bias", {t5_bias}},
      {"copy", {copy}},
      {"add", {add}},
      {"subtract", {subtract}},
      {"addScaled", {add_scaled}},
      {"multiply", {multiply}},
      {"activation", {activation}},
      {"guide", {guide}},
      {"eulerStep", {euler_step}},
      {"scaleNoise", {scale_noise}},
      {"toImage", {to_image}},
      {"fromImage", {from_image}},
      {"blendTile", {blend_tile}},
      {"takeRow", {take_row}},
      {"gatherRows", {gather_rows}},
      {"increment", {increment}},
      {"greater", {greater}},
      {"relativeDifference", {relative_difference, relative_difference_workspace}},
      {"cacheDecision", {cache_decision}},
      {"packLatents", {pack_latents}},
      {"unpackLatents", {unpack_latents}},
      {"sampleLatents", {sample_latents}},
  };
  const auto found = kernels.find(kind);
  return found == kernels.end() ? nullptr : &found->second;
}

}  // namespace flux::cuda
