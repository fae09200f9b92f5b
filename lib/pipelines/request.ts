import {
  checkBoolean,
  checkCallback,
  checkOptions,
  checkSignal,
  type OptionNames,
  shown,
} from "../arguments.js";
import { badArgument } from "../errors.js";
import { MAX_PROMPT_LENGTH, MAX_T5_LENGTH } from "../loaders/tokenizers.js";
import { checkChoices, type LoraChoice } from "../lora/choices.js";
import { type LatentSize, latentSize } from "../models/latents.js";
import { checkTileSize } from "../models/vae/tiles.js";
import { checkSeed } from "../runtime/generator.js";
import { type CacheSettings, checkCache } from "./cache.js";
import type { ImageTask } from "./conditioning/task.js";
import type { Variant } from "./conditioning/variant.js";
import { checkTensor, type HostTensor } from "./host-tensor.js";
import type { GenerateOptions } from "./options.js";

/** What a checkpoint says that a request is checked against. */
export interface Capabilities {
  /** The default side of an image in pixels. */
  readonly sampleSize: number;
  readonly variant: Variant;
  /** T5's default number of tokens. */
  readonly sequenceLength: number;
  /** Widths of T5's and of CLIP's pooled embeddings. */
  readonly embedWidth: number;
  readonly pooledWidth: number;
  /** Channels of a packed token. */
  readonly packedChannels: number;
  /** Of the transformer. */
  readonly blocks: number;
}

/** Either texts to encode or embeddings that the caller brought. */
export type Conditions =
  | { readonly texts: readonly { readonly clip: string; readonly t5: string }[] }
  | { readonly embeds: HostTensor; readonly pooled: HostTensor };

/** A checked `generate` call with every default filled in. */
export interface Request {
  readonly positive: Conditions;
  /** Present when true classifier-free guidance is on. */
  readonly negative: Conditions | undefined;
  readonly trueCfgScale: number;
  /** Of one image, in pixels, latents and tokens. */
  readonly size: LatentSize;
  readonly numInferenceSteps: number;
  readonly sigmas: readonly number[] | undefined;
  readonly guidanceScale: number;
  /** Prompts × images per prompt. */
  readonly batch: number;
  readonly numImagesPerPrompt: number;
  readonly seed: number | bigint;
  readonly latents: HostTensor | undefined;
  readonly maxSequenceLength: number;
  readonly cache: CacheSettings | undefined;
  readonly outputType: "image" | "raw" | "latents";
  readonly vaeTileSize: number | undefined;
  /** Adapters for this call alone. */
  readonly loras: readonly LoraChoice[] | undefined;
  /** What the call's pictures are for; undefined without any. */
  readonly task?: ImageTask | undefined;
}

/** 64 megapixels: far beyond what the model draws well, and below where sizes overflow. */
const MAX_PIXELS = 2 ** 26;

/** Of diffusers' pipelines. */
const DEFAULT_STEPS: Readonly<Record<Variant, number>> = {
  dev: 28,
  schnell: 4,
  kontext: 28,
  fill: 50,
  control: 28,
};

/** Every option of `generate`; the compiler keeps it complete. */
const NAMES: OptionNames<GenerateOptions> = {
  prompt: true,
  prompt2: true,
  negativePrompt: true,
  negativePrompt2: true,
  image: true,
  maskImage: true,
  controlImage: true,
  strength: true,
  paddingMaskCrop: true,
  maxArea: true,
  autoResize: true,
  trueCfgScale: true,
  height: true,
  width: true,
  numInferenceSteps: true,
  sigmas: true,
  guidanceScale: true,
  numImagesPerPrompt: true,
  seed: true,
  latents: true,
  maxSequenceLength: true,
  cache: true,
  promptEmbeds: true,
  pooledPromptEmbeds: true,
  negativePromptEmbeds: true,
  negativePooledPromptEmbeds: true,
  outputType: true,
  vaeTileSize: true,
  signal: true,
  onStep: true,
  preview: true,
  loras: true,
};

/**
 * What can be said of a call before anything is read.
 * @throws FluxError `ERR_FLUX_BAD_ARGUMENT` for a name that is none, and for what is no signal, function or switch; the signal's reason.
 */
export function checkCall(options: GenerateOptions): void {
  checkOptions("generate()", options, NAMES);
  for (const side of ["height", "width"] as const) {
    const pixels = options[side];
    if (pixels !== undefined && typeof pixels !== "number")
      throw badArgument(`${side} is a number of pixels, not ${shown(pixels)}`);
  }
  checkCallback("onStep", options.onStep);
  checkBoolean("preview", options.preview);
  checkBoolean("autoResize", options.autoResize);
  checkSignal(options.signal);
}

