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

/** Checks of what a component has beside its weights. */
const CHECKS: Readonly<Record<ComponentName, (folder: string) => Promise<unknown>>> = {
  transformer: readFluxTransformerConfig,
  vae: readAutoencoderKLConfig,
  text_encoder: readClipTextConfig,
  text_encoder_2: readT5Config,
  tokenizer: loadClipTokenizer,
  tokenizer_2: loadT5Tokenizer,
  scheduler: readSchedulerConfig,
};
const WITH_WEIGHTS: readonly ComponentName[] = ["transformer", "vae", "text_encoder", "text_encoder_2"];

/**
 * Reads configs, vocabularies and the headers of all weights.
 *
 * @param path A diffusers folder or a .safetensors file.
 * @throws FluxError when the path is neither; what is wrong with a part is in its `problems`.
 */
export async function inspectModel(path: string): Promise<ModelReport> {
  const isFile = await stat(path).then(
    (found) => found.isFile(),
    () => false,
  );
  if (isFile) {
    return total(path, undefined, [
      await componentReport("weights", "safetensors", () => WeightSource.open(path)),
    ]);
  }
  const index = await readModelIndex(path);
  const components: ComponentReport[] = [];
  for (const name of Object.keys(CHECKS) as ComponentName[]) {
    const folder = join(path, name);
    const open = WITH_WEIGHTS.includes(name) ? () => WeightSource.open(folder) : undefined;
    components.push(await componentReport(name, index.components[name], open, () => CHECKS[name](folder)));
  }
  return total(path, index.pipelineClass, components);
}

async function componentReport(
  name: string,
  className: string,
  openWeights?: () => Promise<WeightSource>,
  check?: () => Promise<unknown>,
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
  await attempt(check);
  const source = await attempt(openWeights);
  const dtypes: Record<string, number> = {};
  let bytes = 0;
  for (const { dtype, shape, begin, end } of source?.tensors() ?? []) {
    dtypes[dtype] = (dtypes[dtype] ?? 0) + shape.reduce((product, size) => product * size, 1);
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
