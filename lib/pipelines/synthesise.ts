import type { FluxConfig } from "../loaders/pipeline-configs.js";
import type { WriteOptions } from "./checkpoint-writer.js";
import { type WrittenPrecisions, writeParts } from "./convert.js";
import { openRandom, type RandomCheckpointOptions } from "./random-checkpoint.js";

/**
 * Writes a checkpoint folder with the weights that `FluxPipeline.fromConfig` makes of the same config and seed; in bf16 by default.
 * @returns Bytes of weights.
 * @throws FluxError as `writeCheckpoint` does, and `ERR_FLUX_BAD_ARGUMENT` for a config or a seed that is none.
 */
export async function synthesise(
  config: FluxConfig,
  folder: string,
  options: RandomCheckpointOptions & WrittenPrecisions & WriteOptions = {},
): Promise<number> {
  return writeParts(await openRandom(config, options), folder, { precision: "bf16", ...options });
}
