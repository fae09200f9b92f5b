/** Draws an evaluation's prompts with one setting. */
import { type CacheReport, type FluxImage, FluxPipeline, type FromPretrainedOptions } from "fluxwarp";
import { cacheOptions } from "./cache.js";
import type { Prompt } from "./prompts.js";
import { type EvalOptions, nameOf, type Setting } from "./settings.js";

export interface Drawn {
  images: FluxImage[];
  /** Milliseconds of every picture. */
  times: number[];
  /** What the cache did to each; empty without one. */
  reports: CacheReport[];
  /** The device that "auto" chose. */
  device: string;
}

/** One picture after another, so that times are of single pictures; progress goes to stderr. */
export async function drawAll(
  prompts: readonly Prompt[],
  setting: Setting,
  { width, height }: Pick<EvalOptions, "width" | "height">,
): Promise<Drawn> {
  const pipe = await FluxPipeline.fromPretrained(setting.model, {
    device: setting.device as FromPretrainedOptions["device"],
    precision: setting.precision as FromPretrainedOptions["precision"],
  });
  try {
    for (const file of setting.lora) await pipe.loadLoraWeights(file);
    await pipe.setAdapters(pipe.listAdapters().map(({ name }) => name));
    const images: FluxImage[] = [];
    const times: number[] = [];
    const reports: CacheReport[] = [];
    const cache = cacheOptions(setting.cache);
    if (cache !== undefined) pipe.enableCache(cache);
    for (const prompt of prompts) {
      const begin = performance.now();
      const result = await pipe.generate({
        prompt: prompt.caption,
        seed: prompt.seed,
        numInferenceSteps: setting.steps,
        guidanceScale: setting.guidance,
        width,
        height,
      });
      times.push(performance.now() - begin);
      images.push(result.images[0]!);
      if (result.cache !== undefined) reports.push(result.cache);
      if (process.stderr.isTTY)
        process.stderr.write(`\r${nameOf(setting)}: ${images.length}/${prompts.length}`);
    }
    if (process.stderr.isTTY) process.stderr.write("\n");
    return { images, times, reports, device: pipe.device.name };
  } finally {
    pipe.dispose();
  }
}
