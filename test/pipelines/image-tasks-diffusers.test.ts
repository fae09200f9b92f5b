// Every task for pictures with the shipped model, from seed to picture, against diffusers' own pipelines:
// training/check_image_tasks.py made test/fixtures/image-tasks.safetensors. The same seed has to mean the same noise, also for the
// VAE's posterior, so that only the order of sums differs.

import { readFileSync, rmSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { afterAll, describe, expect, it } from "vitest";
import { FluxPipeline, type GenerateOptions, type Variant } from "../../lib/index.js";
import { parseHeader, parseHeaderLength } from "../../lib/loaders/safetensors-header.js";
import { GoldenFile, maxAbsDifference, relativeL2 } from "../support/golden.js";
import { TINY, wideCheckpoint } from "../support/wide-checkpoint.js";

const PATH = fileURLToPath(new URL("../fixtures/image-tasks.safetensors", import.meta.url));
const file = new GoldenFile(PATH);

/** Relative L2 of the final latents, after all steps. */
const LATENTS_TOLERANCE = 1e-4;
/** A value on the other side of a rounding boundary is one level away; so near the boundary are few. */
const LEVEL_TOLERANCE = 1;
const ROUNDED_APART_TOLERANCE = 0.01;

interface Case {
  pipeline: string;
  seed: number;
  steps: number;
  channels: number;
  prompt: string | string[];
  height: number;
  width: number;
  num_inference_steps: number;
  guidance_scale: number;
  num_images_per_prompt?: number;
  strength?: number;
  padding_mask_crop?: number;
  max_area?: number;
}

function storedCases(): Record<string, Case> {
  const bytes = readFileSync(PATH);
  const length = parseHeaderLength(bytes, bytes.length, PATH);
  return JSON.parse(parseHeader(bytes.subarray(8, 8 + length), bytes.length, PATH).metadata.get("cases")!);
}

const bytesOf = (name: string) => file.raw(name).data as Uint8Array;
const [height, width] = file.shape("picture") as [number, number];
const picture = { data: bytesOf("picture"), width, height };
const mask = { data: bytesOf("mask"), width, height };
const mirrored = {
  ...picture,
  data: picture.data.map((_, i) => {
    const x = Math.floor(i / 3) % width;
    return picture.data[i + 3 * (width - 1 - 2 * x)]!;
  }),
};

function picturesOf(name: string): GenerateOptions {
  if (name === "img2img_batch") return { image: [picture, mirrored] };
  return {
    ...(name.startsWith("control") && { controlImage: mask }),
    ...(name !== "control" && { image: picture }),
    ...(/inpaint|fill/.test(name) && { maskImage: mask }),
    ...(name === "kontext" && { autoResize: false }),
  };
}

const folders = new Map<number, string>();
afterAll(() => {
  for (const folder of folders.values()) rmSync(folder, { recursive: true });
});

function folderOf(channels: number): string {
  if (channels === 64) return TINY;
  if (!folders.has(channels)) folders.set(channels, wideCheckpoint(channels));
  return folders.get(channels)!;
}

const cases = Object.entries(storedCases());

it("has a case for every task", () => {
  expect(cases.map(([name]) => name)).toEqual([
    "img2img",
    "img2img_batch",
    "inpaint",
    "inpaint_crop",
    "kontext",
    "fill",
    "fill_strength",
    "control",
    "control_img2img",
    "control_inpaint",
  ]);
});

describe.each(cases)("%s", (name, entry) => {
  it(`gives ${entry.pipeline}'s latents and pictures`, async () => {
    const asked = name === "kontext" ? { variant: "kontext" as Variant } : {};
    using pipe = await FluxPipeline.fromPretrained(folderOf(entry.channels), { device: "cpu", ...asked });
    let latents = new Float32Array();
    let steps = 0;
    const { images } = await pipe.generate({
      prompt: entry.prompt,
      height: entry.height,
      width: entry.width,
      numInferenceSteps: entry.num_inference_steps,
      ...(name !== "fill" && { guidanceScale: entry.guidance_scale }), // 30 is Fill's own
      ...(entry.strength !== undefined && { strength: entry.strength }),
      ...(entry.padding_mask_crop !== undefined && { paddingMaskCrop: entry.padding_mask_crop }),
      ...(entry.max_area !== undefined && { maxArea: entry.max_area }),
      numImagesPerPrompt: entry.num_images_per_prompt ?? 1,
      seed: entry.seed,
      ...picturesOf(name),
      preview: true,
      onStep: (event) => {
        latents = Float32Array.from(event.latents!.data);
        steps = event.total;
      },
    });
    expect(steps).toBe(entry.steps);
    expect(relativeL2(latents, file.f32(`latents.${name}`))).toBeLessThanOrEqual(LATENTS_TOLERANCE);
    const expected = bytesOf(`image.${name}`);
    const [count, high, wide] = file.shape(`image.${name}`);
    expect(images).toHaveLength(count!);
    for (const image of images) expect([image.height, image.width]).toEqual([high, wide]);
    const data = images.flatMap((image) => [...image.data]);
    expect(maxAbsDifference(data, expected)).toBeLessThanOrEqual(LEVEL_TOLERANCE);
    const apart = data.filter((value, i) => value !== expected[i]).length;
    expect(apart / data.length).toBeLessThanOrEqual(ROUNDED_APART_TOLERANCE);
  });
});
