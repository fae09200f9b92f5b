// Single files in the formats that are about, made of the golden diffusers-named weights. The names are those of flux-reference's table
// and of latent diffusion, written down here from diffusers' side: what reads them goes the other way.

import { readdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { safetensorsBytes } from "./fixture-folder.js";
import { GoldenFile } from "./golden.js";

export interface Stored {
  readonly shape: readonly number[];
  readonly values: Float32Array;
}
export type Tensors = Map<string, Stored>;

/** All tensors of a component's folder, sharded or not. */
export function readFolder(folder: string): Tensors {
  const tensors: Tensors = new Map();
  for (const name of readdirSync(folder).filter((name) => name.endsWith(".safetensors"))) {
    const file = new GoldenFile(join(folder, name));
    for (const tensor of file.names()) {
      const { shape, data } = file.tensor(tensor);
      tensors.set(tensor, { shape, values: data });
    }
  }
  return tensors;
}

function concatenate(parts: readonly Stored[]): Stored {
  const rows = parts.reduce((sum, { shape }) => sum + shape[0]!, 0);
  const values = new Float32Array(parts.reduce((sum, part) => sum + part.values.length, 0));
  let at = 0;
  for (const part of parts) {
    values.set(part.values, at);
    at += part.values.length;
  }
  return { shape: [rows, ...parts[0]!.shape.slice(1)], values };
}

function swapHalves({ shape, values }: Stored): Stored {
  const half = values.length / 2;
  return { shape, values: Float32Array.from([...values.subarray(half), ...values.subarray(0, half)]) };
}

/** A transformer as Black Forest Labs names and stacks it. */
export function bflTransformer(diffusers: Tensors): Tensors {
  const bfl: Tensors = new Map();
  const take = (name: string) => diffusers.get(name)!;
  const layer = (to: string, ...from: string[]) => {
    for (const kind of ["weight", "bias"]) {
      bfl.set(`${to}.${kind}`, concatenate(from.map((name) => take(`${name}.${kind}`))));
    }
  };
  const norm = (to: string, from: string) => bfl.set(`${to}.scale`, take(`${from}.weight`));
  const count = (prefix: string) => {
    const indices = [...diffusers.keys()].filter((name) => name.startsWith(`${prefix}.`));
    return new Set(indices.map((name) => name.split(".")[1])).size;
  };

  layer("img_in", "x_embedder");
  layer("txt_in", "context_embedder");
  for (const [to, from] of [
    ["time_in", "timestep_embedder"],
    ["vector_in", "text_embedder"],
    ["guidance_in", "guidance_embedder"],
  ]) {
    if (!diffusers.has(`time_text_embed.${from}.linear_1.weight`)) continue;
    layer(`${to}.in_layer`, `time_text_embed.${from}.linear_1`);
    layer(`${to}.out_layer`, `time_text_embed.${from}.linear_2`);
  }
  for (let i = 0; i < count("transformer_blocks"); i++) {
    const [to, from] = [`double_blocks.${i}`, `transformer_blocks.${i}`];
    layer(`${to}.img_mod.lin`, `${from}.norm1.linear`);
    layer(`${to}.txt_mod.lin`, `${from}.norm1_context.linear`);
    layer(`${to}.img_attn.qkv`, `${from}.attn.to_q`, `${from}.attn.to_k`, `${from}.attn.to_v`);
    layer(
      `${to}.txt_attn.qkv`,
      `${from}.attn.add_q_proj`,
      `${from}.attn.add_k_proj`,
      `${from}.attn.add_v_proj`,
    );
    norm(`${to}.img_attn.norm.query_norm`, `${from}.attn.norm_q`);
    norm(`${to}.img_attn.norm.key_norm`, `${from}.attn.norm_k`);
    norm(`${to}.txt_attn.norm.query_norm`, `${from}.attn.norm_added_q`);
    norm(`${to}.txt_attn.norm.key_norm`, `${from}.attn.norm_added_k`);
    layer(`${to}.img_attn.proj`, `${from}.attn.to_out.0`);
    layer(`${to}.txt_attn.proj`, `${from}.attn.to_add_out`);
    layer(`${to}.img_mlp.0`, `${from}.ff.net.0.proj`);
    layer(`${to}.img_mlp.2`, `${from}.ff.net.2`);
    layer(`${to}.txt_mlp.0`, `${from}.ff_context.net.0.proj`);
    layer(`${to}.txt_mlp.2`, `${from}.ff_context.net.2`);
  }
  for (let i = 0; i < count("single_transformer_blocks"); i++) {
    const [to, from] = [`single_blocks.${i}`, `single_transformer_blocks.${i}`];
    layer(`${to}.modulation.lin`, `${from}.norm.linear`);
    const { attn } = { attn: `${from}.attn` };
    layer(`${to}.linear1`, `${attn}.to_q`, `${attn}.to_k`, `${attn}.to_v`, `${from}.proj_mlp`);
    layer(`${to}.linear2`, `${from}.proj_out`);
    norm(`${to}.norm.query_norm`, `${attn}.norm_q`);
    norm(`${to}.norm.key_norm`, `${attn}.norm_k`);
  }
  layer("final_layer.linear", "proj_out");
  for (const kind of ["weight", "bias"]) {
    bfl.set(`final_layer.adaLN_modulation.1.${kind}`, swapHalves(take(`norm_out.linear.${kind}`)));
  }
  return bfl;
}

/** An autoencoder under latent diffusion's names: its attention's projections are 1×1 convolutions, the decoder counts from the finest level. */
export function bflAutoencoder(diffusers: Tensors): Tensors {
  const levels = new Set(
    [...diffusers.keys()].map((name) => /^decoder\.up_blocks\.(\d+)/.exec(name)?.[1]).filter(Boolean),
  ).size;
  const bfl: Tensors = new Map();
  for (const [name, tensor] of diffusers) {
    const parts = name.split(".");
    const side = parts.shift()!;
    const kind = parts.pop()!;
    const [first, second, third, ...rest] = parts as [string, string, string, ...string[]];
    const inner = (layer: string[]) =>
      layer.map((part) => (part === "conv_shortcut" ? "nin_shortcut" : part));
    let renamed: string[];
    if (first === "conv_norm_out") renamed = ["norm_out"];
    else if (first === "mid_block" && second === "resnets")
      renamed = ["mid", `block_${Number(third) + 1}`, ...inner(rest)];
    else if (first === "mid_block") {
      const projections: Record<string, string> = {
        group_norm: "norm",
        to_q: "q",
        to_k: "k",
        to_v: "v",
        to_out: "proj_out",
      };
      renamed = ["mid", "attn_1", projections[rest[0]!]!];
    } else if (first === "down_blocks" || first === "up_blocks") {
      const direction = first === "down_blocks" ? "down" : "up";
      const level = direction === "down" ? second : String(levels - 1 - Number(second));
      renamed =
        third === "resnets"
          ? [direction, level, "block", rest[0]!, ...inner(rest.slice(1))]
          : [direction, level, `${direction}sample`, "conv"];
    } else renamed = parts;
    const isProjection = renamed.includes("attn_1") && kind === "weight" && tensor.shape.length === 2;
    const shape = isProjection ? [...tensor.shape, 1, 1] : tensor.shape;
    bfl.set([side, ...renamed, kind].join("."), { shape, values: tensor.values });
  }
  return bfl;
}

export function prefixed(prefix: string, tensors: Tensors): Tensors {
  return new Map([...tensors].map(([name, tensor]) => [prefix + name, tensor]));
}

/** How a tensor is written, and what is written beside it. */
export interface Encoded {
  readonly dtype: "BF16" | "F32" | "F8_E4M3" | "U8";
  readonly shape: readonly number[];
  readonly bytes: Uint8Array;
}

export function asBf16({ shape, values }: Stored): Encoded {
  const bits = Uint16Array.from(new Uint32Array(values.slice().buffer), (word) => word >>> 16);
  return { dtype: "BF16", shape, bytes: new Uint8Array(bits.buffer) };
}

export function asF32({ shape, values }: Stored): Encoded {
  return { dtype: "F32", shape, bytes: new Uint8Array(values.slice().buffer) };
}

/** Nearest e4m3 codes of values / scale, and what codes and scale stand for. A scale for each row, or one for all. */
export function asE4m3(
  { shape, values }: Stored,
  scales: readonly number[] = [1],
): { encoded: Encoded; decoded: Stored } {
  const width = values.length / shape[0]!;
  const codes = new Uint8Array(values.length);
  const decoded = new Float32Array(values.length);
  values.forEach((value, index) => {
    const scale = scales[scales.length === 1 ? 0 : Math.floor(index / width)]!;
    const magnitude = Math.min(Math.abs(value / scale), 448);
    const exponent = Math.max(-6, Math.floor(Math.log2(magnitude || 2 ** -9)));
    const steps = Math.round(magnitude / 2 ** (exponent - 3)); // up to 16, which is the next exponent's 8
    codes[index] = (value < 0 ? 0x80 : 0) | ((exponent + 6) * 8 + steps);
    decoded[index] = Math.fround(Math.sign(value) * steps * 2 ** (exponent - 3) * scale);
  });
  return { encoded: { dtype: "F8_E4M3", shape, bytes: codes }, decoded: { shape, values: decoded } };
}

/** Writes a safetensors file. */
export function writeTensors(path: string, tensors: ReadonlyMap<string, Encoded>): string {
  const header: Record<string, object> = {};
  const parts: Uint8Array[] = [];
  let end = 0;
  for (const [name, { dtype, shape, bytes }] of tensors) {
    header[name] = { dtype, shape, data_offsets: [end, end + bytes.length] };
    parts.push(bytes);
    end += bytes.length;
  }
  writeFileSync(path, safetensorsBytes(header, Buffer.concat(parts)));
  return path;
}
