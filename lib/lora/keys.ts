// What a tensor's name in an adapter file says: which network, which module, and what it is to that module.

/** A network that a file may change. The second text encoder's adapters are recognised, but not applied. */
export type LoraComponent = "transformer" | "text_encoder" | "text_encoder_2";

/** Of a pair: the matrix [r, K] that comes first, the one [N, r] that comes second, and the number that scales them. */
export type LoraRole = "down" | "up" | "alpha";

export interface LoraKey {
  readonly component: LoraComponent;
  /** With the prefix, without the role: what the tensors of one pair have in common. */
  readonly stem: string;
  /** Without prefix and role, in the words of the file. */
  readonly module: string;
  readonly role: LoraRole;
}

/** They may be nested: `base_model.model.transformer.`. */
const PREFIXES: readonly (readonly [prefix: string, component: LoraComponent])[] = [
  ["base_model.model.", "transformer"],
  ["model.diffusion_model.", "transformer"],
  ["diffusion_model.", "transformer"],
  ["transformer.", "transformer"],
  ["lora_unet_", "transformer"],
  ["lora_transformer_", "transformer"],
  ["text_encoders.clip_l.transformer.", "text_encoder"],
  ["text_encoder.", "text_encoder"],
  ["lora_te1_", "text_encoder"],
  ["lora_te_", "text_encoder"],
  ["text_encoders.t5xxl.transformer.", "text_encoder_2"],
  ["text_encoder_2.", "text_encoder_2"],
  ["lora_te2_", "text_encoder_2"],
  ["lora_te3_", "text_encoder_2"],
];

/** PEFT may put the adapter's own name before `weight`. */
const ROLES: readonly (readonly [LoraRole, RegExp])[] = [
  ["down", /\.(?:lora_A|lora_down|lora\.down|lora_linear_layer\.down|down)(?:\.[^.]+)?\.weight$/],
  ["up", /\.(?:lora_B|lora_up|lora\.up|lora_linear_layer\.up|up)(?:\.[^.]+)?\.weight$/],
  ["alpha", /\.alpha$/],
];

/** The network that a tensor belongs to, and its name there. */
export function componentOf(name: string): { component: LoraComponent; rest: string } {
  let component: LoraComponent = "transformer";
  let rest = name;
  for (;;) {
    const found = PREFIXES.find(([prefix]) => rest.startsWith(prefix));
    if (found === undefined) return { component, rest };
    component = found[1];
    rest = rest.slice(found[0].length);
  }
}

/** undefined for a tensor that is no part of a low-rank pair. */
export function parseKey(name: string): LoraKey | undefined {
  for (const [role, pattern] of ROLES) {
    const found = pattern.exec(name);
    if (found === null) continue;
    const stem = name.slice(0, found.index);
    const { component, rest } = componentOf(stem);
    return { component, stem, module: rest, role };
  }
  return undefined;
}

/** What tensors are that are no part of a low-rank pair, for people who wonder why they do nothing. */
const OTHERS: readonly (readonly [RegExp, string])[] = [
  [
    /\.(?:dora_scale|lora_magnitude_vector(?:\.[^.]+)?(?:\.weight)?)$/,
    "the magnitude of a DoRA, which is not applied",
  ],
  [/\.(?:lokr_|hada_|oft_|lora_mid|glora_|ia3)/, "of a method other than LoRA, which is not applied"],
  [
    /\.lora_[AB](?:\.[^.]+)?\.bias$|\.lora_(?:down|up)\.bias$/,
    "a bias beside a low-rank pair, which is not applied",
  ],
  [/\.(?:query|key)_norm\.scale$/, "a norm's weight, which is not replaced"],
  [/\.diff(?:_b)?$/, "a difference of a whole tensor, which is not applied"],
];

/** Why a tensor is not used that is no part of a low-rank pair. */
export function reasonFor(name: string): string {
  if (componentOf(name).component === "text_encoder_2") return T5_REASON;
  return OTHERS.find(([pattern]) => pattern.test(name))?.[1] ?? "not a name that adapters for FLUX.1 have";
}

export const T5_REASON = "for the T5 text encoder, to which adapters are not applied";
