// The op names of ops.h and their kernels.
#include <algorithm>
#include <array>

#include "cpu/kernels.h"

namespace flux::cpu {

namespace {

struct Entry {
  std::string_view kind;
  Kernel kernel;
};

constexpr std::array<Entry, 40> kOps{{
    {"linear", linear},
    {"qkvLinear", qkv_linear},
    {"attention", attention},
    {"packHeads", pack_heads},
    {"attentionPacked", attention_packed},
    {"layerNorm", layer_norm},
    {"rmsNorm", rms_norm},
    {"groupNorm", group_norm},
    {"groupNormSums", group_norm_sums},
    {"groupNormAffine", group_norm_affine},
    {"groupNormApply", group_norm_apply},
    {"conv2d", conv2d},
    {"embedding", embedding},
    {"timestepEmbedding", timestep_embedding},
    {"ropeTable", rope_table},
    {"t5Bias", t5_bias},
    {"add", add},
    {"subtract", subtract},
    {"addScaled", add_scaled},
    {"multiply", multiply},
    {"activation", activation},
    {"copy", copy},
    {"takeRow", take_row},
    {"gatherRows", gather_rows},
    {"increment", increment},
    {"eulerStep", euler_step},
    {"guide", guide},
    {"scaleNoise", scale_noise},
    {"packLatents", pack_latents},
    {"unpackLatents", unpack_latents},
    {"sampleLatents", sample_latents},
    {"toImage", to_image},
    {"fromImage", from_image},
    {"blendTile", blend_tile},
    {"greater", greater},
    {"relativeDifference", relative_difference},
    {"cacheDecision", cache_decision},
    {"quantizeRows", quantize_rows},
    {"weightBounds", weight_bounds},
    {"branchBounds", branch_bounds},
}};

}  // namespace

Kernel find_kernel(std::string_view kind) {
  const auto entry = std::find_if(kOps.begin(), kOps.end(), [&](const Entry& op) { return op.kind == kind; });
  return entry == kOps.end() ? nullptr : entry->kernel;
}

}  // namespace flux::cpu