/** @throws FluxError `ERR_FLUX_BAD_ARGUMENT` with a sentence about the first thing that is wrong. */
export function checkRequest(options: GenerateOptions, can: Capabilities): Request {
  checkCall(options);
  const { height = can.sampleSize, width = can.sampleSize } = options;
  const size = latentSize(height, width);
  if (height * width > MAX_PIXELS) {
    throw badArgument(`${width}×${height} is more than ${MAX_PIXELS} pixels; make a smaller image`);
  }

  const numImagesPerPrompt = wholeNumber("numImagesPerPrompt", options.numImagesPerPrompt ?? 1, 1, 1024);
  const maxSequenceLength = wholeNumber(
    "maxSequenceLength",
    options.maxSequenceLength ?? can.sequenceLength,
    1,
    MAX_T5_LENGTH,
  );
  const positive = conditionsOf(options, can);
  const trueCfgScale = finite("trueCfgScale", options.trueCfgScale ?? 1);
  const prompts = countOf(positive);
  const negative = trueCfgScale > 1 ? negativeOf(options, can, prompts) : undefined;
  const batch = prompts * numImagesPerPrompt;
  if (options.latents !== undefined) {
    checkTensor("latents", options.latents, [batch, size.tokens, can.packedChannels]);
  }
  const outputType = options.outputType ?? "image";
  if (!["image", "raw", "latents"].includes(outputType)) {
    throw badArgument(`outputType is "image", "raw" or "latents", not ${shown(outputType)}`);
  }
  return {
    positive,
    negative,
    trueCfgScale,
    size,
    numInferenceSteps: wholeNumber(
      "numInferenceSteps",
      options.numInferenceSteps ?? DEFAULT_STEPS[can.variant],
      1,
      1000,
    ),
    sigmas: options.sigmas && numbers("sigmas", options.sigmas),
    guidanceScale: finite("guidanceScale", options.guidanceScale ?? (can.variant === "fill" ? 30 : 3.5)),
    batch,
    numImagesPerPrompt,
    seed: checkSeed(options.seed ?? Math.floor(Math.random() * 2 ** 32)),
    latents: options.latents,
    maxSequenceLength,
    cache:
      options.cache === undefined || options.cache === false
        ? undefined
        : checkCache(options.cache, can.blocks),
    outputType,
    vaeTileSize: options.vaeTileSize === undefined ? undefined : checkTileSize(options.vaeTileSize),
    loras: options.loras && checkChoices(options.loras),
  };
}

function conditionsOf(options: GenerateOptions, can: Capabilities): Conditions {
  const { prompt, promptEmbeds: embeds, pooledPromptEmbeds: pooled } = options;
  if (embeds === undefined && pooled === undefined) {
    if (prompt === undefined) throw badArgument("give a prompt, or promptEmbeds with pooledPromptEmbeds");
    return { texts: textsOf("prompt", prompt, options.prompt2) };
  }
  if (prompt !== undefined) throw badArgument("give either a prompt or promptEmbeds, not both");
  return embedsOf("promptEmbeds", "pooledPromptEmbeds", embeds, pooled, can);
}

function negativeOf(options: GenerateOptions, can: Capabilities, prompts: number): Conditions {
  const { negativePrompt, negativePromptEmbeds: embeds, negativePooledPromptEmbeds: pooled } = options;
  let conditions: Conditions;
  if (embeds !== undefined || pooled !== undefined) {
    if (negativePrompt !== undefined)
      throw badArgument("give either a negativePrompt or negativePromptEmbeds, not both");
    conditions = embedsOf("negativePromptEmbeds", "negativePooledPromptEmbeds", embeds, pooled, can);
  } else if (negativePrompt !== undefined) {
    const texts = textsOf("negativePrompt", negativePrompt, options.negativePrompt2);
    conditions = { texts: texts.length === 1 ? new Array(prompts).fill(texts[0]) : texts };
  } else {
    throw badArgument('trueCfgScale above 1 needs a negativePrompt (which may be "")');
  }
  if (countOf(conditions) !== prompts) {
    throw badArgument(
      `there are ${prompts} prompts and ${countOf(conditions)} negative ones; give one, or as many`,
    );
  }
  return conditions;
}

function textsOf(
  name: string,
  first: string | readonly string[],
  second: string | readonly string[] | undefined,
) {
  const clip = stringsOf(name, first);
  const t5 = second === undefined ? clip : stringsOf(`${name}2`, second);
  if (t5.length !== clip.length)
    throw badArgument(`${name} has ${clip.length} texts and ${name}2 has ${t5.length}; give as many`);
  return clip.map((text, index) => ({ clip: text, t5: t5[index]! }));
}

function stringsOf(name: string, value: string | readonly string[]): readonly string[] {
  const texts = typeof value === "string" ? [value] : value;
  if (!Array.isArray(texts) || texts.length === 0 || !texts.every((text) => typeof text === "string")) {
    throw badArgument(`${name} is a string or a non-empty array of strings`);
  }
  const long = texts.find((text) => text.length > MAX_PROMPT_LENGTH);
  if (long !== undefined) {
    throw badArgument(
      `${name} has ${long.length} characters; at most ${MAX_PROMPT_LENGTH} are taken (the encoders read far fewer)`,
    );
  }
  return texts;
}

function embedsOf(
  name: string,
  pooledName: string,
  embeds: HostTensor | undefined,
  pooled: HostTensor | undefined,
  can: Capabilities,
): Conditions {
  if (embeds === undefined || pooled === undefined)
    throw badArgument(`${name} and ${pooledName} go together; give both`);
  checkTensor(name, embeds, [-1, -1, can.embedWidth]);
  checkTensor(pooledName, pooled, [embeds.shape[0]!, can.pooledWidth]);
  return { embeds, pooled };
}

/** Prompts, before `numImagesPerPrompt`. */
export function countOf(conditions: Conditions): number {
  return "texts" in conditions ? conditions.texts.length : conditions.embeds.shape[0]!;
}

function wholeNumber(name: string, value: number, least: number, most: number): number {
  if (Number.isInteger(value) && value >= least && value <= most) return value;
  throw badArgument(`${name} is a whole number from ${least} to ${most}, not ${shown(value)}`);
}

function numbers(name: string, values: readonly number[]): readonly number[] {
  if (Array.isArray(values) && values.length > 0 && values.every(Number.isFinite)) return values;
  throw badArgument(`${name} is a non-empty array of numbers`);
}

function finite(name: string, value: number): number {
  if (Number.isFinite(value)) return value;
  throw badArgument(`${name} is a number, not ${shown(value)}`);
}
