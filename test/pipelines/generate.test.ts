// What generate() does with its options, its signal and its device. The images themselves are tested in flux-pipeline.test.ts.

import { getEventListeners } from "node:events";
import { rmSync } from "node:fs";
import { afterAll, beforeAll, describe, expect, it, vi } from "vitest";
import { Device, FluxError, FluxPipeline, type GenerateOptions } from "../../lib/index.js";
import { schnellFolder } from "../support/folders.js";

const folder = schnellFolder();
const SMALL = { height: 64, width: 64, numInferenceSteps: 2, maxSequenceLength: 32 } as const;
let pipe: FluxPipeline;

beforeAll(async () => {
  pipe = await FluxPipeline.fromPretrained(folder, { device: "cpu" });
});
afterAll(() => {
  pipe.dispose();
  rmSync(folder, { recursive: true });
});

const embeds = (tokens: number, width = 64, batch = 1) => ({
  data: new Float32Array(batch * tokens * width),
  shape: [batch, tokens, width],
});
const pooled = (batch = 1, width = 32) => ({ data: new Float32Array(batch * width), shape: [batch, width] });

describe("a wrong option is refused with a sentence", () => {
  const cases: [string, GenerateOptions, RegExp][] = [
    ["no options at all", undefined as unknown as GenerateOptions, /takes one object/],
    [
      "diffusers' own spelling",
      { prompt: "a", num_inference_steps: 4 } as GenerateOptions,
      /did you mean numInferenceSteps/,
    ],
    [
      "a short name",
      { prompt: "a", steps: 4 } as GenerateOptions,
      /no option "steps"; did you mean numInferenceSteps/,
    ],
    [
      "a name of nothing",
      { prompt: "a", eta: 0 } as GenerateOptions,
      /no option "eta"; the options are prompt,/,
    ],
    ["no prompt at all", {}, /give a prompt/],
    ["a prompt that is no string", { prompt: 7 as unknown as string }, /string or a non-empty array/],
    ["no prompts in the list", { prompt: [] }, /non-empty array/],
    ["a huge prompt", { prompt: "x".repeat(10_001) }, /10001 characters; at most 10000/],
    ["as many prompt2 as prompts", { prompt: ["a", "b"], prompt2: "c" }, /2 texts and prompt2 has 1/],
    [
      "a height that is no multiple of 16",
      { prompt: "a", height: 100 },
      /height must be a multiple of 16 pixels, but it is 100\. Use 96/,
    ],
    [
      "a width of 0",
      { prompt: "a", width: 0 },
      /width must be a multiple of 16 pixels, but it is 0\. Use 16/,
    ],
    ["a fraction of a pixel", { prompt: "a", height: 64.5 }, /height must be a multiple.*64\.5\. Use 64/],
    ["too many pixels", { prompt: "a", height: 65536, width: 65536 }, /make a smaller image/],
    ["no steps", { prompt: "a", numInferenceSteps: 0 }, /numInferenceSteps is a whole number from 1/],
    ["a guidance scale of NaN", { prompt: "a", guidanceScale: Number.NaN }, /guidanceScale is a number/],
    ["no images", { prompt: "a", numImagesPerPrompt: 0 }, /numImagesPerPrompt is a whole number/],
    [
      "a sequence over 512",
      { prompt: "a", maxSequenceLength: 513 },
      /maxSequenceLength is a whole number from 1 to 512/,
    ],
    ["a negative seed", { prompt: "a", seed: -1 }, /seed is a whole number/],
    ["a fractional seed", { prompt: "a", seed: 1.5 }, /seed is a whole number/],
    ["an unknown output type", { prompt: "a", outputType: "jpeg" as "image" }, /outputType is/],
    ["true guidance without a negative", { prompt: "a", trueCfgScale: 2 }, /needs a negativePrompt/],
    [
      "negatives of another number",
      { prompt: ["a", "b", "c"], negativePrompt: ["d", "e"], trueCfgScale: 2 },
      /3 prompts and 2 negative/,
    ],
    ["embeds without pooled", { promptEmbeds: embeds(4) }, /go together/],
    [
      "both prompt and embeds",
      { prompt: "a", promptEmbeds: embeds(4), pooledPromptEmbeds: pooled() },
      /not both/,
    ],
    [
      "embeds of another width",
      { promptEmbeds: embeds(4, 65), pooledPromptEmbeds: pooled() },
      /shape \[1, 4, 65\]/,
    ],
    [
      "pooled of another batch",
      { promptEmbeds: embeds(4), pooledPromptEmbeds: pooled(2) },
      /shape \[2, 32\]/,
    ],
    [
      "NaN embeds",
      {
        promptEmbeds: { ...embeds(4), data: new Float32Array(256).fill(Number.NaN) },
        pooledPromptEmbeds: pooled(),
      },
      /NaN or infinite/,
    ],
    [
      "latents of another size",
      { prompt: "a", ...SMALL, latents: embeds(15) },
      /latents has shape \[1, 15, 64\]/,
    ],
    ["rising sigmas", { prompt: "a", ...SMALL, sigmas: [0.5, 0.7] }, /sigmas/],
  ];

  it.each(cases)("%s", async (_, options, message) => {
    await expect(pipe.generate(options)).rejects.toMatchObject({
      name: "FluxError",
      code: "ERR_FLUX_BAD_ARGUMENT",
      message: expect.stringMatching(message),
    });
  });

  it("and the pipeline works afterwards", async () => {
    const { images } = await pipe.generate({ prompt: "", seed: 1, ...SMALL });
    expect(images[0]).toMatchObject({ width: 64, height: 64 });
  });
});

