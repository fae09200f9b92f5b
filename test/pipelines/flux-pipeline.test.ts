// Whole images against diffusers: same embeddings or prompts, same starting noise, final image within 2e-3.

import { rmSync } from "node:fs";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { FluxPipeline } from "../../lib/index.js";
import { devFolder, schnellFolder } from "../support/folders.js";
import {
  type GoldenFile,
  golden,
  goldenIndex,
  hasGolden,
  maxAbsDifference,
  relativeL2,
} from "../support/golden.js";
import { toChannelsLast } from "../support/layout.js";

const IMAGE_TOLERANCE = 2e-3;
const LATENTS_TOLERANCE = 2e-4;

const schnell = schnellFolder();
const pipelines = new Map<string, FluxPipeline>();

beforeAll(async () => {
  pipelines.set("schnell", await FluxPipeline.fromPretrained(schnell, { device: "cpu" }));
  if (hasGolden("tiny-flux/transformer/config.json")) {
    pipelines.set("dev", await FluxPipeline.fromPretrained(devFolder(), { device: "cpu" }));
  }
});

afterAll(() => {
  for (const pipeline of pipelines.values()) pipeline.dispose();
  rmSync(schnell, { recursive: true });
});

interface Params {
  height: number;
  width: number;
  steps: number;
  guidance_scale?: number;
  true_cfg_scale?: number;
  prompt?: string;
  prompts?: string[];
  prompt_2?: string;
  negative_prompt?: string;
  num_images_per_prompt?: number;
  max_sequence_length?: number;
}

/** A golden tensor as the pipeline takes it. */
function hostTensor(file: GoldenFile, name: string) {
  return { data: file.f32(name), shape: file.shape(name) };
}

function optionsOf(file: GoldenFile, params: Params) {
  const embeds = file.has("in.prompt_embeds")
    ? {
        promptEmbeds: hostTensor(file, "in.prompt_embeds"),
        pooledPromptEmbeds: hostTensor(file, "in.pooled_prompt_embeds"),
      }
    : {
        prompt: params.prompts ?? params.prompt!,
        ...(params.prompt_2 !== undefined && { prompt2: params.prompt_2 }),
      };
  const negative = file.has("in.negative_prompt_embeds")
    ? {
        negativePromptEmbeds: hostTensor(file, "in.negative_prompt_embeds"),
        negativePooledPromptEmbeds: hostTensor(file, "in.negative_pooled_prompt_embeds"),
      }
    : params.negative_prompt !== undefined && { negativePrompt: params.negative_prompt };
  return {
    ...embeds,
    ...negative,
    latents: hostTensor(file, "in.latents"),
    height: params.height,
    width: params.width,
    numInferenceSteps: params.steps,
    guidanceScale: params.guidance_scale ?? 3.5,
    trueCfgScale: params.true_cfg_scale ?? 1,
    numImagesPerPrompt: params.num_images_per_prompt ?? 1,
    ...(params.max_sequence_length !== undefined && { maxSequenceLength: params.max_sequence_length }),
  };
}

describe.each([
  ["schnell", "e2e_schnell_4"],
  ["schnell", "e2e_schnell_8"],
  ["dev", "e2e_dev_4"],
  ["dev", "e2e_dev_8"],
  ["dev", "e2e_prompt"],
  ["dev", "e2e_prompt2"],
  ["dev", "e2e_truecfg"],
  ["dev", "e2e_truecfg_prompt"],
])("%s: %s", (model, name) => {
  const path = `cases/${name}.safetensors`;
  const present = hasGolden(path) && (model === "schnell" || hasGolden("tiny-flux/transformer/config.json"));

  it.skipIf(!present)("gives diffusers' image, step by step (reads ../shared/golden)", async () => {
    const file = golden(path);
    const options = optionsOf(file, goldenIndex(path).params as unknown as Params);
    const steps: Float32Array[] = [];
    const { raw } = await pipelines.get(model)!.generate({
      ...options,
      outputType: "raw",
      preview: true,
      onStep: ({ latents }) => steps.push(latents!.data),
    });
    expect(steps).toHaveLength(options.numInferenceSteps);
    const stored = file.names().filter((tensor) => /^latents\.\d+$/.test(tensor));
    expect(stored).toContain(`latents.${steps.length - 1}`);
    for (const tensor of stored) {
      const latents = steps[Number(tensor.split(".")[1])]!;
      expect(relativeL2(latents, file.f32(tensor)), tensor).toBeLessThanOrEqual(LATENTS_TOLERANCE);
    }
    const expectedImage = toChannelsLast({ shape: file.shape("image"), data: file.f32("image") });
    expect(maxAbsDifference(raw!.data, expectedImage.data)).toBeLessThanOrEqual(IMAGE_TOLERANCE);

    const { images } = await pipelines.get(model)!.generate(options);
    const expected = file.raw("image_u8").data as Uint8Array;
    const pixels = images.flatMap((image) => [...image.data]);
    expect(maxAbsDifference(pixels, expected)).toBeLessThanOrEqual(1);
  });
});
