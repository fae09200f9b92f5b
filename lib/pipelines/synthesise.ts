import type { FluxConfig } from "../loaders/pipeline-configs.js";
import { WEIGHT_COMPONENTS } from "../loaders/single-file.js";
import { Device } from "../runtime/device.js";
import { modelsOf } from "./checkpoint.js";
import { type WriteOptions, type WrittenCheckpoint, writeCheckpoint } from "./checkpoint-writer.js";
import { openRandom, type RandomCheckpointOptions } from "./random-checkpoint.js";

/**
 * Writes a checkpoint folder with the weights, in bf16, that `FluxPipeline.fromConfig` makes of the same config and seed.
 * @returns Bytes of weights.
 * @throws FluxError as `writeCheckpoint` does, and `ERR_FLUX_BAD_ARGUMENT` for a config or a seed that is none.
 */
export async function synthesise(
  config: FluxConfig,
  folder: string,
  options: RandomCheckpointOptions & WriteOptions = {},
): Promise<number> {
  const parts = await openRandom(config, options);
  using device = Device.open("cpu");
  const models = modelsOf(parts.configs, device, { transformer: "f32", textEncoders: "f32" });
  const components = {} as Record<keyof typeof models, WrittenCheckpoint["components"]["vae"]>;
  for (const component of WEIGHT_COMPONENTS) {
    const model = models[component];
    components[component] = { model, source: await parts.weights(component, model) };
  }
  const { files: configs } = parts.configs;
  return await writeCheckpoint(
    folder,
    { pipelineClass: "FluxPipeline", configs, tokenizers: parts.tokenizerFolders, components },
    device,
    options,
  );
}
