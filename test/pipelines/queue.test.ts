// Calls that wait for one another, and those that are drawn together: each gets what it would have got alone.

import { afterAll, afterEach, beforeAll, describe, expect, it, vi } from "vitest";
import { FluxError, FluxPipeline, type GenerateOptions } from "../../lib/index.js";
import { Plan } from "../../lib/runtime/plan.js";
import { goldenPath, relativeL2 } from "../support/golden.js";

/** Like dev: with a guidance embedding. */
const CONFIG = goldenPath("configs/tiny-flux");
const LIMIT = 4;
/** Rows of a batch differ from images drawn alone by rounding at most. */
const TOLERANCE = 1e-5;

let alone: FluxPipeline;
let shared: FluxPipeline;
const load = (batchConcurrent: boolean | number) =>
  FluxPipeline.fromConfig(CONFIG, { weights: "random", seed: 1, device: "cpu", threads: 2, batchConcurrent });

beforeAll(async () => {
  [alone, shared] = [await load(false), await load(LIMIT)];
});
afterAll(() => {
  alone.dispose();
  shared.dispose();
});
afterEach(() => vi.restoreAllMocks());

const SMALL = {
  height: 64,
  width: 64,
  numInferenceSteps: 3,
  maxSequenceLength: 16,
  outputType: "latents",
} as const;
const call = (seed: number, more: GenerateOptions = {}): GenerateOptions => ({
  prompt: `picture ${seed}`,
  seed,
  ...SMALL,
  ...more,
});

/** Counts runs of plans that are a denoising step. */
function countSteps() {
  const counted = { steps: 0 };
  const run = Plan.prototype.run;
  vi.spyOn(Plan.prototype, "run").mockImplementation(function (this: Plan) {
    if (this.name === "step") counted.steps++;
    return run.call(this);
  });
  return counted;
}

async function expectAsAlone(options: GenerateOptions, latents: Float32Array) {
  const expected = (await alone.generate(options)).latents!.data;
  expect(relativeL2(latents, expected)).toBeLessThanOrEqual(TOLERANCE);
}

/** Counts runs of the text encoders' plans. */
function countTexts() {
  const counted = { clip: 0, t5: 0 };
  const run = Plan.prototype.run;
  vi.spyOn(Plan.prototype, "run").mockImplementation(function (this: Plan) {
    if (this.name === "CLIP") counted.clip++;
    if (this.name.startsWith("T5")) counted.t5++;
    return run.call(this);
  });
  return counted;
}

describe("a text that several images are drawn from is encoded once", () => {
  it("in one call, and every row gets its own", async () => {
    const prompt = ["one stork", "two storks", "one stork"];
    const negativePrompt = ["fog", "fog", "rain"];
    const noise = await alone.generate({ ...call(5, { prompt, numImagesPerPrompt: 2 }), sigmas: [1e-6] });
    const [rows, ...shape] = noise.latents!.shape as [number, number, number];
    const length = noise.latents!.data.length / rows;
    const draw = (pipe: FluxPipeline, options: GenerateOptions) =>
      pipe.generate({ ...call(5), trueCfgScale: 2, ...options });
    const counted = countTexts();
    const { latents } = await draw(shared, {
      prompt,
      negativePrompt,
      latents: noise.latents!,
      numImagesPerPrompt: 2,
    });
    expect(counted).toEqual({ clip: 4, t5: 4 }); // two each of the prompts and of the negative ones
    for (let row = 0; row < rows; row++) {
      const at = Math.floor(row / 2);
      const own = {
        data: noise.latents!.data.slice(row * length, (row + 1) * length),
        shape: [1, ...shape],
      };
      const single = { prompt: prompt[at]!, negativePrompt: negativePrompt[at]!, latents: own };
      const expected = (await draw(alone, single)).latents!.data;
      const drawn = latents!.data.subarray(row * length, (row + 1) * length);
      expect(relativeL2(drawn, expected)).toBeLessThanOrEqual(TOLERANCE);
    }
  });

  it("in calls that are drawn together", async () => {
    const counted = countTexts();
    const options = [6, 7, 8].map((seed) => call(seed, { prompt: "three storks" }));
    const results = await Promise.all(options.map((each) => shared.generate(each)));
    expect(counted).toEqual({ clip: 1, t5: 1 });
    for (const [i, { latents }] of results.entries()) await expectAsAlone(options[i]!, latents!.data);
  });
});

