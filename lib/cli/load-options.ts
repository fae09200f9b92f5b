import { stat } from "node:fs/promises";
import { type Command, Option } from "commander";
import { badArgument } from "../errors.js";
import { VARIANTS } from "../pipelines/conditioning/variant.js";
import type { FluxPipeline } from "../pipelines/flux-pipeline.js";
import type { FromPretrainedOptions } from "../pipelines/load-onto.js";
import { wholeNumber } from "./option-values.js";
import type { CommandContext, ProgressLine } from "./terminal.js";

/** Options that say how a checkpoint is loaded. */
export interface LoadFlags extends PartFlags {
  device: NonNullable<FromPretrainedOptions["device"]>;
  precision?: NonNullable<FromPretrainedOptions["precision"]>;
  textEncoderPrecision?: NonNullable<FromPretrainedOptions["textEncoderPrecision"]>;
  attention?: NonNullable<FromPretrainedOptions["attention"]>;
  threads?: number;
  variant?: NonNullable<FromPretrainedOptions["variant"]>;
}

/** What a single file may lack. */
export interface PartFlags {
  config?: string;
  vae?: string;
  clip?: string;
  t5?: string;
  tokenizers?: string;
}

/** The argument that names a checkpoint. */
export const CHECKPOINT = "FLUX.1 checkpoint: a folder in diffusers' layout, or a .safetensors file";

export function addLoadOptions(command: Command): void {
  const precisions = ["f32", "bf16", "fp8"];
  command
    .option("--device <name>", "auto, cpu or cuda:0", "auto")
    .addOption(new Option("--precision <name>", "what the linears compute in").choices(precisions))
    .addOption(
      new Option("--text-encoder-precision <name>", "T5's, where it is to differ").choices(precisions),
    )
    .addOption(
      new Option("--attention <name>", "what attention multiplies in").choices(["bf16", "fp8", "int8"]),
    )
    .option("--threads <number>", "CPU threads (default: all cores)", wholeNumber(1))
    .addOption(variantOption());
  addPartOptions(command);
}

export function variantOption(): Option {
  return new Option("--variant <name>", "what the checkpoint is, where its files do not tell").choices(
    VARIANTS,
  );
}

export function addPartOptions(command: Command): void {
  command
    .option(
      "--config <name>",
      "of a single file: flux1-dev, flux1-schnell, or a folder that has what it lacks",
    )
    .option("--vae <path>", "of a single file: ae.safetensors, or a folder")
    .option("--clip <path>", "of a single file: clip_l.safetensors, or a folder")
    .option("--t5 <path>", "of a single file: t5xxl_fp16.safetensors, or a folder")
    .option("--tokenizers <folder>", "of a single file: a folder with tokenizer/ and tokenizer_2/");
}

/** Loads a checkpoint, with its progress on the terminal. The library is loaded here, so that --help does without it. */
export async function loadPipeline(
  path: string,
  flags: LoadFlags,
  { signal }: CommandContext,
  progress: ProgressLine,
): Promise<FluxPipeline> {
  const { FluxPipeline } = await import("../pipelines/flux-pipeline.js");
  const { device, precision, textEncoderPrecision, attention, threads, variant } = flags;
  const options: FromPretrainedOptions = {
    device,
    precision,
    textEncoderPrecision,
    attention,
    threads,
    variant,
    signal,
    onProgress: ({ component, loadedBytes, totalBytes }) => {
      progress.show(`loading ${component}`, loadedBytes / totalBytes);
    },
  };
  const parts = await partsOf(path, flags);
  return parts === undefined
    ? FluxPipeline.fromPretrained(path, options)
    : FluxPipeline.fromSingleFile(path, { ...options, ...parts });
}

/** What goes with a single file; undefined for anything else. @throws FluxError `ERR_FLUX_BAD_ARGUMENT` for options that do not fit. */
export async function partsOf(path: string, flags: PartFlags): Promise<PartFlags | undefined> {
  const { config, vae, clip, t5, tokenizers } = flags;
  const parts = { config, vae, clip, t5, tokenizers };
  const isFile = (await stat(path).catch(() => undefined))?.isFile() === true;
  if (isFile) return parts;
  const given = Object.entries(parts).find(([, value]) => value !== undefined);
  if (given !== undefined) throw badArgument(`--${given[0]} is for single files, and ${path} is none`);
  return undefined;
}
