import { stat } from "node:fs/promises";
import { join } from "node:path";
import { badArgument, FluxError } from "../errors.js";
import { readModelIndex } from "../loaders/config.js";
import { configPath, readPipelineConfigs } from "../loaders/pipeline-configs.js";
import { checkQuantisation } from "../loaders/quantisation.js";
import { findComponents, fp8Of, WEIGHT_COMPONENTS, type WeightComponent } from "../loaders/single-file.js";
import type { TensorSource } from "../loaders/tensor-source.js";
import type { CheckpointParts } from "./checkpoint.js";
import { loadTokenizers, tokenizerFolders } from "./tokenizer-folders.js";

/**
 * Opens a folder in diffusers' layout: configs and tokenizers first, so that a wrong folder fails before any weight is read.
 * @throws FluxError `ERR_FLUX_BAD_WEIGHTS` or `ERR_FLUX_UNSUPPORTED`, naming the file and what is wrong with it.
 */
export async function openFolder(folder: string): Promise<CheckpointParts> {
  await requireFolder(folder);
  const { pipelineClass: name } = await readModelIndex(folder);
  const configs = await readPipelineConfigs(folder);
  const folders = tokenizerFolders(folder);
  const tokenizers = await loadTokenizers(folders);
  const sources = {} as Record<WeightComponent, TensorSource>;
  for (const component of WEIGHT_COMPONENTS) {
    const { source, found } = await findComponents(join(folder, component));
    checkQuantisation(configs.files[component], configPath(folder, component), source);
    // Names that nobody knows are seen as they are, and missed one by one when the model loads.
    sources[component] = found[component] ?? source;
  }
  return {
    name,
    configs,
    tokenizers,
    tokenizerFolders: folders,
    stored: fp8Of(sources),
    weights: async (component) => sources[component],
  };
}

async function requireFolder(folder: string): Promise<void> {
  if (typeof folder !== "string" || folder === "") {
    throw badArgument("fromPretrained() takes the path of a checkpoint folder");
  }
  const found = await stat(folder).catch(() => undefined);
  if (found?.isDirectory()) return;
  if (found?.isFile()) throw badArgument(`${folder} is a file; FluxPipeline.fromSingleFile() loads files`);
  throw new FluxError(
    "ERR_FLUX_BAD_WEIGHTS",
    `${folder} is not a folder. Give the path of a FLUX.1 checkpoint in diffusers' layout (the folder that holds model_index.json); ` +
      "nothing is downloaded.",
  );
}
