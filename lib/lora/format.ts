/** How an adapter file names its tensors. */
export type LoraFormat =
  | "diffusers" // transformer.….lora_A.weight, as diffusers and PEFT save them
  | "peft" // base_model.model.….lora_A.weight, as PEFT alone saves them
  | "kohya" // lora_unet_double_blocks_0_….lora_down.weight
  | "onetrainer" // lora_transformer_….lora_down.weight
  | "comfyui" // diffusion_model.…, also ai-toolkit's
  | "xlabs" // double_blocks.0.processor.qkv_lora1.down.weight
  | "bfl-control" // Black Forest Labs' control adapters: low-rank pairs, biases, norms, a wider img_in
  | "bfl"; // double_blocks.0.….lora_A.weight

/** The format of a file with tensors of these names. It says how to read nothing: names are read one by one. */
export function formatOf(names: readonly string[]): LoraFormat {
  const some = (pattern: RegExp) => names.some((name) => pattern.test(name));
  if (some(/(?:query|key)_norm\.scale$/)) return "bfl-control";
  if (some(/\.processor\./)) return "xlabs";
  if (some(/^lora_transformer_/)) return "onetrainer";
  if (some(/^lora_unet_/)) return "kohya";
  if (some(/^base_model\./)) return "peft";
  if (some(/^(?:model\.)?diffusion_model\./)) return "comfyui";
  if (some(/^(?:double|single)_blocks\./)) return "bfl";
  return "diffusers";
}
