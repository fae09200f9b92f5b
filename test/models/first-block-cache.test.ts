// The cache's recording against the definitions (DBCache, TaylorSeer of order 1) computed in plain numbers: blocks that multiply
// the joint stream by weights and let the text flow into the image, steps whose input drifts.

import { describe, expect, it } from "vitest";
import {
  type CacheLimits,
  type CacheShape,
  FirstBlockCache,
  type StreamShape,
} from "../../lib/models/flux/first-block-cache.js";
import { bufferOf, cpuDevice } from "../support/device.js";
import { relativeL2 } from "../support/golden.js";

const STREAM: StreamShape = { batch: 2, textTokens: 3, imageTokens: 5, targetTokens: 4, width: 8, steps: 24 };
const TOKENS = STREAM.textTokens + STREAM.imageTokens;
const ROW = STREAM.width;
const SIZE = STREAM.batch * TOKENS * ROW;
const BLOCKS = 6;

/** Uniform in [low, high) from a seed (Lehmer's generator). */
function uniform(count: number, seed: number, low: number, high: number): Float32Array {
  let state = seed;
  return Float32Array.from({ length: count }, () => {
    state = (state * 48271) % 2147483647;
    return low + ((high - low) * state) / 2147483647;
  });
}

const weights = Array.from({ length: BLOCKS }, (_, k) => uniform(SIZE, 11 + k, 0.8, 1.3));
/** A start and a drift whose pace changes, so that differences are neither constant nor monotonous. */
const inputs = Array.from({ length: STREAM.steps }, (_, step) => {
  const [start, drift] = [uniform(SIZE, 3, -1, 1), uniform(SIZE, 5, -1, 1)];
  return start.map((value, i) => Math.fround(value + drift[i]! * (0.05 * step + 0.3 * Math.sin(step / 3))));
});

const isImage = (i: number) => Math.floor(i / ROW) % TOKENS >= STREAM.textTokens;
const isTarget = (i: number) => {
  const place = (Math.floor(i / ROW) % TOKENS) - STREAM.textTokens;
  return place >= 0 && place < STREAM.targetTokens;
};
const targetOf = (stream: ArrayLike<number>) => Array.from(stream).filter((_, i) => isTarget(i));
const imageOf = (stream: ArrayLike<number>) => Array.from(stream).filter((_, i) => isImage(i));

/** stream · weight; then each of the first image tokens gets a text token added. */
function runBlock(stream: number[], k: number): number[] {
  const product = stream.map((value, i) => value * weights[k]![i]!);
  return product.map((value, i) => {
    const token = Math.floor(i / ROW) % TOKENS;
    const from = token - STREAM.textTokens;
    return from >= 0 && from < STREAM.textTokens ? value + product[i - STREAM.textTokens * ROW]! : value;
  });
}

interface Outcome {
  outputs: number[][];
  computed: boolean[];
  /** NaN at the first step. */
  differences: number[];
}

/** Every step's stream after the last block, by the definition. */
function reference({ probeBlocks, finalBlocks, taylorOrder }: CacheShape, limits: CacheLimits): Outcome {
  const outcome: Outcome = { outputs: [], computed: [], differences: [] };
  let previous: number[] = [];
  const residuals: { step: number; residual: number[] }[] = [];
  let hits = 0;
  inputs.forEach((input, step) => {
    let stream = Array.from(input);
    for (let k = 0; k < probeBlocks; k++) stream = runBlock(stream, k);
    const probe = imageOf(stream.map((value, i) => value - input[i]!));
    const sum = (values: number[]) => values.reduce((total, value) => total + Math.abs(value), 0);
    const difference =
      step === 0 ? Number.NaN : sum(probe.map((value, i) => value - previous[i]!)) / sum(previous);
    const skips =
      step >= Math.max(1, limits.warmupSteps) &&
      hits < limits.maxConsecutiveHits &&
      difference < limits.threshold;
    if (skips) {
      const [last, before] = [residuals.at(-1)!, residuals.at(-2)];
      const slope = taylorOrder === 1 && before ? (step - last.step) / (last.step - before.step) : 0;
      stream = stream.map((value, i) => {
        const change = slope === 0 ? 0 : slope * (last.residual[i]! - before!.residual[i]!);
        return value + last.residual[i]! + change;
      });
      hits++;
    } else {
      const start = stream;
      for (let k = probeBlocks; k < BLOCKS - finalBlocks; k++) stream = runBlock(stream, k);
      residuals.push({ step, residual: stream.map((value, i) => value - start[i]!) });
      previous = probe;
      hits = 0;
    }
    for (let k = BLOCKS - finalBlocks; k < BLOCKS; k++) stream = runBlock(stream, k);
    outcome.outputs.push(stream);
    outcome.computed.push(!skips);
    outcome.differences.push(difference);
  });
  return outcome;
}

