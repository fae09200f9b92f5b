import { stat } from "node:fs/promises";
import type { Command } from "commander";
import { FluxError } from "../errors.js";
import type { LoraChoice } from "../lora/choices.js";
import type { FluxPipeline } from "../pipelines/flux-pipeline.js";
import { type LoraFlag, loraFlag } from "./option-values.js";

export interface LoraFlags {
  lora?: readonly LoraFlag[];
}

export function addLoraOptions(command: Command): void {
  command.option(
    "--lora <file[:weight]>",
    "a LoRA adapter and its weight (default: 1); may be given several times",
    loraFlag,
  );
}

/** Before the model is loaded, not after it. */
export async function requireLoras({ lora = [] }: LoraFlags): Promise<void> {
  for (const { path } of lora) {
    await stat(path).catch((cause) => {
      throw new FluxError("ERR_FLUX_BAD_WEIGHTS", `${path} is not there. Check the path of the adapter.`, {
        cause,
      });
    });
  }
}

/** Loads the adapters, and gives what `generate` is to be told of them. */
export async function loadLoras(
  pipeline: FluxPipeline,
  { lora = [] }: LoraFlags,
): Promise<{ loras?: LoraChoice[] }> {
  if (lora.length === 0) return {};
  const loras: LoraChoice[] = [];
  for (const { path, weight } of lora) {
    const { name } = await pipeline.loadLoraWeights(path);
    loras.push({ name, weight });
  }
  return { loras };
}
