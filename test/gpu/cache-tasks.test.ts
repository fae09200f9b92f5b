// The first-block cache in everything that a pipeline does, on the GPU in bf16, against the CPU in f32: with adapters, in batches, with
// previews, true guidance and pictures. Every second step is skipped whatever the differences are, so that both take the same way.

import assert from "node:assert/strict";
import { after, test } from "node:test";
import { type CacheOptions, FluxPipeline, type GenerateOptions, type Variant } from "../../dist/index.js";
import type { Device } from "../../dist/runtime/device.js";
import { cpu, gpu, relativeL2 } from "./both.js";
import { goldenPath, needs } from "./golden.js";

const STEPS = 8;
const HALF: CacheOptions = { threshold: Infinity, maxConsecutiveHits: 1 };
const REQUEST = { prompt: "a red circle", seed: 5, height: 128, width: 128, numInferenceSteps: STEPS };
const picture = {
  width: 128,
  height: 96,
  data: Uint8Array.from({ length: 3 * 128 * 96 }, (_, i) => (i * 37) % 256),
};
const mask = { width: 128, height: 96, data: new Uint8Array(128 * 96).fill(255, 128 * 40) };
/** By how much latents may be off where bf16 alone costs `plain`: a step that is skipped repeats what another one erred. */
const allowedOf = (plain: number) => 3 * plain + 1e-2;
/** By how much a difference may be off: as in cache.test.ts, and what rounding adds to small ones. */
const allowedDifference = (difference: number) => 0.06 * difference + 0.003;

/** Pipelines by device and variant, each loaded once. */
const loaded = new Map<string, Promise<FluxPipeline>>();
function pipeline(device: Device, variant: Variant): Promise<FluxPipeline> {
  const key = `${device.kind} ${variant}`;
  const known = loaded.get(key) ?? load(device, variant);
  loaded.set(key, known);
  return known;
}
async function load(device: Device, variant: Variant): Promise<FluxPipeline> {
  if (variant === "fill" || variant === "control") {
    const transformer = { in_channels: variant === "fill" ? 384 : 128, out_channels: 64 };
    const config = { base: goldenPath("configs/tiny-flux"), transformer };
    return FluxPipeline.fromConfig(config, { weights: "random", seed: 1, device });
  }
  const pipe = await FluxPipeline.fromPretrained("models/tiny", { device, variant });
  if (variant === "dev") {
    for (const name of ["night", "outline"])
      await pipe.loadLoraWeights(`models/tiny-loras/${name}.safetensors`, { adapterName: name });
  }
  return pipe;
}
after(async () => {
  for (const pipe of loaded.values()) (await pipe).dispose();
});

/** What is drawn, and the latents after every step. */
async function draw(pipe: FluxPipeline, options: GenerateOptions) {
  const previews: Float32Array[] = [];
  const { latents, cache } = await pipe.generate({
    ...{ ...REQUEST, loras: [], outputType: "latents", preview: true },
    onStep: (event) => previews.push(Float32Array.from(event.latents!.data)),
    ...options,
  });
  return { latents: latents!.data, cache, previews };
}

const CASES: [name: string, variant: Variant, options: GenerateOptions][] = [
  ["an adapter in its slots", "dev", { loras: [{ name: "night", weight: 0.7 }] }],
  ["two adapters", "dev", { loras: [{ name: "night", weight: 0.5 }, { name: "outline" }] }],
  [
    "a batch of two prompts, two images each",
    "dev",
    { prompt: ["a red circle", "a blue star"], numImagesPerPrompt: 2 },
  ],
  [
    "a batch with an adapter and true guidance",
    "dev",
    {
      prompt: ["a red circle", "a blue star"],
      negativePrompt: "a square",
      trueCfgScale: 2,
      loras: [{ name: "night" }],
    },
  ],
  ["image to image", "dev", { image: picture, height: 96, strength: 0.75 }],
  ["inpainting", "dev", { image: picture, maskImage: mask, height: 96, strength: 1 }],
  ["Kontext with a reference", "kontext", { image: picture, maxArea: 128 * 128, autoResize: false }],
  ["Fill", "fill", { image: picture, maskImage: mask, height: 96, maxSequenceLength: 32 }],
  ["a control image", "control", { controlImage: picture, height: 96, maxSequenceLength: 32 }],
];

for (const [name, variant, options] of CASES) {
  const isMadeUp = variant === "fill" || variant === "control";
  const skip = isMadeUp && needs("tiny-flux/model_index.json", "configs/tiny-flux/model_index.json");

  test(`${name}: steps that are skipped give the CPU's latents after each step`, { skip }, async () => {
    const both = async (asked: GenerateOptions) => {
      const expected = await draw(await pipeline(cpu, variant), asked);
      const actual = await draw(await pipeline(gpu, variant), asked);
      assert.equal(actual.previews.length, expected.previews.length);
      const errors = actual.previews.map((latents, step) => relativeL2(latents, expected.previews[step]!));
      return { expected, actual, errors };
    };
    const plain = await both(options);
    const { expected, actual, errors } = await both({ ...options, cache: HALF });
    const shown = ({ errors }: { errors: number[] }) =>
      errors.map((error) => error.toExponential(1)).join(" ");
    console.log(`${name}: latents ${shown({ errors })}; without a cache ${shown(plain)}`);
    const branches = [
      [actual.cache!, expected.cache!],
      ...(actual.cache!.negative ? [[actual.cache!.negative, expected.cache!.negative!]] : []),
    ] as const;
    for (const [ours, theirs] of branches) {
      for (const [step, { computed, difference }] of ours!.steps.entries()) {
        assert.equal(computed, step % 2 === 0, `step ${step}`);
        const other = theirs!.steps[step]!;
        assert.equal(other.computed, computed);
        assert.equal(difference === undefined, other.difference === undefined, `difference of step ${step}`);
        if (difference === undefined) continue;
        const off = Math.abs(difference - other.difference!);
        assert.ok(
          off <= allowedDifference(other.difference!),
          `${difference} for ${other.difference} at step ${step}`,
        );
      }
    }
    for (const [step, error] of errors.entries()) {
      assert.ok(error <= allowedOf(plain.errors[step]!), `latents ${error} after step ${step}`);
      assert.ok(plain.errors[step]! <= 5e-2, `latents without a cache ${plain.errors[step]}`);
    }
    assert.deepEqual(actual.previews.at(-1), Float32Array.from(actual.latents), "the last preview");
  });

  test(`${name}: a cache that never hits and previews change no bit`, { skip }, async () => {
    const pipe = await pipeline(gpu, variant);
    const plain = await draw(pipe, options);
    const never = await draw(pipe, { ...options, cache: { threshold: 0 } });
    assert.equal(never.cache!.skippedSteps, 0);
    assert.deepEqual(never.latents, plain.latents);
    const half = await draw(pipe, { ...options, cache: HALF });
    assert.ok(half.cache!.skippedSteps > 0);
    assert.notDeepEqual(half.latents, plain.latents);
    const { latents } = await pipe.generate({
      ...REQUEST,
      loras: [],
      outputType: "latents",
      ...options,
      cache: HALF,
    });
    assert.deepEqual(latents!.data, half.latents);
  });
}