describe("seeds", () => {
  const draw = async (from: FluxPipeline, options: GenerateOptions) =>
    (await from.generate({ prompt: "a cat", ...SMALL, ...options })).images.map((image) =>
      Buffer.from(image.data),
    );

  it("give the same bytes at any number of threads", async () => {
    const [expected] = await draw(pipe, { seed: 7 });
    for (const threads of [1, 2, 3, 7]) {
      using other = await FluxPipeline.fromPretrained(folder, { device: "cpu", threads });
      const [bytes] = await draw(other, { seed: 7 });
      expect(bytes!.equals(expected!), `${threads} threads`).toBe(true);
    }
  });

  it("give other images for other seeds, and a random one that is reported when absent", async () => {
    const { images, seed } = await pipe.generate({ prompt: "a cat", ...SMALL });
    const [again] = await draw(pipe, { seed });
    const [other] = await draw(pipe, { seed: Number(seed) + 1 });
    expect(again!.equals(images[0]!.data)).toBe(true);
    expect(other!.equals(images[0]!.data)).toBe(false);
  });

  it("continue one stream over the images of a call, as torch does", async () => {
    const [single] = await draw(pipe, { seed: 3 });
    const batch = await draw(pipe, { seed: 3, prompt: ["a cat", "a dog"], numImagesPerPrompt: 2 });
    expect(batch).toHaveLength(4);
    expect(maxDifference(batch[0]!, single!)).toBeLessThanOrEqual(1);
    expect(maxDifference(batch[1]!, single!)).toBeGreaterThan(1);
  });
});

describe("output types", () => {
  it("raw is the image before rounding, latents decode to it", async () => {
    const options = { prompt: "a cat", seed: 5, ...SMALL };
    const { images } = await pipe.generate(options);
    const { raw, images: none } = await pipe.generate({ ...options, outputType: "raw" });
    expect(none).toEqual([]);
    expect(raw!.shape).toEqual([1, 64, 64, 3]);
    const rounded = raw!.data.map((value) => Math.round(value * 255));
    expect(maxDifference(rounded, images[0]!.data)).toBeLessThanOrEqual(1);
    const { latents } = await pipe.generate({ ...options, outputType: "latents" });
    expect(latents!.shape).toEqual([1, 16, 64]);
  });

  it("raw holds all images of a call", async () => {
    const options = { prompt: ["a cat", "a dog"], seed: 5, ...SMALL };
    const { raw } = await pipe.generate({ ...options, outputType: "raw" });
    const { images } = await pipe.generate(options);
    expect(raw!.shape).toEqual([2, 64, 64, 3]);
    const second = raw!.data.subarray(raw!.data.length / 2).map((value) => Math.round(value * 255));
    expect(maxDifference(second, images[1]!.data)).toBeLessThanOrEqual(1);
  });
});

