// The transformer's tensors under the names that Black Forest Labs gave them (flux1-dev.safetensors and what is derived from it), seen
// under diffusers' names. Their files stack projections of one input, and order the final modulation's halves the other way round.

import { type LocatedTensor, rowsOf, type StoredTensor } from "./tensor-source.js";

/** The tensors of a file by name. */
export type FindLocated = (name: string) => LocatedTensor | undefined;

/** Where a layer lies: its name there and, of its rows cut into equal `parts`, the ones that are its own, in order. */
interface Place {
  readonly layer: string;
  readonly parts?: number;
  readonly own?: readonly number[];
}

const QKV = 3;
/** q, k, v and an MLP that is four times as wide, as rows of one matrix. */
const LINEAR1 = 7;

const GLOBAL: Readonly<Record<string, Place>> = {
  x_embedder: { layer: "img_in" },
  context_embedder: { layer: "txt_in" },
  "time_text_embed.timestep_embedder.linear_1": { layer: "time_in.in_layer" },
  "time_text_embed.timestep_embedder.linear_2": { layer: "time_in.out_layer" },
  "time_text_embed.text_embedder.linear_1": { layer: "vector_in.in_layer" },
  "time_text_embed.text_embedder.linear_2": { layer: "vector_in.out_layer" },
  "time_text_embed.guidance_embedder.linear_1": { layer: "guidance_in.in_layer" },
  "time_text_embed.guidance_embedder.linear_2": { layer: "guidance_in.out_layer" },
  // Here shift, scale; in diffusers scale, shift.
  "norm_out.linear": { layer: "final_layer.adaLN_modulation.1", parts: 2, own: [1, 0] },
  proj_out: { layer: "final_layer.linear" },
};

const DOUBLE: Readonly<Record<string, Place>> = {
  "norm1.linear": { layer: "img_mod.lin" },
  "norm1_context.linear": { layer: "txt_mod.lin" },
  "attn.to_q": { layer: "img_attn.qkv", parts: QKV, own: [0] },
  "attn.to_k": { layer: "img_attn.qkv", parts: QKV, own: [1] },
  "attn.to_v": { layer: "img_attn.qkv", parts: QKV, own: [2] },
  "attn.add_q_proj": { layer: "txt_attn.qkv", parts: QKV, own: [0] },
  "attn.add_k_proj": { layer: "txt_attn.qkv", parts: QKV, own: [1] },
  "attn.add_v_proj": { layer: "txt_attn.qkv", parts: QKV, own: [2] },
  "attn.norm_q": { layer: "img_attn.norm.query_norm" },
  "attn.norm_k": { layer: "img_attn.norm.key_norm" },
  "attn.norm_added_q": { layer: "txt_attn.norm.query_norm" },
  "attn.norm_added_k": { layer: "txt_attn.norm.key_norm" },
  "attn.to_out.0": { layer: "img_attn.proj" },
  "attn.to_add_out": { layer: "txt_attn.proj" },
  "ff.net.0.proj": { layer: "img_mlp.0" },
  "ff.net.2": { layer: "img_mlp.2" },
  "ff_context.net.0.proj": { layer: "txt_mlp.0" },
  "ff_context.net.2": { layer: "txt_mlp.2" },
};

const SINGLE: Readonly<Record<string, Place>> = {
  "norm.linear": { layer: "modulation.lin" },
  "attn.to_q": { layer: "linear1", parts: LINEAR1, own: [0] },
  "attn.to_k": { layer: "linear1", parts: LINEAR1, own: [1] },
  "attn.to_v": { layer: "linear1", parts: LINEAR1, own: [2] },
  proj_mlp: { layer: "linear1", parts: LINEAR1, own: [3, 4, 5, 6] },
  "attn.norm_q": { layer: "norm.query_norm" },
  "attn.norm_k": { layer: "norm.key_norm" },
  proj_out: { layer: "linear2" },
};

/** @param name As diffusers has it: `transformer_blocks.3.attn.to_q.weight`. */
export function findBflTensor(find: FindLocated, name: string): StoredTensor | undefined {
  const [, block, index, layer, kind] =
    /^(?:(transformer_blocks|single_transformer_blocks)\.(\d+)\.)?(.+)\.(weight|bias)$/.exec(name) ?? [];
  if (layer === undefined) return undefined;
  const places = block === undefined ? GLOBAL : block === "transformer_blocks" ? DOUBLE : SINGLE;
  if (!Object.hasOwn(places, layer)) return undefined;
  const place = places[layer]!;
  const scope =
    block === undefined
      ? ""
      : `${block === "transformer_blocks" ? "double_blocks" : "single_blocks"}.${index}.`;
  const stored = find(`${scope}${place.layer}.${kind}`) ?? find(`${scope}${place.layer}.scale`);
  return stored && ownRows(stored, place);
}

function ownRows(stored: LocatedTensor, { parts = 1, own = [0] }: Place): StoredTensor | undefined {
  if (parts === 1) return stored;
  const rows = stored.shape[0]! / parts;
  if (!Number.isInteger(rows)) return stored; // misshapen: whoever asked sees its shape
  const isRun = own.every((part, index) => index === 0 || part === own[index - 1]! + 1);
  if (isRun) return rowsOf(stored, own[0]! * rows, own.length * rows);
  const { name, dtype, shape } = stored;
  return { name, dtype, shape, parts: own.map((part) => rowsOf(stored, part * rows, rows)) };
}
