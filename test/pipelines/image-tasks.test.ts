// Image-to-image, inpainting and Kontext against diffusers' pipelines: same embeddings, same noise, final image within 2e-3.

import { afterAll, beforeAll, describe, expect, it, vi } from "vitest";
import { FluxPipeline, type GenerateOptions } from "../../lib/index.js";
import { Generator } from "../../lib/runtime/generator.js";
import { devFolder } from "../support/folders.js";
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

const present = hasGolden("cases/e2e_img2img.safetensors") && hasGolden("tiny-flux/transformer/config.json");

interface Params {
  height: number;
  width: number;
  steps: number;
  strength?: number;
  guidance_scale: number;
  steps_run?: number;
}

/** A golden picture [1, C, H, W] in [0, 1], whose values are multiples of 1/255, as raw pixels. */
function rawPixels(file: GoldenFile, name: string) {
  const { shape, data } = toChannelsLast(file.tensor(name));
  const [, height, width, channels] = shape as [number, number, number, 1 | 3];
  return { data: Uint8Array.from(data, (value) => Math.round(value * 255)), width, height, channels };
}

/** What the seed's stream gives next, draw by draw. */
function drawing(...draws: Float32Array[]) {
  const normal = vi.spyOn(Generator.prototype, "normal");
  for (const draw of draws) {
    normal.mockImplementationOnce(async (_, count) => {
      expect(count).toBe(draw.length);
      return draw;
    });
  }
}

async function compare(pipe: FluxPipeline, name: string, pictures: (file: GoldenFile) => GenerateOptions) {
  const path = `cases/${name}.safetensors`;
  const file = golden(path);
  const params = goldenIndex(path).params as unknown as Params;
  const tensor = (key: string) => ({ data: file.f32(key), shape: file.shape(key) });
  const steps: Float32Array[] = [];
  const { raw } = await pipe.generate({
    promptEmbeds: tensor("in.prompt_embeds"),
    pooledPromptEmbeds: tensor("in.pooled_prompt_embeds"),
    height: params.height,
    width: params.width,
    numInferenceSteps: params.steps,
    guidanceScale: params.guidance_scale,
    ...(params.strength !== undefined && { strength: params.strength }),
    ...pictures(file),
    outputType: "raw",
    preview: true,
    onStep: ({ latents }) => steps.push(latents!.data),
  });
  expect(steps).toHaveLength(params.steps_run ?? params.steps);
  for (const [index, latents] of steps.entries()) {
    expect(relativeL2(latents, file.f32(`latents.${index}`)), `latents.${index}`).toBeLessThanOrEqual(
      LATENTS_TOLERANCE,
    );
  }
  const expected = toChannelsLast(file.tensor("image"));
  expect(raw!.shape).toEqual(expected.shape);
  expect(maxAbsDifference(raw!.data, expected.data)).toBeLessThanOrEqual(IMAGE_TOLERANCE);
}

describe.skipIf(!present)("diffusers' images (reads ../shared/golden)", () => {
  let dev: FluxPipeline;
  let kontext: FluxPipeline;
  beforeAll(async () => {
    dev = await FluxPipeline.fromPretrained(devFolder(), { device: "cpu" });
    kontext = await FluxPipeline.fromPretrained(devFolder(), { device: "cpu", variant: "kontext" });
  });
  afterAll(() => {
    vi.restoreAllMocks();
    dev.dispose();
    kontext.dispose();
  });

  it("FluxImg2ImgPipeline", () =>
    compare(dev, "e2e_img2img", (file) => {
      drawing(file.f32("in.posterior_noise"), file.f32("in.noise"));
      return { image: rawPixels(file, "in.image") };
    }));

  it("FluxInpaintPipeline", () =>
    compare(dev, "e2e_inpaint", (file) => {
      drawing(file.f32("in.posterior_noise"), file.f32("in.noise"));
      return { image: rawPixels(file, "in.image"), maskImage: rawPixels(file, "in.mask") };
    }));

  it("FluxKontextPipeline", () =>
    compare(kontext, "e2e_kontext", (file) => ({
      image: rawPixels(file, "in.image"),
      autoResize: false,
      latents: { data: file.f32("in.latents"), shape: file.shape("in.latents") },
    })));
});
