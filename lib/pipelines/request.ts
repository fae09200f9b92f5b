import { FluxError } from "../errors.js";
import { checkTensor, type HostTensor } from "./host-tensor.js";
import type { GenerateOptions } from "./options.js";

/** What a checkpoint says that a request is checked against. */
export interface Capabilities {
  /** The default side of an image in pixels. */
  readonly sampleSize: number;
  readonly guidanceEmbeds: boolean;
  /** T5's default number of tokens. */
  readonly sequenceLength: number;
  /** Widths of T5's and of CLIP's pooled embeddings. */
  readonly embedWidth: number;
  readonly pooledWidth: number;
  /** Channels of a packed token. */
  readonly packedChannels: number;
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
  readonly height: number;
  readonly width: number;
  /** Packed latent tokens of one image. */
  readonly tokens: number;
  readonly numInferenceSteps: number;
  readonly sigmas: readonly number[] | undefined;
  readonly guidanceScale: number;
  /** Prompts × images per prompt. */
  readonly batch: number;
  readonly numImagesPerPrompt: number;
  readonly seed: number | bigint;
  readonly latents: HostTensor | undefined;
  readonly maxSequenceLength: number;
  readonly outputType: "image" | "raw" | "latents";
}

/** Longer prompts are surely a mistake: both encoders together read at most a few hundred words. */
const MAX_PROMPT_CHARACTERS = 100_000;
const MAX_SEQUENCE_LENGTH = 512;
/** 64 megapixels: far beyond what the model draws well, and below where sizes overflow. */
const MAX_PIXELS = 2 ** 26;

/** @throws FluxError `ERR_FLUX_BAD_ARGUMENT` with a sentence about the first thing that is wrong. */
export function checkRequest(options: GenerateOptions, can: Capabilities): Request {
  if (options === null || typeof options !== "object")
    throw bad('generate() takes one object, such as { prompt: "a cat" }');
  const side = (name: "height" | "width") => {
    const pixels = wholeNumber(name, options[name] ?? can.sampleSize, 16, MAX_PIXELS);
    if (pixels % 16 === 0) return pixels;
    const down = Math.max(16, pixels - (pixels % 16));
    throw bad(
      `${name} must be a multiple of 16, not ${pixels}; use ${down} or ${pixels - (pixels % 16) + 16}`,
    );
  };
  const height = side("height");
  const width = side("width");
  if (height * width > MAX_PIXELS)
    throw bad(`${width}×${height} is more than ${MAX_PIXELS} pixels; make a smaller image`);

  const numImagesPerPrompt = wholeNumber("numImagesPerPrompt", options.numImagesPerPrompt ?? 1, 1, 1024);
  const maxSequenceLength = wholeNumber(
    "maxSequenceLength",
    options.maxSequenceLength ?? can.sequenceLength,
    1,
    MAX_SEQUENCE_LENGTH,
  );
  const positive = conditionsOf(options, can);
  const trueCfgScale = finite("trueCfgScale", options.trueCfgScale ?? 1);
  const prompts = countOf(positive);
  const negative = trueCfgScale > 1 ? negativeOf(options, can, prompts) : undefined;
  const batch = prompts * numImagesPerPrompt;
  const tokens = (height / 16) * (width / 16);
  if (options.latents !== undefined)
    checkTensor("latents", options.latents, [batch, tokens, can.packedChannels]);
  const outputType = options.outputType ?? "image";
  if (!["image", "raw", "latents"].includes(outputType)) {
    throw bad(`outputType is "image", "raw" or "latents", not "${outputType}"`);
  }
  const defaultSteps = can.guidanceEmbeds ? 28 : 4;
  return {
    positive,
    negative,
    trueCfgScale,
    height,
    width,
    tokens,
    numInferenceSteps: wholeNumber("numInferenceSteps", options.numInferenceSteps ?? defaultSteps, 1, 1000),
    sigmas: options.sigmas,
    guidanceScale: finite("guidanceScale", options.guidanceScale ?? 3.5),
    batch,
    numImagesPerPrompt,
    seed: options.seed ?? Math.floor(Math.random() * 2 ** 32),
    latents: options.latents,
    maxSequenceLength,
    outputType,
  };
}

function conditionsOf(options: GenerateOptions, can: Capabilities): Conditions {
  const { prompt, promptEmbeds: embeds, pooledPromptEmbeds: pooled } = options;
  if (embeds === undefined && pooled === undefined) {
    if (prompt === undefined) throw bad("give a prompt, or promptEmbeds with pooledPromptEmbeds");
    return { texts: textsOf("prompt", prompt, options.prompt2) };
  }
  if (prompt !== undefined) throw bad("give either a prompt or promptEmbeds, not both");
  return embedsOf("promptEmbeds", "pooledPromptEmbeds", embeds, pooled, can);
}

function negativeOf(options: GenerateOptions, can: Capabilities, prompts: number): Conditions {
  const { negativePrompt, negativePromptEmbeds: embeds, negativePooledPromptEmbeds: pooled } = options;
  let conditions: Conditions;
  if (embeds !== undefined || pooled !== undefined) {
    if (negativePrompt !== undefined)
      throw bad("give either a negativePrompt or negativePromptEmbeds, not both");
    conditions = embedsOf("negativePromptEmbeds", "negativePooledPromptEmbeds", embeds, pooled, can);
  } else if (negativePrompt !== undefined) {
    const texts = textsOf("negativePrompt", negativePrompt, options.negativePrompt2);
    conditions = { texts: texts.length === 1 ? new Array(prompts).fill(texts[0]) : texts };
  } else {
    throw bad('trueCfgScale above 1 needs a negativePrompt (which may be "")');
  }
  if (countOf(conditions) !== prompts) {
    throw bad(`there are ${prompts} prompts and ${countOf(conditions)} negative ones; give one, or as many`);
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
    throw bad(`${name} has ${clip.length} texts and ${name}2 has ${t5.length}; give as many`);
  return clip.map((text, index) => ({ clip: text, t5: t5[index]! }));
}

function stringsOf(name: string, value: string | readonly string[]): readonly string[] {
  const texts = typeof value === "string" ? [value] : value;
  if (!Array.isArray(texts) || texts.length === 0 || !texts.every((text) => typeof text === "string")) {
    throw bad(`${name} is a string or a non-empty array of strings`);
  }
  const long = texts.find((text) => text.length > MAX_PROMPT_CHARACTERS);
  if (long !== undefined) {
    throw bad(
      `${name} has ${long.length} characters; at most ${MAX_PROMPT_CHARACTERS} are taken (the encoders read far fewer)`,
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
    throw bad(`${name} and ${pooledName} go together; give both`);
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
  throw bad(`${name} is a whole number from ${least} to ${most}, not ${value}`);
}

function finite(name: string, value: number): number {
  if (Number.isFinite(value)) return value;
  throw bad(`${name} is a number, not ${value}`);
}

function bad(message: string): FluxError {
  return new FluxError("ERR_FLUX_BAD_ARGUMENT", message);
}
