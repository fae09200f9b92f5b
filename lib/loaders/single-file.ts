// What a .safetensors file holds: a transformer, an autoencoder, text encoders, any or all of them, under the names that Black Forest
// Labs, ComfyUI and diffusers give them. All are seen under diffusers' and transformers' names.

import { findBflVaeTensor } from "./bfl-autoencoder.js";
import { type FindLocated, findBflTensor } from "./bfl-transformer.js";
import { findScaled } from "./fp8-scales.js";
import type { StoredTensor, TensorSource } from "./tensor-source.js";
import { WeightSource } from "./weights.js";

/** The components that have weights, in the order in which they are loaded. */
export const WEIGHT_COMPONENTS = ["text_encoder", "text_encoder_2", "vae", "transformer"] as const;
export type WeightComponent = (typeof WEIGHT_COMPONENTS)[number];

/** One way in which a component lies in a file. */
interface Layout {
  /** Before all of its names; the first that fits is taken. */
  readonly prefixes: readonly string[];
  /** A tensor that no other layout has. */
  readonly mark: string;
  readonly find: (find: FindLocated, name: string) => StoredTensor | undefined;
}

const CLIP_PREFIXES = [
  "",
  "text_encoders.clip_l.transformer.",
  "text_encoders.clip_l.",
  "text_encoder.",
  "clip_l.",
];
const T5_PREFIXES = [
  "",
  "text_encoders.t5xxl.transformer.",
  "text_encoders.t5xxl.",
  "text_encoder_2.",
  "t5xxl.",
];
const VAE_PREFIXES = ["", "vae.", "first_stage_model."];
const TRANSFORMER_PREFIXES = ["", "model.diffusion_model.", "diffusion_model.", "transformer."];

const asNamed = (find: FindLocated, name: string) => find(name);

const LAYOUTS: Readonly<Record<WeightComponent, readonly Layout[]>> = {
  text_encoder: [
    { prefixes: CLIP_PREFIXES, mark: "text_model.encoder.layers.0.self_attn.q_proj.weight", find: asNamed },
    { prefixes: CLIP_PREFIXES, mark: "encoder.layers.0.self_attn.q_proj.weight", find: asNamed },
  ],
  text_encoder_2: [
    { prefixes: T5_PREFIXES, mark: "encoder.block.0.layer.0.SelfAttention.q.weight", find: asNamed },
  ],
  vae: [
    { prefixes: VAE_PREFIXES, mark: "decoder.mid_block.resnets.0.conv1.weight", find: asNamed },
    {
      prefixes: VAE_PREFIXES,
      mark: "decoder.mid.block_1.conv1.weight",
      find: (find, name) => findBflVaeTensor(find, name, levelsOf(find)),
    },
  ],
  transformer: [
    { prefixes: TRANSFORMER_PREFIXES, mark: "x_embedder.weight", find: asNamed },
    { prefixes: TRANSFORMER_PREFIXES, mark: "img_in.weight", find: findBflTensor },
  ],
};

/** Levels of resolution of an autoencoder under latent diffusion's names. */
function levelsOf(find: FindLocated): number {
  let levels = 0;
  while (find(`decoder.up.${levels}.block.0.conv1.weight`) !== undefined) levels++;
  return levels;
}

/** The components that a file (or the shards of one) holds. */
export type FoundComponents = { readonly [component in WeightComponent]?: FoundComponent };

export interface FoundComponent extends TensorSource {
  /** Before the names of its tensors in the file. */
  readonly prefix: string;
}

/**
 * @param path A .safetensors file, an index with its shards beside it, or a folder of one component.
 * @throws FluxError `ERR_FLUX_BAD_WEIGHTS` for a file that is damaged, `ERR_FLUX_UNSUPPORTED` for scales that cannot be used.
 */
export async function findComponents(
  path: string,
): Promise<{ source: WeightSource; found: FoundComponents }> {
  const source = await WeightSource.open(path);
  const find = await findScaled(source);
  const found: { [component in WeightComponent]?: FoundComponent } = {};
  for (const component of WEIGHT_COMPONENTS) {
    for (const layout of LAYOUTS[component]) {
      const prefix = layout.prefixes.find((prefix) => find(prefix + layout.mark) !== undefined);
      if (prefix === undefined) continue;
      const findHere: FindLocated = (name) => find(prefix + name);
      found[component] = { location: path, prefix, find: (name) => layout.find(findHere, name) };
      break;
    }
  }
  return { source, found };
}

/** A linear of each component that may be in fp8; the others are alike. */
const LINEARS: Readonly<Record<WeightComponent, string | undefined>> = {
  text_encoder: undefined,
  text_encoder_2: "encoder.block.0.layer.1.DenseReluDense.wo.weight",
  vae: undefined,
  transformer: "transformer_blocks.0.attn.to_out.0.weight",
};

/** The components whose linears, those of attention and MLP, are stored in fp8. */
export function fp8Of(
  sources: { readonly [component in WeightComponent]?: TensorSource },
): ReadonlySet<WeightComponent> {
  const isFp8 = (component: WeightComponent) => {
    const linear = LINEARS[component];
    return linear !== undefined && sources[component]?.find(linear)?.dtype === "F8_E4M3";
  };
  return new Set(WEIGHT_COMPONENTS.filter(isFp8));
}
