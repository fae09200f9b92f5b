import { badArgument } from "../errors.js";
import { type FluxConfig, resolveConfig } from "../loaders/pipeline-configs.js";
import { RandomWeights } from "../loaders/random-weights.js";
import type { CheckpointParts } from "./checkpoint.js";
import {
  findTokenizers,
  loadTokenizers,
  type TokenizerFolders,
  tokenizerFolders,
} from "./tokenizer-folders.js";

/** How a model without a checkpoint is made. */
export interface RandomCheckpointOptions {
  /** Of the weights; 0 by default. */
  seed?: number | bigint;
  /**
   * A folder with `tokenizer/` and `tokenizer_2/`. By default those of the config's folder, and a small vocabulary where it has none: what the
   * tokens mean does not matter to random weights.
   */
  tokenizers?: string;
}

/** A model of the given config with weights that are drawn: the same for the same seed, on every device. */
export async function openRandom(
  config: FluxConfig,
  { seed = 0, tokenizers }: RandomCheckpointOptions,
): Promise<CheckpointParts> {
  if (tokenizers !== undefined && typeof tokenizers !== "string")
    throw badArgument("tokenizers is the path of a folder with tokenizer/ and tokenizer_2/");
  new RandomWeights([], seed); // a wrong seed fails before anything is read
  const configs = await resolveConfig(config);
  const folders: TokenizerFolders =
    tokenizers === undefined ? await findTokenizers(configs.folder) : tokenizerFolders(tokenizers);
  return {
    configs,
    tokenizerFolders: folders,
    tokenizers: await loadTokenizers(folders),
    stored: new Set(),
    weights: async (_, model) => new RandomWeights(model.tensors(), seed),
  };
}