describe("a plan", () => {
  const size = { height: 64, width: 96, maxSequenceLength: 32 };

  it("is that of one step of the request's shape, whatever its text", () => {
    const ops = pipe.plan(size).describe().ops;
    expect(ops.map(({ kind }) => kind)).toContain("attention");
    expect(ops.some(({ ms }) => ms !== undefined)).toBe(false);
    // 32 text tokens and 4 × 6 image tokens, from here and from embeddings.
    const joint = JSON.stringify(ops);
    expect(joint).toContain("f32[1, 56, ");
    const { height, width } = size;
    const given = pipe.plan({ height, width, promptEmbeds: embeds(32), pooledPromptEmbeds: pooled() });
    expect(JSON.stringify(given.describe().ops)).toBe(joint);
    expect(() => pipe.plan({ height: 65 })).toThrow(
      expect.objectContaining({ code: "ERR_FLUX_BAD_ARGUMENT" }),
    );
  });

  it("shows the time of every op after a profiled step, and images are the same afterwards", async () => {
    const options = { prompt: "a cat", seed: 5, ...SMALL };
    const before = await pipe.generate(options);
    const plan = await pipe.profile(SMALL);
    const { ops } = plan.describe();
    expect(ops.length).toBeGreaterThan(20);
    const whole = ops.filter(({ depth }) => depth === 0); // those inside another one are timed with it
    for (const { kind, ms } of whole) expect(ms, kind).toBeGreaterThanOrEqual(0);
    expect(whole.reduce((sum, { ms }) => sum + ms!, 0)).toBeGreaterThan(0);
    expect(plan.toString()).toMatch(/attention .* ms/);
    const after = await pipe.generate(options);
    expect(Buffer.from(after.images[0]!.data).equals(before.images[0]!.data)).toBe(true);
  });
});

describe("steps", () => {
  it("are reported in order, without latents unless asked for", async () => {
    const events: unknown[] = [];
    await pipe.generate({
      prompt: "a",
      ...SMALL,
      numInferenceSteps: 3,
      onStep: (event) => events.push(event),
    });
    expect(events).toEqual([1, 2, 3].map((step) => ({ step, total: 3 })));
  });

  it("are not disturbed by plans of many other shapes that are asked for meanwhile", async () => {
    const { images } = await pipe.generate({
      prompt: "a",
      ...SMALL,
      numInferenceSteps: 3,
      onStep: () => {
        for (const side of [16, 32, 48, 80, 96, 112]) pipe.plan({ height: side, width: side });
      },
    });
    expect(images).toHaveLength(1);
  });

  it("end when onStep throws, with what it threw", async () => {
    const reason = new Error("enough");
    const onStep = () => {
      throw reason;
    };
    await expect(pipe.generate({ prompt: "a", ...SMALL, onStep })).rejects.toBe(reason);
    const later = async () => onStep();
    await expect(pipe.generate({ prompt: "a", ...SMALL, onStep: later })).rejects.toBe(reason);
    await expect(pipe.generate({ prompt: "a", ...SMALL })).resolves.toBeDefined();
  });
});

