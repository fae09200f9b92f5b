import { FluxError } from "../errors.js";
import type { TensorSource } from "./tensor-source.js";

/**
 * The fields of a transformer's config that its tensors show.
 * @param source Under diffusers' names.
 * @throws FluxError `ERR_FLUX_BAD_WEIGHTS` naming a tensor that is missing.
 */
export function inferTransformerConfig(source: TensorSource) {
  const shapeOf = (name: string) => {
    const tensor = source.find(name);
    if (tensor?.shape.length === 2) return tensor.shape as readonly [number, number];
    throw new FluxError(
      "ERR_FLUX_BAD_WEIGHTS",
      `${source.location} is not a whole FLUX.1 transformer: the matrix ${name} is not there. Download or export it again.`,
    );
  };
  const blocks = (name: (index: number) => string) => {
    let count = 0;
    while (source.find(name(count)) !== undefined) count++;
    return count;
  };
  const [width, inChannels] = shapeOf("x_embedder.weight");
  return {
    in_channels: inChannels,
    out_channels: shapeOf("proj_out.weight")[0],
    num_attention_heads: Math.floor(width / 128),
    num_layers: blocks((index) => `transformer_blocks.${index}.norm1.linear.weight`),
    num_single_layers: blocks((index) => `single_transformer_blocks.${index}.norm.linear.weight`),
    joint_attention_dim: shapeOf("context_embedder.weight")[1],
    pooled_projection_dim: shapeOf("time_text_embed.text_embedder.linear_1.weight")[1],
    guidance_embeds: source.find("time_text_embed.guidance_embedder.linear_1.weight") !== undefined,
  };
}