/** The same through a plan. `poison`: an image of NaN goes before. */
async function recorded(shape: CacheShape, limits: CacheLimits, poison = false): Promise<Outcome> {
  const device = cpuDevice();
  const dimensions = [STREAM.batch, TOKENS, ROW];
  const input = device.buffer("f32", dimensions);
  const out = device.buffer("f32", dimensions);
  const factors = weights.map((data) => bufferOf(device, "f32", dimensions, data));
  const cache = new FirstBlockCache(device, "f32", shape, STREAM);
  const plan = device.record("step", (g) => {
    const hidden = g.empty(dimensions);
    g.copy(input, hidden);
    const text = hidden.slice(1, 0, STREAM.textTokens);
    const first = hidden.slice(1, STREAM.textTokens, STREAM.textTokens);
    const blocks = factors.map((factor) => () => {
      g.copy(g.multiply(hidden, factor), hidden);
      g.add(first, text, first);
    });
    cache.record(g, hidden, blocks);
    g.copy(hidden, out);
  });
  const outputs: number[][] = [];
  if (poison) {
    await cache.reset(limits);
    await input.write(new Float32Array(SIZE).fill(Number.NaN));
    for (let step = 0; step < 3; step++) await plan.run();
  }
  await cache.reset(limits);
  for (const data of inputs) {
    await input.write(data);
    await plan.run();
    outputs.push(Array.from(await out.read()));
  }
  const { computed, differences } = await cache.history();
  return { outputs, computed, differences: Array.from(differences) };
}

const NO_LIMITS = { warmupSteps: 0, maxConsecutiveHits: Infinity };

describe.each<[string, CacheShape]>([
  ["one probing block", { probeBlocks: 1, finalBlocks: 0, taylorOrder: 0 }],
  ["three probing blocks", { probeBlocks: 3, finalBlocks: 0, taylorOrder: 0 }],
  ["two final blocks", { probeBlocks: 1, finalBlocks: 2, taylorOrder: 0 }],
  ["all but one block kept", { probeBlocks: 2, finalBlocks: 3, taylorOrder: 0 }],
  ["extrapolated", { probeBlocks: 1, finalBlocks: 0, taylorOrder: 1 }],
  ["extrapolated, with final blocks", { probeBlocks: 2, finalBlocks: 1, taylorOrder: 1 }],
])("%s", (_, shape) => {
  it.each<[string, CacheLimits]>([
    ["a low threshold", { threshold: 0.1, ...NO_LIMITS }],
    ["a high threshold", { threshold: 0.3, ...NO_LIMITS }],
    ["no threshold", { threshold: Infinity, ...NO_LIMITS }],
    ["threshold 0", { threshold: 0, ...NO_LIMITS }],
    ["a warm-up", { threshold: 0.3, warmupSteps: 6, maxConsecutiveHits: Infinity }],
    ["two skips in a row at most", { threshold: 0.3, warmupSteps: 0, maxConsecutiveHits: 2 }],
    ["every second step forced", { threshold: Infinity, warmupSteps: 0, maxConsecutiveHits: 1 }],
    ["no skips allowed", { threshold: Infinity, warmupSteps: 0, maxConsecutiveHits: 0 }],
  ])("with %s", async (_, limits) => {
    const expected = reference(shape, limits);
    const closest = expected.differences
      .slice(1)
      .map((difference) => Math.abs(difference / limits.threshold - 1));
    expect(Math.min(...closest), "margin of the decisions").toBeGreaterThan(1e-4);
    for (const poison of [false, true]) {
      const actual = await recorded(shape, limits, poison);
      expect(actual.computed).toEqual(expected.computed);
      expect(actual.differences[0]).toBe(0);
      expect(relativeL2(actual.differences.slice(1), expected.differences.slice(1))).toBeLessThan(1e-5);
      actual.outputs.forEach((output, step) => {
        // Without final blocks nothing reads text and references any more, and they are not kept.
        const compared = shape.finalBlocks > 0 ? (stream: number[]) => stream : targetOf;
        const error = relativeL2(compared(output), compared(expected.outputs[step]!));
        expect(error, `step ${step}`).toBeLessThan(1e-5);
      });
    }
  });

  it("takes the memory that it is said to take", async () => {
    const device = cpuDevice();
    const before = device.memoryUsage().allocated;
    new FirstBlockCache(device, "f32", shape, STREAM);
    const { batch, textTokens, imageTokens, targetTokens, width, steps } = STREAM;
    const kept = shape.finalBlocks > 0 ? textTokens + imageTokens : targetTokens;
    const residuals = batch * width * (imageTokens + kept * (1 + shape.taylorOrder));
    expect(device.memoryUsage().allocated - before).toBe(4 * (residuals + 2 * steps + 1 + 2 + 4));
  });
});

it("the cases skip some steps and compute others", () => {
  const { computed } = reference(
    { probeBlocks: 1, finalBlocks: 0, taylorOrder: 0 },
    { threshold: 0.1, ...NO_LIMITS },
  );
  expect(computed.filter(Boolean).length).toBeGreaterThan(4);
  expect(computed.filter(Boolean).length).toBeLessThan(20);
});