describe("an aborted call", () => {
  it("before it starts does nothing", async () => {
    const signal = AbortSignal.abort();
    await expect(pipe.generate({ prompt: "a", ...SMALL, signal })).rejects.toBe(signal.reason);
  });

  it("in the middle ends with the step that runs: on the CPU none is queued behind it", async () => {
    const controller = new AbortController();
    const options = { prompt: "a", ...SMALL, numInferenceSteps: 50, signal: controller.signal };
    const step = pipe.plan(options);
    let started = 0;
    let running = 0;
    let most = 0;
    const run = step.run.bind(step);
    vi.spyOn(step, "run").mockImplementation(async () => {
      started++;
      most = Math.max(most, ++running);
      await run();
      running--;
    });
    const seen: number[] = [];
    const aborted = pipe.generate({
      ...options,
      onStep: ({ step }) => {
        seen.push(step);
        if (step === 3) controller.abort();
      },
    });
    await expect(aborted).rejects.toMatchObject({ name: "AbortError" });
    expect(seen).toEqual([1, 2, 3]);
    expect(most).toBe(1);
    expect(started).toBe(3);
    expect(running).toBe(0);
  });

  it("while it waits for its turn leaves at once, and the others are served", async () => {
    const controller = new AbortController();
    const first = pipe.generate({ prompt: "a", seed: 1, ...SMALL });
    const second = pipe.generate({ prompt: "b", seed: 1, ...SMALL, signal: controller.signal });
    const third = pipe.generate({ prompt: "a", seed: 1, ...SMALL });
    controller.abort();
    await expect(second).rejects.toMatchObject({ name: "AbortError" });
    const [a, c] = await Promise.all([first, third]);
    expect(Buffer.from(a.images[0]!.data).equals(c.images[0]!.data)).toBe(true);
  });

  it("after its end is not listened to any more", async () => {
    const controller = new AbortController();
    const { images } = await pipe.generate({ prompt: "a", seed: 1, ...SMALL, signal: controller.signal });
    expect(getEventListeners(controller.signal, "abort")).toHaveLength(0);
    controller.abort();
    const again = await pipe.generate({ prompt: "a", seed: 1, ...SMALL });
    expect(Buffer.from(again.images[0]!.data).equals(images[0]!.data)).toBe(true);
  });
});

describe("disposal", () => {
  it("during a run ends it, and gives every byte back", async () => {
    using device = Device.open("cpu");
    const other = await FluxPipeline.fromPretrained(folder, { device });
    expect(device.memoryUsage().allocated).toBeGreaterThan(1_000_000);
    const running = other.generate({
      prompt: "a",
      ...SMALL,
      numInferenceSteps: 50,
      onStep: ({ step }) => {
        if (step === 2) other.dispose();
      },
    });
    await expect(running).rejects.toMatchObject({ code: "ERR_FLUX_DISPOSED" });
    await device.drain();
    expect(device.memoryUsage().allocated).toBe(0);
    await expect(other.generate({ prompt: "a" })).rejects.toMatchObject({ code: "ERR_FLUX_DISPOSED" });
  });

  it("gives every byte back, whichever Buffer or plan could not be had", async () => {
    using device = Device.open("cpu");
    const reason = new FluxError("ERR_FLUX_OUT_OF_MEMORY", "no memory left");
    const options = { ...SMALL, numInferenceSteps: 1, prompt: "a", negativePrompt: "b", trueCfgScale: 2 };
    for (const method of ["buffer", "compile"] as const) {
      // Fails at the first call, then at the second, and so on until a run needs no more calls.
      for (let failing = 1; ; failing++) {
        const other = await FluxPipeline.fromPretrained(folder, { device });
        const call = device[method].bind(device) as (...parameters: unknown[]) => never;
        let calls = 0;
        const spy = vi.spyOn(device, method).mockImplementation((...parameters: unknown[]) => {
          calls += 1;
          if (calls === failing) throw reason;
          return call(...parameters);
        });
        const outcome = await other.generate(options).catch((error) => error);
        spy.mockRestore();
        other.dispose();
        await device.drain();
        expect(device.memoryUsage().allocated, `${method}, call ${failing}`).toBe(0);
        if (calls < failing) {
          expect(failing).toBeGreaterThan(5);
          break;
        }
        expect(outcome).toBe(reason);
      }
    }
  });

  it("after many sizes and lengths gives every byte back", async () => {
    using device = Device.open("cpu");
    {
      await using other = await FluxPipeline.fromPretrained(folder, { device });
      for (const side of [32, 48, 64, 80, 96, 112]) {
        await other.generate({
          prompt: "a",
          ...SMALL,
          height: side,
          numInferenceSteps: 1,
          maxSequenceLength: side,
        });
      }
    }
    await device.drain();
    expect(device.memoryUsage().allocated).toBe(0);
  });
});

