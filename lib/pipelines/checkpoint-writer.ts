// Writes a checkpoint folder in diffusers' layout, one tensor at a time: the weights pass through a device, which converts them
// as it would when it loads them for itself.

import { copyFile, mkdir, readdir, rename, rm, stat, statfs, writeFile } from "node:fs/promises";
import { basename, dirname, join, resolve } from "node:path";
import { badArgument, FluxError } from "../errors.js";
import type { ModelIndex } from "../loaders/config.js";
import type { SafetensorsDtype } from "../loaders/dtype.js";
import { readJson } from "../loaders/json-fields.js";
import { CONFIG_NAMES, type ConfigFiles, configPath } from "../loaders/pipeline-configs.js";
import { MODEL_INDEX } from "../loaders/published-configs.js";
import { type PlannedTensor, plannedBytes, SafetensorsWriter } from "../loaders/safetensors-writer.js";
import { WEIGHT_COMPONENTS, type WeightComponent } from "../loaders/single-file.js";
import type { TensorSource } from "../loaders/tensor-source.js";
import { loadParameters } from "../nn/load.js";
import type { Model } from "../nn/model.js";
import { Parameter, type Storing } from "../nn/parameter.js";
import type { Device } from "../runtime/device.js";
import type { LoadProgress } from "./checkpoint.js";
import type { TokenizerFolders } from "./tokenizer-folders.js";

/** What is to be written. */
export interface WrittenCheckpoint {
  /** Of model_index.json. */
  readonly pipelineClass: ModelIndex["pipelineClass"];
  readonly configs: ConfigFiles;
  readonly tokenizers: TokenizerFolders;
  /** Of each component its model, which has no weights yet, and where they are to come from. */
  readonly components: Readonly<
    Record<WeightComponent, { readonly model: Model; readonly source: TensorSource }>
  >;
}

export interface WriteOptions {
  signal?: AbortSignal | undefined;
  onProgress?: ((progress: LoadProgress) => void) | undefined;
}

/** File names as diffusers and transformers have them. */
const WEIGHT_FILES: Readonly<Record<WeightComponent, string>> = {
  text_encoder: "model.safetensors",
  text_encoder_2: "model.safetensors",
  vae: "diffusion_pytorch_model.safetensors",
  transformer: "diffusion_pytorch_model.safetensors",
};

const DTYPES = { bf16: "BF16", f32: "F32", f8e4m3: "F8_E4M3" } as const satisfies Record<
  string,
  SafetensorsDtype
>;

/** One tensor on its way: how it is kept, and what the file is to have of it. */
interface Passage {
  readonly parameter: Parameter;
  readonly weight: PlannedTensor;
  readonly scale: PlannedTensor | undefined;
}

/**
 * Writes the folder: it appears whole, or not at all.
 * @returns Bytes of weights.
 * @throws FluxError `ERR_FLUX_BAD_ARGUMENT` when there is something at `folder` already, `ERR_FLUX_IO` when the disk is full or
 *   refuses, `ERR_FLUX_BAD_WEIGHTS` for weights that are missing or damaged; the signal's reason when it is aborted.
 */
export async function writeCheckpoint(
  folder: string,
  checkpoint: WrittenCheckpoint,
  device: Device,
  options: WriteOptions = {},
): Promise<number> {
  await requireNothingAt(folder);
  const passages = {} as Record<WeightComponent, Passage[]>;
  for (const component of WEIGHT_COMPONENTS) {
    const { model, source } = checkpoint.components[component];
    const problems = model.check(source);
    if (problems.length > 0) {
      throw new FluxError(
        "ERR_FLUX_BAD_WEIGHTS",
        `${source.location}: ${problems.join("; ")}. Download or export the checkpoint again.`,
      );
    }
    passages[component] = passagesOf(model, model.named(source));
  }
  const planned = Object.values(passages).flat().flatMap(tensorsOf);
  const bytes = planned.reduce((sum, tensor) => sum + plannedBytes(tensor), 0);

  const partial = join(dirname(resolve(folder)), `.${basename(resolve(folder))}.${process.pid}.partial`);
  try {
    await ioOf(partial, () => mkdir(partial, { recursive: true }));
    await requireSpace(partial, bytes);
    await writeConfigs(partial, checkpoint);
    for (const component of WEIGHT_COMPONENTS) {
      const { model, source } = checkpoint.components[component];
      const path = join(partial, component, WEIGHT_FILES[component]);
      await writeWeights(path, passages[component], model.named(source), device, {
        signal: options.signal,
        onProgress: options.onProgress && ((progress) => options.onProgress!({ component, ...progress })),
      });
    }
    options.signal?.throwIfAborted();
    await ioOf(folder, () => rename(partial, folder));
  } catch (error) {
    await rm(partial, { recursive: true, force: true });
    throw error;
  }
  return bytes;
}

