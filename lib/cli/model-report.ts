// What a checkpoint consists of, and everything that is wrong with it at once: a damaged part does not hide the others.

import { stat } from "node:fs/promises";
import { join } from "node:path";
import { FluxError } from "../errors.js";
import {
  type ComponentName,
  readAutoencoderKLConfig,
  readClipTextConfig,
  readFluxTransformerConfig,
  readModelIndex,
  readSchedulerConfig,
  readT5Config,
} from "../loaders/config.js";
import { loadClipTokenizer, loadT5Tokenizer } from "../loaders/tokenizers.js";
import { WeightSource } from "../loaders/weights.js";
import { CLIPTextEncoder } from "../models/clip-text-encoder.js";
import { FluxTransformer } from "../models/flux/transformer.js";
import { T5Encoder } from "../models/t5-encoder.js";
import { AutoencoderKL } from "../models/vae/autoencoder.js";
import type { Model } from "../nn/model.js";
import { Device } from "../runtime/device.js";
import { elementsOf } from "../runtime/dtype.js";
import { fileComponents } from "./file-report.js";
import { alignColumns, formatBytes, formatCount } from "./terminal.js";

export interface ComponentReport {
  readonly name: string;
  readonly class: string;
  /** Weights; 0 for a part without any. */
  readonly parameters: number;
  /** Of the weights. */
  readonly bytes: number;
  /** Parameters by their dtype in the file. */
  readonly dtypes: Readonly<Record<string, number>>;
  readonly files: number;
  readonly problems: readonly string[];
}

export interface ModelReport {
  readonly path: string;
  /** The pipeline's class; undefined for a single file. */
  readonly class?: string;
  readonly parameters: number;
  readonly bytes: number;
  readonly components: readonly ComponentReport[];
  /** Of all components. */
  readonly problems: readonly string[];
}

/** What a component has beside its weights, read and checked; for one with weights the model that they are to fill. */
type ComponentReader = (folder: string, device: Device) => Promise<Model | undefined>;

const READERS: Readonly<Record<ComponentName, ComponentReader>> = {
  transformer: async (folder, device) => new FluxTransformer(device, await readFluxTransformerConfig(folder)),
  vae: async (folder, device) => new AutoencoderKL(device, await readAutoencoderKLConfig(folder)),
  text_encoder: async (folder, device) => new CLIPTextEncoder(device, await readClipTextConfig(folder)),
  text_encoder_2: async (folder, device) => new T5Encoder(device, await readT5Config(folder)),
  tokenizer: async (folder) => void (await loadClipTokenizer(folder)),
  tokenizer_2: async (folder) => void (await loadT5Tokenizer(folder)),
  scheduler: async (folder) => void (await readSchedulerConfig(folder)),
};
const WITH_WEIGHTS: readonly ComponentName[] = ["transformer", "vae", "text_encoder", "text_encoder_2"];

/**
 * Reads configs, vocabularies and the headers of all weights, and compares every tensor with what the configs say. No weight
 * is read.
 *
 * @param path A diffusers folder or a .safetensors file; of a file with none of FLUX.1's parts only the header is checked.
 * @throws FluxError when the path is neither; what is wrong with a part is in its `problems`.
 */
export async function inspectModel(path: string): Promise<ModelReport> {
  const isFile = await stat(path).then(
    (found) => found.isFile(),
    () => false,
  );
  if (isFile) {
    const parts = await fileComponents(path);
    if (parts.length > 0) return total(path, undefined, parts);
    const weights = await componentReport("weights", "safetensors", {
      source: () => WeightSource.open(path),
    });
    return total(path, undefined, [weights]);
  }
  const index = await readModelIndex(path);
  // The models are built on a device, which has nothing to do.
  using device = Device.open("cpu", { threads: 1 });
  const components: ComponentReport[] = [];
  for (const name of Object.keys(READERS) as ComponentName[]) {
    const folder = join(path, name);
    const readers = {
      model: () => READERS[name](folder, device),
      ...(WITH_WEIGHTS.includes(name) && { source: () => WeightSource.open(folder) }),
    };
    components.push(await componentReport(name, index.components[name], readers));
  }
  return total(path, index.pipelineClass, components);
}

async function componentReport(
  name: string,
  className: string,
  readers: { source?: () => Promise<WeightSource>; model?: () => Promise<Model | undefined> },
): Promise<ComponentReport> {
  const problems: string[] = [];
  const attempt = async <T>(action: (() => Promise<T>) | undefined): Promise<T | undefined> => {
    try {
      return await action?.();
    } catch (error) {
      if (!FluxError.is(error)) throw error;
      problems.push(error.message);
      return undefined;
    }
  };
  const model = await attempt(readers.model);
  const source = await attempt(readers.source);
  if (model !== undefined && source !== undefined) {
    problems.push(...model.check(source).map((problem) => `${source.location}: ${problem}`));
  }
  const dtypes: Record<string, number> = {};
  let bytes = 0;
  for (const { dtype, shape, begin, end } of source?.tensors() ?? []) {
    dtypes[dtype] = (dtypes[dtype] ?? 0) + elementsOf(shape);
    bytes += end - begin;
  }
  const parameters = Object.values(dtypes).reduce((sum, count) => sum + count, 0);
  return { name, class: className, parameters, bytes, dtypes, files: source?.files.length ?? 0, problems };
}

function total(
  path: string,
  className: string | undefined,
  components: readonly ComponentReport[],
): ModelReport {
  return {
    path,
    ...(className !== undefined && { class: className }),
    parameters: components.reduce((sum, component) => sum + component.parameters, 0),
    bytes: components.reduce((sum, component) => sum + component.bytes, 0),
    components,
    problems: components.flatMap(({ problems }) => problems),
  };
}

/** A report as a table with its problems below. */
export function formatModelReport(report: ModelReport): string {
  const header = ["component", "class", "parameters", "size", "files", "dtypes"];
  const rows = report.components.map((component) => {
    const { name, parameters, bytes, files } = component;
    if (files === 0) return [name, component.class, "", "", "", ""];
    return [
      name,
      component.class,
      formatCount(parameters),
      formatBytes(bytes),
      String(files),
      dtypesOf(component),
    ];
  });
  const sum = [
    "total",
    report.class ?? "",
    formatCount(report.parameters),
    formatBytes(report.bytes),
    "",
    "",
  ];
  const problems = report.problems.map((problem) => `  ${problem}`).join("\n");
  const verdict = report.problems.length === 0 ? "no problems" : `problems:\n${problems}`;
  return `${report.path}\n${alignColumns([header, ...rows, sum], [2, 3, 4])}\n${verdict}\n`;
}

/** The dtype, or each with its share where there are several. */
function dtypesOf({ dtypes, parameters }: ComponentReport): string {
  const entries = Object.entries(dtypes).sort(([, a], [, b]) => b - a);
  if (entries.length === 1) return entries[0][0];
  return entries.map(([dtype, count]) => `${dtype} ${((100 * count) / parameters).toFixed(1)} %`).join(", ");
}
