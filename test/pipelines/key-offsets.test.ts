// 8-bit attention's offsets of k, which steps hand on: nothing of them may outlive an image, or depend on what shares its batch.

import { rmSync } from "node:fs";
import { afterAll, beforeAll, expect, it } from "vitest";
import { FluxPipeline, type GenerateOptions } from "../../lib/index.js";
import { schnellFolder } from "../support/folders.js";

const folder = schnellFolder();
let pipe: FluxPipeline;

beforeAll(async () => {
  pipe = await FluxPipeline.fromPretrained(folder, {
    ...{ device: "cpu", attention: "int8", batchConcurrent: true },
  });
});
afterAll(() => {
  pipe.dispose();
  rmSync(folder, { recursive: true });
});

async function draw(options: Partial<GenerateOptions> = {}): Promise<Buffer> {
  const { images } = await pipe.generate({
    ...{ prompt: "a", seed: 1, height: 64, width: 64, numInferenceSteps: 3, maxSequenceLength: 32 },
    ...options,
  });
  return Buffer.concat(images.map(({ data }) => Buffer.from(data)));
}

it("start anew with every image, whatever came before and however it ended", async () => {
  const first = await draw();
  expect((await draw({ prompt: "something else", seed: 4 })).equals(first)).toBe(false);
  expect((await draw()).equals(first)).toBe(true);
  const controller = new AbortController();
  const { signal } = controller;
  const abort = draw({ seed: 2, signal, onStep: () => controller.abort() });
  await expect(abort).rejects.toMatchObject({ name: "AbortError" });
  expect((await draw()).equals(first)).toBe(true);
  const reason = new Error("enough");
  const onStep = () => {
    throw reason;
  };
  await expect(draw({ seed: 2, onStep })).rejects.toBe(reason);
  expect((await draw()).equals(first)).toBe(true);
});

it("are an image's own in a batch", async () => {
  const [a, b] = [await draw(), await draw({ prompt: "b", seed: 2 })];
  const both = await Promise.all([draw({ prompt: "a" }), draw({ prompt: "b", seed: 2 })]);
  expect([both[0]!.equals(a), both[1]!.equals(b)]).toEqual([true, true]);
});

it("are in every attention of a step in 8 bits, and in none in bf16", async () => {
  const size = { prompt: "a", height: 64, width: 64, maxSequenceLength: 32 };
  const attentions = (of: FluxPipeline) =>
    of
      .plan(size)
      .describe()
      .ops.filter(({ kind }) => kind.startsWith("attention"));
  const packed = attentions(pipe).map(({ outputs }) => outputs.keyOffset);
  expect(packed.length).toBeGreaterThan(1);
  expect(new Set(packed)).toEqual(new Set([expect.stringMatching(/^f32\[1, \d+, 128\]$/)]));
  const plain = await FluxPipeline.fromPretrained(folder, { device: "cpu", attention: "bf16" });
  const without = attentions(plain);
  plain.dispose();
  expect(without).toHaveLength(packed.length);
  for (const { inputs, outputs } of without)
    expect({ ...inputs, ...outputs }).not.toHaveProperty("keyOffset");
});