function passagesOf(model: Model, source: TensorSource): Passage[] {
  return model.tensors().map(({ name, shape, storing }) => {
    const stored = source.find(name)!.dtype;
    const kept: Storing =
      storing === "stored" ? "bf16" : storing === "f32" && stored === "BF16" ? "bf16" : storing;
    const weight = { name, dtype: DTYPES[kept as keyof typeof DTYPES], shape };
    const scale =
      kept === "f8e4m3" ? { name: `${name}_scale`, dtype: "F32" as const, shape: [shape[0]!] } : undefined;
    const parameter = new Parameter({ names: [name], shapes: [shape], storing: kept, kind: "matrix" });
    return { parameter, weight, scale };
  });
}

function tensorsOf({ weight, scale }: Passage): PlannedTensor[] {
  return scale === undefined ? [weight] : [weight, scale];
}

async function writeWeights(
  path: string,
  passages: readonly Passage[],
  source: TensorSource,
  device: Device,
  options: {
    signal: AbortSignal | undefined;
    onProgress: ((progress: { loadedBytes: number; totalBytes: number }) => void) | undefined;
  },
): Promise<void> {
  const planned = passages.flatMap(tensorsOf);
  const totalBytes = planned.reduce((sum, tensor) => sum + plannedBytes(tensor), 0);
  let loadedBytes = 0;
  const writer = await SafetensorsWriter.create(path, planned);
  const save = async ({ parameter, weight, scale }: Passage, earlier: Promise<void>) => {
    try {
      await earlier;
      await writer.write(weight.name, parameter.buffer);
      if (scale !== undefined) await writer.write(scale.name, parameter.scale!);
    } finally {
      parameter.release();
    }
    loadedBytes += plannedBytes(weight) + (scale === undefined ? 0 : plannedBytes(scale));
    options.onProgress?.({ loadedBytes, totalBytes });
  };
  let saving = Promise.resolve(); // one tensor, while the next one is made
  try {
    for (const passage of passages) {
      await loadParameters(device, [passage.parameter], source, { signal: options.signal });
      const earlier = saving;
      saving = save(passage, earlier);
      saving.catch(() => {}); // said when it is waited for
      await earlier;
    }
    await saving;
  } finally {
    await saving.catch(() => {});
    await writer.close();
  }
}

async function writeConfigs(
  folder: string,
  { pipelineClass, configs, tokenizers }: WrittenCheckpoint,
): Promise<void> {
  const writeJson = async (path: string, value: object) => {
    await ioOf(path, async () => {
      await mkdir(dirname(path), { recursive: true });
      await writeFile(path, `${JSON.stringify(value, null, 2)}\n`);
    });
  };
  await writeJson(join(folder, "model_index.json"), { _class_name: pipelineClass, ...MODEL_INDEX });
  for (const name of CONFIG_NAMES) await writeJson(configPath(folder, name), configs[name]);
  await copyFiles(tokenizers.clip, join(folder, "tokenizer"));
  await copyFiles(tokenizers.t5, join(folder, "tokenizer_2"));
  if (tokenizers.t5Length !== undefined) {
    const path = join(folder, "tokenizer_2", "tokenizer_config.json");
    await writeJson(path, { ...((await readJson(path)) as object), model_max_length: tokenizers.t5Length });
  }
}

async function copyFiles(from: string, to: string): Promise<void> {
  await ioOf(to, async () => {
    await mkdir(to, { recursive: true });
    for (const entry of await readdir(from, { withFileTypes: true })) {
      if (!entry.isDirectory()) await copyFile(join(from, entry.name), join(to, entry.name));
    }
  });
}

async function requireNothingAt(folder: string): Promise<void> {
  if (typeof folder !== "string" || folder === "") throw badArgument("give the path of the folder to write");
  const present = await stat(folder).catch(() => undefined);
  const isEmpty = present?.isDirectory() === true && (await readdir(folder)).length === 0;
  if (present !== undefined && !isEmpty) {
    throw badArgument(`${folder} is there already; remove it, or write to another folder`);
  }
}

async function requireSpace(folder: string, bytes: number): Promise<void> {
  const { bavail, bsize } = await statfs(folder);
  if (bavail * bsize >= bytes) return;
  const gigabytes = (count: number) => `${(count / 1e9).toFixed(1)} GB`;
  throw new FluxError(
    "ERR_FLUX_IO",
    `the checkpoint needs ${gigabytes(bytes)} and the disk of ${dirname(folder)} has ${gigabytes(bavail * bsize)}. Write to another disk.`,
  );
}

async function ioOf<T>(path: string, action: () => Promise<T>): Promise<T> {
  try {
    return await action();
  } catch (cause) {
    throw new FluxError("ERR_FLUX_IO", `${path} cannot be written: ${(cause as Error).message}.`, { cause });
  }
}
