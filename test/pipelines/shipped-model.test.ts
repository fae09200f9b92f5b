// The model that ships with the package, from prompt and seed to picture, against diffusers' FluxPipeline on the same folder:
// training/check_diffusers.py made test/fixtures/tiny-diffusers.safetensors. Both sides widen the stored bf16 weights and compute
// in float32, so that only the order of sums differs.

import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { FluxPipeline } from "../../lib/index.js";
import { parseHeader, parseHeaderLength } from "../../lib/loaders/safetensors-header.js";
import { loadClipTokenizer, loadT5Tokenizer } from "../../lib/loaders/tokenizers.js";
import { latentSize } from "../../lib/models/latents.js";
import { Generator } from "../../lib/runtime/generator.js";
import { bufferOf, compute, cpuDevice } from "../support/device.js";
import { GoldenFile, maxAbsDifference, relativeL2 } from "../support/golden.js";

const FOLDER = fileURLToPath(new URL("../../models/tiny", import.meta.url));
const PATH = fileURLToPath(new URL("../fixtures/tiny-diffusers.safetensors", import.meta.url));
const file = new GoldenFile(PATH);

/** What torch's and our float32 noise may differ by: a few ulps of log, sin and cos. */
const NOISE_TOLERANCE = 1e-6;
/** Relative L2 of the final latents, after all steps. */
const LATENTS_TOLERANCE = 1e-4;
/** Of pixels in [0, 1]: a twentieth of one of 255 levels. */
const PIXEL_TOLERANCE = 2e-4;
/** A value on the other side of a rounding boundary is one level away; so near the boundary are few. */
const LEVEL_TOLERANCE = 1;
const ROUNDED_APART_TOLERANCE = 0.01;

interface Case {
  index: number;
  prompt: string;
  seed: number;
  height: number;
  width: number;
  steps: number;
  guidance: number;
  /** Of T5's tokens, where the script asked for another one than the tokenizer's own. */
  length?: number;
}

function storedCases(): Case[] {
  const bytes = readFileSync(PATH);
  const headerBytes = parseHeaderLength(bytes, bytes.length, PATH);
  const { metadata } = parseHeader(bytes.subarray(8, 8 + headerBytes), bytes.length, PATH);
  const cases = JSON.parse(metadata.get("cases")!) as Omit<Case, "index">[];
  return cases.map((entry, index) => ({ ...entry, index }));
}

/** [H, W, 3] as [3, H, W]. */
function channelsFirst(pixels: Float32Array): Float32Array {
  const plane = pixels.length / 3;
  return pixels.map((_, i) => pixels[(i % plane) * 3 + Math.floor(i / plane)]!);
}

const cases = storedCases();
let pipe: FluxPipeline;
beforeAll(async () => {
  pipe = await FluxPipeline.fromPretrained(FOLDER, { device: "cpu" });
});
afterAll(() => pipe.dispose());

it("is compared for several prompts, seeds, sizes, numbers of steps, guidances and lengths", () => {
  expect(cases).toHaveLength(4);
  for (const key of ["prompt", "seed", "height", "width", "steps", "guidance", "length"] as const) {
    expect(new Set(cases.map((entry) => entry[key])).size, key).toBeGreaterThan(1);
  }
});

describe.each(cases)("$prompt, seed $seed, $width×$height, $steps steps", (entry) => {
  const { index, prompt, seed, height, width, steps, guidance, length } = entry;

  it("has transformers' token ids", async () => {
    const clip = await loadClipTokenizer(`${FOLDER}/tokenizer`);
    const t5 = await loadT5Tokenizer(`${FOLDER}/tokenizer_2`);
    expect([...clip.encode(prompt).ids]).toEqual([...(file.raw(`clip_ids.${index}`).data as Int32Array)]);
    const { ids } = t5.encode(prompt, length === undefined ? {} : { maxLength: length });
    expect([...ids]).toEqual([...(file.raw(`t5_ids.${index}`).data as Int32Array)]);
  });

  it("starts from diffusers' noise, packed", async () => {
    const device = cpuDevice();
    const { latentHeight, latentWidth } = latentSize(height, width);
    const shape = [1, 16, latentHeight, latentWidth];
    const values = await new Generator(seed).normal(device, 16 * latentHeight * latentWidth);
    const noise = bufferOf(device, "f32", shape, values);
    const { packed } = await compute(device, (g) => ({
      packed: g.packLatents(noise, { channelsFirst: true }),
    }));
    expect(maxAbsDifference(packed, file.f32(`noise.${index}`))).toBeLessThanOrEqual(NOISE_TOLERANCE);
  });

  it("ends with diffusers' latents and picture", async () => {
    const isRaw = file.has(`image_f32.${index}`);
    let latents = new Float32Array();
    const { images, raw } = await pipe.generate({
      prompt,
      seed,
      height,
      width,
      numInferenceSteps: steps,
      guidanceScale: guidance,
      ...(length !== undefined && { maxSequenceLength: length }),
      outputType: isRaw ? "raw" : "image",
      preview: true,
      onStep: (event) => {
        latents = Float32Array.from(event.latents!.data);
      },
    });
    expect(relativeL2(latents, file.f32(`latents.${index}`))).toBeLessThanOrEqual(LATENTS_TOLERANCE);
    if (isRaw) {
      const expected = file.f32(`image_f32.${index}`);
      expect(maxAbsDifference(channelsFirst(raw!.data), expected)).toBeLessThanOrEqual(PIXEL_TOLERANCE);
    } else {
      const expected = file.raw(`image.${index}`).data as Uint8Array;
      expect(images).toHaveLength(1);
      const { data } = images[0]!;
      expect(maxAbsDifference(data, expected)).toBeLessThanOrEqual(LEVEL_TOLERANCE);
      const apart = data.filter((value, i) => value !== expected[i]).length;
      expect(apart / data.length).toBeLessThanOrEqual(ROUNDED_APART_TOLERANCE);
    }
  });
});