describe("concurrent calls", () => {
  it("run one after another by default", async () => {
    const counted = countSteps();
    const order: number[] = [];
    const done = [1, 2, 3].map((seed) => alone.generate(call(seed)).then(() => order.push(seed)));
    await Promise.all(done);
    expect(order).toEqual([1, 2, 3]);
    expect(counted.steps).toBe(9);
  });

  it("are drawn as one batch when they agree, each with its own prompt, noise and guidance", async () => {
    const calls = [
      call(1),
      call(2, { guidanceScale: 9 }),
      call(3, { prompt: "another one", numImagesPerPrompt: 2 }),
    ];
    const counted = countSteps();
    const results = await Promise.all(calls.map((options) => shared.generate(options)));
    expect(counted.steps).toBe(3);
    vi.restoreAllMocks();
    for (const [index, { latents, seed }] of results.entries()) {
      expect(seed).toBe(calls[index]!.seed);
      expect(latents!.shape[0]).toBe(index === 2 ? 2 : 1);
      await expectAsAlone(calls[index]!, latents!.data);
    }
    // What makes them differ shows, so that a mix-up would.
    const again = (await alone.generate(call(2))).latents!.data;
    expect(relativeL2(results[1]!.latents!.data, again)).toBeGreaterThan(1e-3);
  });

  it("take latents and embeddings of their own, true CFG, and several kinds of output", async () => {
    const drawn = (await alone.generate(call(7, { numInferenceSteps: 1 }))).latents!;
    const cfg = { trueCfgScale: 2, negativePrompt: "a blur" };
    const calls = [
      call(1, { ...cfg, outputType: "image" }),
      call(2, { ...cfg, latents: drawn }),
      call(3, { ...cfg, negativePrompt: "a line", outputType: "raw" }),
    ];
    const counted = countSteps();
    const results = await Promise.all(calls.map((options) => shared.generate(options)));
    expect(counted.steps).toBe(3);
    vi.restoreAllMocks();
    await expectAsAlone(calls[1]!, results[1]!.latents!.data);
    const [image] = (await alone.generate(calls[0]!)).images;
    const differences = results[0]!.images[0]!.data.map((value, at) => Math.abs(value - image!.data[at]!));
    expect(Math.max(...differences)).toBeLessThanOrEqual(1);
    const raw = (await alone.generate(calls[2]!)).raw!.data;
    expect(relativeL2(results[2]!.raw!.data, raw)).toBeLessThanOrEqual(10 * TOLERANCE);
  });

  it("keep their order: what does not agree is not passed by", async () => {
    const counted = countSteps();
    const order: number[] = [];
    const calls = [call(1), call(2, { width: 96 }), call(3), call(4), call(5, { numInferenceSteps: 2 })];
    await Promise.all(
      calls.map((options) => shared.generate(options).then(() => order.push(options.seed as number))),
    );
    expect(order).toEqual([1, 2, 3, 4, 5]);
    expect(counted.steps).toBe(3 + 3 + 3 + 2);
  });

  it("share a batch up to its limit of images", async () => {
    const counted = countSteps();
    const calls = [call(1, { numImagesPerPrompt: 3 }), call(2), call(3), call(4, { numImagesPerPrompt: 5 })];
    const results = await Promise.all(calls.map((options) => shared.generate(options)));
    expect(results.map(({ latents }) => latents!.shape[0])).toEqual([3, 1, 1, 5]);
    expect(counted.steps).toBe(3 * 3);
  });

  it("with a cache are drawn alone, since it decides for the whole batch", async () => {
    const counted = countSteps();
    const cache = { threshold: 0.5 };
    const results = await Promise.all([1, 2].map((seed) => shared.generate(call(seed, { cache }))));
    expect(counted.steps).toBe(6);
    for (const { cache: report } of results) expect(report!.computedSteps + report!.skippedSteps).toBe(3);
  });

  it("are drawn one by one when a batch has no memory", async () => {
    const buffer = shared.device.buffer.bind(shared.device);
    vi.spyOn(shared.device, "buffer").mockImplementation((dtype, shape) => {
      if (shape[0] === 2 && shape.length === 4)
        throw new FluxError("ERR_FLUX_OUT_OF_MEMORY", "no room for two");
      return buffer(dtype, shape);
    });
    const calls = [call(1, { height: 80 }), call(2, { height: 80 })];
    const results = await Promise.all(calls.map((options) => shared.generate(options)));
    for (const [index, { latents }] of results.entries()) await expectAsAlone(calls[index]!, latents!.data);
  });
});

