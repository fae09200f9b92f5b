import { stat } from "node:fs/promises";
import { badArgument } from "../errors.js";
import type { ConfigFiles } from "../loaders/pipeline-configs.js";
import { FP8_MARK } from "../loaders/quantisation.js";
import { WEIGHT_COMPONENTS, type WeightComponent } from "../loaders/single-file.js";
import { Device } from "../runtime/device.js";
import { type CheckpointParts, modelsOf } from "./checkpoint.js";
import { openFolder } from "./checkpoint-folder.js";
import { type WriteOptions, type WrittenCheckpoint, writeCheckpoint } from "./checkpoint-writer.js";
import { type Variant, variantOf } from "./conditioning/variant.js";
import { openSingleFile, type SingleFileParts } from "./single-file.js";

/** How the linears of a checkpoint are written. */
export interface WrittenPrecisions {
  /** The transformer's; `"fp8"` by default. */
  precision?: "fp8" | "bf16" | undefined;
  /** T5's; as `precision` by default. */
  textEncoderPrecision?: "fp8" | "bf16" | undefined;
}

export interface ConvertOptions extends SingleFileParts, WrittenPrecisions, WriteOptions {
  /** What the checkpoint is, where its files do not tell. */
  variant?: Variant | undefined;
}

/** The class that a folder's model_index.json names, by what the transformer was trained for. */
const CLASSES = {
  dev: "FluxPipeline",
  schnell: "FluxPipeline",
  kontext: "FluxKontextPipeline",
  fill: "FluxFillPipeline",
  control: "FluxControlPipeline",
} as const;

/**
 * Writes a checkpoint, a folder or a single file, as a folder in diffusers' layout whose linears are e4m3 codes with an f32 scale for
 * each output channel: what fp8 pipelines compute with, so that it loads without work. Weights in fp8 keep their codes. All else is in bf16.
 * @returns Bytes of weights.
 * @throws FluxError as `openSingleFile` and `writeCheckpoint` do.
 */
export async function convert(path: string, folder: string, options: ConvertOptions = {}): Promise<number> {
  const isFile = (await stat(path).catch(() => undefined))?.isFile() === true;
  return writeParts(isFile ? await openSingleFile(path, options) : await openFolder(path), folder, options);
}

/** Writes what a pipeline is made of as a folder. */
export async function writeParts(
  parts: CheckpointParts,
  folder: string,
  options: Omit<ConvertOptions, keyof SingleFileParts>,
): Promise<number> {
  const { precision = "fp8", textEncoderPrecision = precision } = options;
  for (const name of [precision, textEncoderPrecision]) {
    if (name !== "fp8" && name !== "bf16")
      throw badArgument(`weights are written in "fp8" or "bf16", not "${name}"`);
  }
  using device = Device.open("cpu");
  const precisionOf = (name: "fp8" | "bf16") => (name === "fp8" ? "fp8" : "f32");
  const models = modelsOf(parts.configs, device, {
    transformer: precisionOf(precision),
    textEncoders: precisionOf(textEncoderPrecision),
  });
  const components = {} as Record<WeightComponent, WrittenCheckpoint["components"]["vae"]>;
  for (const component of WEIGHT_COMPONENTS) {
    const model = models[component];
    components[component] = { model, source: await parts.weights(component, model) };
  }
  const configs: ConfigFiles = {
    ...parts.configs.files,
    transformer: marked(parts.configs.files.transformer, precision),
    text_encoder_2: marked(parts.configs.files.text_encoder_2, textEncoderPrecision),
  };
  const pipelineClass =
    CLASSES[variantOf({ ...parts.configs.transformer, name: parts.name }, options.variant)];
  const checkpoint = { pipelineClass, configs, tokenizers: parts.tokenizerFolders, components };
  return await writeCheckpoint(folder, checkpoint, device, options);
}

function marked(config: object, precision: "fp8" | "bf16"): object {
  const { quantization_config: _, ...plain } = config as Record<string, unknown>;
  return precision === "fp8" ? { ...plain, ...FP8_MARK } : plain;
}
