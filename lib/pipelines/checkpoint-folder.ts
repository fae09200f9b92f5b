import { stat } from "node:fs/promises";
import { join } from "node:path";
import { badArgument, FluxError } from "../errors.js";
import { readModelIndex } from "../loaders/config.js";
import { readPipelineConfigs } from "../loaders/pipeline-configs.js";
import { loadClipTokenizer, loadT5Tokenizer } from "../loaders/tokenizers.js";
import { WeightSource } from "../loaders/weights.js";
import type { CheckpointParts } from "./checkpoint.js";

/**
 * Opens a folder in diffusers' layout: configs and tokenizers first, so that a wrong folder fails before any weight is read.
 * @throws FluxError `ERR_FLUX_BAD_WEIGHTS` or `ERR_FLUX_UNSUPPORTED`, naming the file and what is wrong with it.
 */
export async function openFolder(folder: string): Promise<CheckpointParts> {
  await requireFolder(folder);
  const { pipelineClass: name } = await readModelIndex(folder);
  const configs = await readPipelineConfigs(folder);
  const [clip, t5] = await Promise.all([
    loadClipTokenizer(join(folder, "tokenizer")),
    loadT5Tokenizer(join(folder, "tokenizer_2")),
  ]);
  return {
    name,
    configs,
    tokenizers: { clip, t5 },
    weights: (component) => WeightSource.open(join(folder, component)),
  };
}

async function requireFolder(folder: string): Promise<void> {
  if (typeof folder !== "string" || folder === "") {
    throw badArgument("fromPretrained() takes the path of a checkpoint folder");
  }
  const found = await stat(folder).catch(() => undefined);
  if (found?.isDirectory()) return;
  throw new FluxError(
    "ERR_FLUX_BAD_WEIGHTS",
    `${folder} is not a folder. Give the path of a FLUX.1 checkpoint in diffusers' layout (the folder that holds model_index.json); ` +
      "nothing is downloaded.",
  );
}