describe("a new size", () => {
  it("takes the memory of those that were drawn before, where there is no other", async () => {
    const before = alone.plan(call(1));
    await alone.generate(call(1));
    const buffer = alone.device.buffer.bind(alone.device);
    let isFull = true;
    vi.spyOn(before, "dispose").mockImplementation(() => {
      isFull = false;
    });
    vi.spyOn(alone.device, "buffer").mockImplementation((dtype, shape) => {
      if (isFull) throw new FluxError("ERR_FLUX_OUT_OF_MEMORY", "no room for two sizes");
      return buffer(dtype, shape);
    });
    const { latents } = await alone.generate(call(1, { height: 112 }));
    expect(isFull).toBe(false);
    expect(latents!.shape).toEqual([1, 7 * 4, 64]);
  });
});

describe("a batch that runs out of memory when it has drawn its noise", () => {
  it("is drawn one by one from the same noise", async () => {
    const run = Plan.prototype.run;
    let failed = false;
    vi.spyOn(Plan.prototype, "run").mockImplementation(function (this: Plan) {
      if (failed || this.name !== "prepare") return run.call(this);
      failed = true;
      return Promise.reject(new FluxError("ERR_FLUX_OUT_OF_MEMORY", "no room for two"));
    });
    const calls = [call(1, { height: 48 }), call(2, { height: 48 })];
    const results = await Promise.all(calls.map((options) => shared.generate(options)));
    expect(failed).toBe(true);
    for (const [index, { latents }] of results.entries()) await expectAsAlone(calls[index]!, latents!.data);
  });
});

describe("a call in a batch", () => {
  it("sees its own steps and its own rows", async () => {
    const seen = new Map<number, number[][]>();
    const watching = (seed: number, numImagesPerPrompt: number) =>
      call(seed, {
        numImagesPerPrompt,
        preview: true,
        onStep: ({ step, total, latents }) => {
          expect(total).toBe(3);
          const { shape } = latents!;
          seen.set(seed, [...(seen.get(seed) ?? []), [step, ...shape]]);
        },
      });
    const results = await Promise.all([shared.generate(watching(1, 1)), shared.generate(watching(2, 2))]);
    expect(seen.get(1)).toEqual([1, 2, 3].map((step) => [step, 1, 16, 64]));
    expect(seen.get(2)).toEqual([1, 2, 3].map((step) => [step, 2, 16, 64]));
    expect(results[1]!.latents!.shape).toEqual([2, 16, 64]);
  });

  it("leaves when it is aborted or its onStep throws, and the others get their images", async () => {
    const controller = new AbortController();
    const reason = new Error("no more");
    const calls = [
      call(1, { onStep: ({ step }) => step === 1 && controller.abort() }),
      call(2, { signal: controller.signal }),
      call(3, {
        onStep: () => {
          throw reason;
        },
      }),
    ];
    const [first, second, third] = await Promise.allSettled(calls.map((options) => shared.generate(options)));
    expect(second).toMatchObject({ status: "rejected", reason: { name: "AbortError" } });
    expect(third).toEqual({ status: "rejected", reason });
    if (first!.status !== "fulfilled") throw first!.reason;
    await expectAsAlone(call(1), first!.value.latents!.data);
  });

  it("ends the run when nobody is left", async () => {
    const counted = countSteps();
    const controller = new AbortController();
    const { signal } = controller;
    const onStep = () => controller.abort();
    const calls = [1, 2].map((seed) =>
      shared.generate(call(seed, { numInferenceSteps: 20, signal, onStep })),
    );
    for (const result of await Promise.allSettled(calls)) expect(result.status).toBe("rejected");
    await shared.generate(call(3, { numInferenceSteps: 1 }));
    expect(counted.steps).toBeLessThanOrEqual(2 + 1);
  });

  it("that is wrong is told at once, and leaves the others alone", async () => {
    const calls = [call(1), call(2, { height: 65 }), call(3)].map((options) => shared.generate(options));
    const [first, second, third] = await Promise.allSettled(calls);
    expect(second).toMatchObject({ status: "rejected", reason: { code: "ERR_FLUX_BAD_ARGUMENT" } });
    expect([first!.status, third!.status]).toEqual(["fulfilled", "fulfilled"]);
  });
});

it.each([0, -1, 1.5, "yes"])("batchConcurrent is not %j", async (batchConcurrent) => {
  await expect(load(batchConcurrent as never)).rejects.toMatchObject({ code: "ERR_FLUX_BAD_ARGUMENT" });
});
