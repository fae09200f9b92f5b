import { MAX_T5_LENGTH } from "../loaders/tokenizers.js";
import { SIZE_MULTIPLE } from "../models/latents.js";
import type { Checkpoint } from "./checkpoint.js";
import { checkTask, hasPictures, imageTask, outputSize, readPictures } from "./conditioning/task.js";
import type { GenerateOptions } from "./options.js";
import { type Capabilities, checkRequest, countOf, type Request } from "./request.js";

/** What requests to a checkpoint may ask for. */
export function capabilitiesOf({ transformer, variant, vaeConfig, t5 }: Checkpoint): Capabilities {
  const { jointAttentionDim, pooledProjectionDim, outChannels } = transformer.config;
  return {
    sampleSize: Math.max(1, Math.floor(vaeConfig.sampleSize / SIZE_MULTIPLE)) * SIZE_MULTIPLE,
    variant,
    sequenceLength: Math.min(MAX_T5_LENGTH, t5.tokenizer.modelMaxLength),
    embedWidth: jointAttentionDim,
    pooledWidth: pooledProjectionDim,
    packedChannels: outChannels,
    blocks: transformer.blockCount,
  };
}

/** A call, checked, with its pictures as they will be encoded. */
export async function readRequest(options: GenerateOptions, can: Capabilities): Promise<Request> {
  checkTask(options, can.variant);
  const pictures = hasPictures(options) ? await readPictures(options) : undefined;
  const request = checkRequest({ ...options, ...outputSize(options, can, pictures) }, can);
  if (pictures === undefined) return request;
  const prompts = countOf(request.positive);
  return { ...request, task: await imageTask(options, can, pictures, request.size, prompts) };
}

/** With empty texts where neither texts nor embeddings are given: the ops of a step do not depend on them. */
export function withTexts(options: GenerateOptions): GenerateOptions {
  const { prompt, promptEmbeds, negativePrompt, negativePromptEmbeds } = options;
  return {
    ...options,
    ...(prompt === undefined && promptEmbeds === undefined && { prompt: "" }),
    ...(negativePrompt === undefined && negativePromptEmbeds === undefined && { negativePrompt: "" }),
  };
}