it("reports an overflow instead of giving a black image", async () => {
  const promptEmbeds = { ...embeds(4), data: new Float32Array(256).fill(3e38) };
  await expect(pipe.generate({ promptEmbeds, pooledPromptEmbeds: pooled(), ...SMALL })).rejects.toMatchObject(
    { code: "ERR_FLUX_BAD_WEIGHTS", message: expect.stringMatching(/NaN or infinite/) },
  );
});

it("remembers prompts: a cut prompt is warned about once", async () => {
  const warnings: string[] = [];
  const listen = (warning: Error & { code?: string }) => {
    if (warning.code === "FLUX_PROMPT_TRUNCATED") warnings.push(warning.message);
  };
  process.on("warning", listen);
  const prompt = "a very long prompt ".repeat(300);
  await pipe.generate({ prompt, ...SMALL });
  await pipe.generate({ prompt, ...SMALL });
  await new Promise(setImmediate);
  process.off("warning", listen);
  expect(warnings).toHaveLength(2);
});

describe("fromPretrained", () => {
  it.each([
    ["a folder that is not there", "/no/such/folder", /is not a folder/],
    ["a folder without a model", "/tmp", /model_index\.json/],
  ])("refuses %s", async (_, path, message) => {
    await expect(FluxPipeline.fromPretrained(path, { device: "cpu" })).rejects.toMatchObject({
      code: "ERR_FLUX_BAD_WEIGHTS",
      message: expect.stringMatching(message),
    });
  });

  it("refuses an aborted signal, and a precision, an attention or a device that is none", async () => {
    const signal = AbortSignal.abort();
    await expect(FluxPipeline.fromPretrained(folder, { signal })).rejects.toBe(signal.reason);
    const precision = "int4" as "fp8";
    await expect(FluxPipeline.fromPretrained(folder, { precision })).rejects.toMatchObject({
      code: "ERR_FLUX_UNSUPPORTED",
    });
    const attention = "int4" as "int8";
    await expect(FluxPipeline.fromPretrained(folder, { device: "cpu", attention })).rejects.toMatchObject({
      code: "ERR_FLUX_BAD_ARGUMENT",
      message: 'attention is "int8", "fp8" or "bf16", not "int4"',
    });
    const device = "tpu" as "cpu";
    await expect(FluxPipeline.fromPretrained(folder, { device })).rejects.toMatchObject({
      code: "ERR_FLUX_BAD_ARGUMENT",
    });
  });

  it("reports progress that ends at the total of each part", async () => {
    const last = new Map<string, number>();
    using other = await FluxPipeline.fromPretrained(folder, {
      device: "cpu",
      onProgress: ({ component, loadedBytes, totalBytes }) => last.set(component, loadedBytes / totalBytes),
    });
    expect(Object.fromEntries(last)).toEqual({ text_encoder: 1, text_encoder_2: 1, vae: 1, transformer: 1 });
    expect(other.plan({ height: 64, width: 64 }).describe().ops.length).toBeGreaterThan(20);
  });
});

function maxDifference(a: ArrayLike<number>, b: ArrayLike<number>): number {
  return Array.from(a).reduce((worst, value, index) => Math.max(worst, Math.abs(value - b[index]!)), 0);
}
