// The names of modules in adapter files, in any of the ways in which they are written, as diffusers' names.

/** The modules whose stacked rows a pair changes. */
export interface NamedModules {
  /** diffusers' names, in the order of their rows. */
  readonly names: readonly string[];
  /** The rows are shift, then scale, where diffusers has scale, then shift. */
  readonly swapped?: boolean;
}

const QKV = ["attn.to_q", "attn.to_k", "attn.to_v"];
const ADDED_QKV = ["attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"];

/** Of a double block, by what BFL, XLabs and diffusers call it; dots are underscores. */
const DOUBLE: Readonly<Record<string, readonly string[]>> = {
  img_attn_qkv: QKV,
  txt_attn_qkv: ADDED_QKV,
  img_attn_proj: ["attn.to_out.0"],
  txt_attn_proj: ["attn.to_add_out"],
  img_mlp_0: ["ff.net.0.proj"],
  img_mlp_2: ["ff.net.2"],
  txt_mlp_0: ["ff_context.net.0.proj"],
  txt_mlp_2: ["ff_context.net.2"],
  img_mod_lin: ["norm1.linear"],
  txt_mod_lin: ["norm1_context.linear"],
  processor_qkv_lora1: QKV,
  processor_qkv_lora2: ADDED_QKV,
  processor_proj_lora1: ["attn.to_out.0"],
  processor_proj_lora2: ["attn.to_add_out"],
};

/** Of a single block. */
const SINGLE: Readonly<Record<string, readonly string[]>> = {
  linear1: [...QKV, "proj_mlp"],
  linear2: ["proj_out"],
  modulation_lin: ["norm.linear"],
  processor_qkv_lora: QKV,
  processor_proj_lora: ["proj_out"],
};

/** Outside the blocks, as BFL calls it. */
const TOP: Readonly<Record<string, string>> = {
  img_in: "x_embedder",
  txt_in: "context_embedder",
  time_in_in_layer: "time_text_embed.timestep_embedder.linear_1",
  time_in_out_layer: "time_text_embed.timestep_embedder.linear_2",
  vector_in_in_layer: "time_text_embed.text_embedder.linear_1",
  vector_in_out_layer: "time_text_embed.text_embedder.linear_2",
  guidance_in_in_layer: "time_text_embed.guidance_embedder.linear_1",
  guidance_in_out_layer: "time_text_embed.guidance_embedder.linear_2",
  final_layer_linear: "proj_out",
};

const OWN_DOUBLE = ownNames([...new Set(Object.values(DOUBLE).flat())]);
const OWN_SINGLE = ownNames([...new Set(Object.values(SINGLE).flat())]);
const OWN_TOP = ownNames([...Object.values(TOP), "norm_out.linear"]);

/** diffusers' names by how they read with underscores. */
function ownNames(names: readonly string[]): Readonly<Record<string, string>> {
  return Object.fromEntries(names.map((name) => [underscored(name), name]));
}

function underscored(name: string): string {
  return name.replaceAll(".", "_");
}

/** The transformer's modules behind a name such as `double_blocks_0_img_attn_qkv` or `transformer_blocks.0.attn.to_q`. */
export function transformerModules(module: string): NamedModules | undefined {
  const name = underscored(module);
  if (name === "final_layer_adaLN_modulation_1") return { names: ["norm_out.linear"], swapped: true };
  const top = lookUp(TOP, name) ?? lookUp(OWN_TOP, name);
  if (top !== undefined) return { names: [top] };
  const [, kind, index, rest = ""] =
    /^(double_blocks|transformer_blocks|single_blocks|single_transformer_blocks)_(\d+)_(.+)$/.exec(name) ??
    [];
  if (kind === undefined) return undefined;
  const isSingle = kind.startsWith("single");
  const own = lookUp(isSingle ? OWN_SINGLE : OWN_DOUBLE, rest);
  const names = own === undefined ? lookUp(isSingle ? SINGLE : DOUBLE, rest) : [own];
  const block = `${isSingle ? "single_transformer_blocks" : "transformer_blocks"}.${Number(index)}`;
  return names && { names: names.map((part) => `${block}.${part}`) };
}

/** CLIP's modules behind a name such as `text_model_encoder_layers_0_self_attn_q_proj`. */
export function clipModules(module: string): NamedModules | undefined {
  const pattern =
    /^(?:text_model_)?encoder_layers_(\d+)_(?:(self_attn)_(q_proj|k_proj|v_proj|out_proj)|(mlp)_(fc1|fc2))$/;
  const [, index, attention, projection, mlp, layer] = pattern.exec(underscored(module)) ?? [];
  if (index === undefined) return undefined;
  const part = attention === undefined ? `${mlp}.${layer}` : `${attention}.${projection}`;
  return { names: [`text_model.encoder.layers.${Number(index)}.${part}`] };
}

function lookUp<T>(table: Readonly<Record<string, T>>, name: string): T | undefined {
  return Object.hasOwn(table, name) ? table[name] : undefined;
}
