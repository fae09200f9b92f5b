// Caching as a user meets it: options, when it is on, what the result says. Values are tested in cache-golden.test.ts and in
// models/first-block-cache.test.ts.

import { rmSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import {
  type CacheOptions,
  Device,
  FluxPipeline,
  type GenerateOptions,
  type HostTensor,
  type Variant,
} from "../../lib/index.js";
import { schnellFolder } from "../support/folders.js";
import { TINY, wideCheckpoint } from "../support/wide-checkpoint.js";

const folder = schnellFolder();
const STEPS = 6;
const SMALL = { height: 64, width: 64, numInferenceSteps: STEPS, maxSequenceLength: 32 } as const;
/** Skips every second step, whatever the differences are. */
const HALF: CacheOptions = { type: "firstBlock", threshold: Infinity, maxConsecutiveHits: 1 };
const ALTERNATING = [true, false, true, false, true, false];
let pipe: FluxPipeline;

beforeAll(async () => {
  pipe = await FluxPipeline.fromPretrained(folder, { device: "cpu" });
});
afterAll(() => {
  pipe.dispose();
  rmSync(folder, { recursive: true });
});

async function draw(options: GenerateOptions = {}) {
  const { latents, cache } = await pipe.generate({
    prompt: "a cat",
    seed: 3,
    ...SMALL,
    outputType: "latents",
    ...options,
  });
  return { bytes: Buffer.from(latents!.data.buffer), cache };
}
const computed = (cache: { steps: { computed: boolean }[] } | undefined) =>
  cache?.steps.map((step) => step.computed);

describe("a wrong option is refused with a sentence", () => {
  it.each<[string, unknown, RegExp]>([
    ["another type", { type: "teaCache" }, /type is "firstBlock", not "teaCache"/],
    ["a name of nothing", { treshold: 0.1 }, /the cache has no option "treshold"; did you mean threshold\?/],
    ["a negative threshold", { threshold: -0.1 }, /threshold is a number of at least 0, not -0\.1/],
    ["NaN", { threshold: Number.NaN }, /threshold is a number/],
    ["a threshold as text", { threshold: "0.1" }, /threshold is a number/],
    ["half a step", { warmupSteps: 0.5 }, /warmupSteps is a whole number of at least 0, not 0\.5/],
    ["negative hits", { maxConsecutiveHits: -1 }, /maxConsecutiveHits is a whole number of at least 0/],
    ["no probe", { probeBlocks: 0 }, /probeBlocks is a whole number of at least 1/],
    ["negative final blocks", { finalBlocks: -1 }, /finalBlocks is a whole number/],
    [
      "nothing left to skip",
      { probeBlocks: 2, finalBlocks: 1 },
      /leave nothing to skip: the model has \d blocks/,
    ],
    ["a second order", { taylorOrder: 2 }, /taylorOrder is 0 or 1, not 2/],
    ["true", true, /takes one object/],
  ])("%s", async (_, cache, message) => {
    const error = expect.objectContaining({
      code: "ERR_FLUX_BAD_ARGUMENT",
      message: expect.stringMatching(message),
    });
    expect(() => pipe.enableCache(cache as CacheOptions)).toThrow(error);
    await expect(pipe.generate({ prompt: "a", cache: cache as CacheOptions })).rejects.toEqual(error);
    expect((await draw()).cache).toBeUndefined();
  });
});

describe("the cache", () => {
  it("is off by default, and off again the step is the recording that it was", async () => {
    const plain = pipe.plan(SMALL).describe();
    expect(plain.ops.map(({ kind }) => kind)).not.toContain("if");
    const before = await draw();
    expect(before.cache).toBeUndefined();
    pipe.enableCache(HALF);
    expect(
      pipe
        .plan(SMALL)
        .describe()
        .ops.filter(({ kind }) => kind === "if"),
    ).toHaveLength(2);
    expect(computed((await draw()).cache)).toEqual(ALTERNATING);
    pipe.disableCache();
    expect(pipe.plan(SMALL).describe()).toEqual(plain);
    const after = await draw();
    expect(after.cache).toBeUndefined();
    expect(after.bytes.equals(before.bytes)).toBe(true);
  });

  it("of a call takes precedence over that of the pipeline", async () => {
    pipe.enableCache(HALF);
    try {
      expect((await draw({ cache: false })).cache).toBeUndefined();
      expect(computed((await draw({ cache: { threshold: 0 } })).cache)).toEqual(new Array(STEPS).fill(true));
      expect(computed((await draw({ cache: undefined })).cache)).toEqual(ALTERNATING);
    } finally {
      pipe.disableCache();
    }
  });

  it("is that of the moment of the call", async () => {
    const options = { ...HALF };
    pipe.enableCache(options);
    options.threshold = 0;
    const first = draw();
    pipe.disableCache();
    const second = draw();
    expect(computed((await first).cache)).toEqual(ALTERNATING);
    expect((await second).cache).toBeUndefined();
  });

  it("that never hits changes no bit", async () => {
    const plain = await draw();
    for (const options of [{}, { taylorOrder: 1 }, { probeBlocks: 2 }] as CacheOptions[]) {
      const { bytes, cache } = await draw({ cache: { ...options, threshold: 0 } });
      expect(cache).toMatchObject({ computedSteps: STEPS, skippedSteps: 0 });
      expect(cache!.computedBlocks).toBe(cache!.totalBlocks);
      expect(bytes.equals(plain.bytes)).toBe(true);
    }
  });

  it("starts anew with every image", async () => {
    const cache = { threshold: 0.3 };
    const first = await draw({ cache });
    await draw({ cache, seed: 4, prompt: "something else" });
    const again = await draw({ cache });
    expect(first.cache!.skippedSteps).toBeGreaterThan(0);
    expect(again.cache).toEqual(first.cache);
    expect(again.bytes.equals(first.bytes)).toBe(true);
  });

  it("starts anew after a call that was aborted in the middle", async () => {
    const cache = { threshold: 0.3 };
    const first = await draw({ cache });
    const controller = new AbortController();
    const onStep = () => controller.abort();
    await expect(draw({ cache, signal: controller.signal, onStep })).rejects.toMatchObject({
      name: "AbortError",
    });
    const again = await draw({ cache });
    expect(again.cache).toEqual(first.cache);
    expect(again.bytes.equals(first.bytes)).toBe(true);
  });

  it("counts blocks, and has differences from the second step on", async () => {
    const { cache } = await draw({ cache: HALF });
    const blocks = cache!.totalBlocks / STEPS;
    expect(cache).toMatchObject({ computedSteps: 3, skippedSteps: 3, computedBlocks: 3 * blocks + 3 });
    expect(cache!.steps[0]).toEqual({ computed: true });
    for (const { difference } of cache!.steps.slice(1)) expect(difference).toBeGreaterThan(0);
    expect(cache!.negative).toBeUndefined();
  });

  it("warms up", async () => {
    const { cache } = await draw({ cache: { threshold: Infinity, warmupSteps: 4 } });
    expect(computed(cache)).toEqual([true, true, true, true, false, false]);
  });

  it("serves batches, true guidance and previews", async () => {
    const seen: number[] = [];
    const { cache } = await draw({
      prompt: ["a cat", "a dog"],
      negativePrompt: "a bird",
      trueCfgScale: 2,
      cache: HALF,
      preview: true,
      onStep: ({ latents }) => seen.push(latents!.shape[0]!),
    });
    expect(seen).toEqual(new Array(STEPS).fill(2));
    expect(computed(cache)).toEqual(ALTERNATING);
    expect(computed(cache!.negative)).toEqual(ALTERNATING);
    expect(cache!.steps).not.toEqual(cache!.negative!.steps);
  });

  it("gives the same bytes at any number of threads", async () => {
    const cache = { threshold: 0.3, taylorOrder: 1 } as const;
    const expected = await draw({ cache });
    using other = await FluxPipeline.fromPretrained(folder, { device: "cpu", threads: 3 });
    const options = { prompt: "a cat", seed: 3, ...SMALL, outputType: "latents", cache } as const;
    const result = await other.generate(options);
    expect(result.cache).toEqual(expected.cache);
    expect(Buffer.from(result.latents!.data.buffer).equals(expected.bytes)).toBe(true);
  });

  it("works with fp8 linears", async () => {
    using other = await FluxPipeline.fromPretrained(folder, { device: "cpu", precision: "fp8" });
    const { cache } = await other.generate({ prompt: "a cat", seed: 3, ...SMALL, cache: HALF });
    expect(computed(cache)).toEqual(ALTERNATING);
  });

  it("of a pipeline that is disposed gives its memory back", async () => {
    using device = Device.open("cpu");
    const other = await FluxPipeline.fromPretrained(folder, { device });
    await other.generate({ prompt: "a cat", ...SMALL, cache: { ...HALF, taylorOrder: 1 } });
    other.dispose();
    await device.drain();
    expect(device.memoryUsage().allocated).toBe(0);
    expect(() => other.enableCache()).toThrow(expect.objectContaining({ code: "ERR_FLUX_DISPOSED" }));
    expect(() => other.disableCache()).toThrow(expect.objectContaining({ code: "ERR_FLUX_DISPOSED" }));
  });
});

it("a profiled step with a cache shows its conditions", async () => {
  const plan = await pipe.profile({ ...SMALL, numInferenceSteps: 1, cache: HALF });
  const ops = plan.describe().ops.filter(({ depth }) => depth === 0);
  expect(ops.map(({ kind }) => kind)).toEqual(expect.arrayContaining(["cacheDecision", "if"]));
  for (const { kind, ms } of ops) expect(ms, kind).toBeGreaterThanOrEqual(0);
});

describe("the cache in every task", () => {
  const flat = (level: number) => ({ width: 64, height: 48, data: new Uint8Array(3 * 64 * 48).fill(level) });
  const gradient = {
    width: 64,
    height: 48,
    data: Uint8Array.from({ length: 3 * 64 * 48 }, (_, i) => i % 251),
  };
  it.each<[string, Variant, GenerateOptions, number]>([
    ["image to image", "dev", { image: gradient, strength: 0.5 }, 3],
    ["inpainting", "dev", { image: gradient, maskImage: flat(255), strength: 1 }, 6],
    ["Kontext with a reference", "kontext", { image: gradient, maxArea: 4096, autoResize: false }, 6],
    ["Fill", "fill", { image: gradient, maskImage: flat(255) }, 6],
    ["control", "control", { controlImage: gradient }, 6],
  ])("%s", async (_, variant, task, steps) => {
    const folder =
      variant === "fill" ? wideCheckpoint(384) : variant === "control" ? wideCheckpoint(128) : TINY;
    try {
      using other = await FluxPipeline.fromPretrained(folder, { device: "cpu", variant });
      const draw = (cache: CacheOptions | false) =>
        other.generate({
          ...{ prompt: "a red circle", seed: 5, numInferenceSteps: 6, maxSequenceLength: 32 },
          ...{ ...task, outputType: "latents", cache },
        });
      const plain = await draw(false);
      for (const options of [{}, { finalBlocks: 1 }, { finalBlocks: 2, taylorOrder: 1 }] as CacheOptions[]) {
        const never = await draw({ ...options, threshold: 0 });
        expect(never.cache).toMatchObject({ computedSteps: steps, skippedSteps: 0 });
        expect(never.latents).toEqual(plain.latents);
        const half = await draw({ ...options, ...HALF });
        expect(computed(half.cache)).toEqual(ALTERNATING.slice(0, steps));
        expect(half.latents).not.toEqual(plain.latents);
      }
    } finally {
      if (folder !== TINY) rmSync(folder, { recursive: true });
    }
  });
});

it("the cache works with adapters, loaded and changed under it", async () => {
  using other = await FluxPipeline.fromPretrained(TINY, { device: "cpu" });
  const draw = async (cache: CacheOptions | false) => {
    const options = { ...SMALL, prompt: "a red circle", seed: 5, outputType: "latents", cache } as const;
    return other.generate(options);
  };
  await other.loadLoraWeights(join(TINY, "../tiny-loras/night.safetensors"), { adapterName: "night" });
  let last: HostTensor | undefined;
  for (const weight of [1, 0.5]) {
    await other.setAdapters("night", weight);
    const plain = await draw(false);
    expect((await draw({ threshold: 0 })).latents).toEqual(plain.latents);
    const half = await draw(HALF);
    expect(computed(half.cache)).toEqual(ALTERNATING);
    expect(half.latents).not.toEqual(last);
    last = half.latents;
  }
});
