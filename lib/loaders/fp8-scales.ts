// Scales of fp8 checkpoints. A weight's values are its stored ones times `<layer>.weight_scale`, or `<layer>.scale_weight` in older files: one
// number, or one for each row. Scales of activations (`input_scale`, `scale_input`) are not used: activations are quantised by what they are.

import { FluxError } from "../errors.js";
import { readTensor } from "./safetensors.js";
import { quoted } from "./safetensors-header.js";
import type { LocatedTensor } from "./tensor-source.js";
import type { WeightSource } from "./weights.js";

const SCALE = /^(.+)\.(?:weight_scale|scale_weight)$/;

/**
 * The tensors of `source` by name, each with its scale.
 * @throws FluxError `ERR_FLUX_UNSUPPORTED` for scales of blocks.
 */
export async function findScaled(source: WeightSource): Promise<(name: string) => LocatedTensor | undefined> {
  const scales = new Map<string, number | LocatedTensor>();
  for (const tensor of source.tensors()) {
    const [, layer] = SCALE.exec(tensor.name) ?? [];
    const weight = layer === undefined ? undefined : source.find(`${layer}.weight`);
    if (weight !== undefined) scales.set(weight.name, await scaleOf(tensor, weight));
  }
  if (scales.size === 0) return (name) => source.find(name);
  return (name) => {
    const tensor = source.find(name);
    const scale = scales.get(name);
    return tensor === undefined || scale === undefined || scale === 1 ? tensor : { ...tensor, scale };
  };
}

async function scaleOf(scale: LocatedTensor, weight: LocatedTensor): Promise<number | LocatedTensor> {
  const elements = scale.shape.reduce((product, length) => product * length, 1);
  if (elements === 1) {
    const { data } = await readTensor(scale.file, scale.name);
    return Number(data[0]);
  }
  const isOfRows = elements === weight.shape[0] && scale.shape[0] === elements && scale.dtype === "F32";
  if (isOfRows) return { ...scale, shape: [elements] };
  throw new FluxError(
    "ERR_FLUX_UNSUPPORTED",
    `${scale.file.path}: ${quoted(scale.name)} is ${scale.dtype} of shape [${scale.shape.join(", ")}], and scales are one number or ` +
      `an F32 for each of the ${weight.shape[0]} rows of its weight. Use a checkpoint in fp8 with such scales, or in bf16.`,
  );
}
