// The autoencoder's tensors under the names of latent diffusion (ae.safetensors), seen under diffusers' names.

import type { FindLocated } from "./bfl-transformer.js";
import type { LocatedTensor } from "./tensor-source.js";

/** Of a part of encoder or decoder: its name in diffusers, and there. */
const RENAMED: readonly (readonly [RegExp, string])[] = [
  [/^conv_norm_out\b/, "norm_out"],
  [/^mid_block\.resnets\.0\b/, "mid.block_1"],
  [/^mid_block\.resnets\.1\b/, "mid.block_2"],
  [/^mid_block\.attentions\.0\.group_norm\b/, "mid.attn_1.norm"],
  [/^mid_block\.attentions\.0\.to_out\.0\b/, "mid.attn_1.proj_out"],
  [/^mid_block\.attentions\.0\.to_([qkv])\b/, "mid.attn_1.$1"],
  [/^(down|up)_blocks\.(\d+)\.resnets\.(\d+)\b/, "$1.$2.block.$3"],
  [/^(down|up)_blocks\.(\d+)\.(?:down|up)samplers\.0\.conv\b/, "$1.$2.$1sample.conv"],
  [/\bconv_shortcut\b/, "nin_shortcut"],
];

/**
 * @param name As diffusers has it: `decoder.up_blocks.0.resnets.1.conv1.weight`.
 * @param levels Of resolution. The decoder's are counted from the finest there, from the deepest in diffusers.
 */
export function findBflVaeTensor(find: FindLocated, name: string, levels: number): LocatedTensor | undefined {
  const [, side, rest] = /^(encoder|decoder)\.(.+)$/.exec(name) ?? [];
  if (side === undefined) return find(name);
  const counted = rest!.replace(/^up_blocks\.(\d+)/, (_, level) => `up_blocks.${levels - 1 - Number(level)}`);
  const renamed = RENAMED.reduce(
    (text, [pattern, replacement]) => text.replace(pattern, replacement),
    counted,
  );
  const stored = find(`${side}.${renamed}`);
  if (stored === undefined || !renamed.startsWith("mid.attn_1")) return stored;
  // Its projections are 1×1 convolutions there: the same numbers in the same order.
  const [rows, columns, ...kernel] = stored.shape;
  return kernel.length === 2 && kernel.every((side) => side === 1)
    ? { ...stored, shape: [rows!, columns!] }
    : stored;
}
