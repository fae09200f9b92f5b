// What a single file holds, part by part, as it would be loaded.

import { parseFluxTransformerConfig } from "../loaders/config.js";
import { DTYPE_BITS } from "../loaders/dtype.js";
import { inferTransformerConfig } from "../loaders/infer-config.js";
import {
  type FoundComponent,
  findComponents,
  WEIGHT_COMPONENTS,
  type WeightComponent,
} from "../loaders/single-file.js";
import { piecesOf, type TensorSource } from "../loaders/tensor-source.js";
import type { WeightSource } from "../loaders/weights.js";
import { FluxTransformer } from "../models/flux/transformer.js";
import { Device } from "../runtime/device.js";
import { elementsOf } from "../runtime/dtype.js";
import type { ComponentReport } from "./model-report.js";

const CLASSES: Readonly<Record<WeightComponent, string>> = {
  text_encoder: "CLIPTextModel",
  text_encoder_2: "T5EncoderModel",
  vae: "AutoencoderKL",
  transformer: "FluxTransformer2DModel",
};

type Sizes = Pick<ComponentReport, "parameters" | "bytes" | "dtypes" | "problems">;
interface Sized {
  readonly dtype: keyof typeof DTYPE_BITS;
  readonly shape: readonly number[];
}

/**
 * A report for every part of a model that the file holds; none for a file that holds no such part. The transformer is compared with what its own
 * widths say; of the others only the loader knows the config.
 * @throws FluxError as `findComponents` does.
 */
export async function fileComponents(path: string): Promise<ComponentReport[]> {
  const { found, source } = await findComponents(path);
  const parts = WEIGHT_COMPONENTS.flatMap((name) => {
    const part = found[name];
    return part === undefined ? [] : [{ name, part }];
  });
  return parts.map(({ name, part }) => ({
    name,
    class: CLASSES[name],
    files: source.files.length,
    ...(name === "transformer" ? transformerSizes(part, path) : sizesUnder(part, source)),
  }));
}

function transformerSizes(source: TensorSource, path: string): Sizes {
  using device = Device.open("cpu", { threads: 1 });
  const config = parseFluxTransformerConfig(inferTransformerConfig(source), path);
  const model = new FluxTransformer(device, config);
  const pieces = model.tensors().flatMap(({ name }) => {
    const tensor = source.find(name);
    return tensor === undefined ? [] : piecesOf(tensor);
  });
  return { ...sizesOf(pieces), problems: model.check(source).map((problem) => `${path}: ${problem}`) };
}

function sizesUnder({ prefix }: FoundComponent, source: WeightSource): Sizes {
  return { ...sizesOf([...source.tensors()].filter(({ name }) => name.startsWith(prefix))), problems: [] };
}

function sizesOf(tensors: readonly Sized[]): Omit<Sizes, "problems"> {
  const dtypes: Record<string, number> = {};
  let bytes = 0;
  for (const { dtype, shape } of tensors) {
    dtypes[dtype] = (dtypes[dtype] ?? 0) + elementsOf(shape);
    bytes += (elementsOf(shape) * DTYPE_BITS[dtype]) / 8;
  }
  return { dtypes, bytes, parameters: Object.values(dtypes).reduce((sum, count) => sum + count, 0) };
}
