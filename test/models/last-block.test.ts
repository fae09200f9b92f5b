// The last single block computes no more than what is read of it, and that is what the whole block gives.

import { describe, expect, it } from "vitest";
import { readFluxTransformerConfig } from "../../lib/loaders/config.js";
import { WeightSource } from "../../lib/loaders/weights.js";
import { FluxTransformer } from "../../lib/models/flux/transformer.js";
import type { Linear } from "../../lib/nn/linear.js";
import type { Precision } from "../../lib/nn/scope.js";
import type { Device } from "../../lib/runtime/device.js";
import type { AttentionType } from "../../lib/runtime/heads.js";
import type { Op } from "../../lib/runtime/op.js";
import { Recorder } from "../../lib/runtime/recorder.js";
import type { Value } from "../../lib/runtime/value.js";
import { bufferOf, compute, cpuDevice } from "../support/device.js";
import { goldenPath } from "../support/golden.js";

interface Tokens {
  readonly batch: number;
  readonly text: number;
  readonly image: number;
  readonly target: number;
}

async function load(device: Device, precision: Precision, attention: AttentionType) {
  const folder = goldenPath("tiny-flux-schnell/transformer");
  const config = await readFluxTransformerConfig(folder);
  const transformer = new FluxTransformer(device, config, precision, attention);
  await transformer.load(await WeightSource.open(folder));
  return transformer;
}

/** Numbers in [−1, 1) without a pattern that matters. */
function numbers(count: number, seed: number): Float32Array {
  let state = seed;
  return Float32Array.from({ length: count }, () => {
    state = (state * 48271) % 2147483647;
    return state / 1073741824 - 1;
  });
}

function inputs(device: Device, transformer: FluxTransformer, { batch, text, image, target }: Tokens) {
  const values = (shape: number[], seed: number) => {
    const data = numbers(
      shape.reduce((a, b) => a * b),
      seed,
    );
    return bufferOf(device, "f32", shape, data);
  };
  return {
    latents: values([batch, image, transformer.config.inChannels], 1),
    targetTokens: target,
    text: values([batch, text, transformer.width], 2),
    modulation: values([batch, transformer.modulationColumns], 3).value,
    rope: values([text + image, 64, 2], 4),
  };
}

/** A branch of rank 4 beside a linear. */
function attachBranch(device: Device, linear: Linear): void {
  const [n, k] = linear.weight.shape as [number, number];
  let end = 0;
  const starts = linear.rows.map((length) => {
    const start = end;
    end += length;
    return start;
  });
  const ranks = 4 * starts.length;
  linear.lowRank = {
    down: bufferOf(device, "f32", [ranks, k], numbers(ranks * k, 5)),
    scale: bufferOf(device, "f32", [ranks], new Float32Array(ranks).fill(0.05)),
    up: bufferOf(device, "f32", [n, 4], numbers(n * 4, 6)),
    starts,
  };
}

/** The velocity at the target tokens, of the last block as it is recorded, and of the whole one. */
async function both(tokens: Tokens, precision: Precision, attention: AttentionType, branches = false) {
  const device = cpuDevice(2);
  using transformer = await load(device, precision, attention);
  if (branches) for (const linear of transformer.linears) attachBranch(device, linear);
  const velocity = async () => {
    const operands = inputs(device, transformer, tokens);
    return (await compute(device, (g) => ({ out: transformer.forward(g, operands) }))).out;
  };
  const out = await velocity();
  const last = transformer.singleBlocks.at(-1)!;
  const forward = last.forward.bind(last);
  last.forward = (g, hidden, context) => forward(g, hidden, context);
  return { out, whole: await velocity() };
}

describe("the last block, computed for the target tokens alone", () => {
  it.each<[string, Tokens, Precision, AttentionType]>([
    ["text before", { batch: 1, text: 77, image: 64, target: 64 }, "f32", "bf16"],
    ["text before and references behind", { batch: 2, text: 10, image: 140, target: 60 }, "f32", "bf16"],
    ["fp8", { batch: 2, text: 10, image: 140, target: 60 }, "fp8", "bf16"],
    ["int8 attention", { batch: 2, text: 77, image: 140, target: 60 }, "fp8", "int8"],
    ["fp8 attention", { batch: 2, text: 77, image: 140, target: 60 }, "f32", "fp8"],
  ])("gives the same bytes: %s", async (_, tokens, precision, attention) => {
    const { out, whole } = await both(tokens, precision, attention);
    expect(out.some((value) => value !== 0 && Number.isFinite(value))).toBe(true);
    expect(Buffer.from(out.buffer).equals(Buffer.from(whole.buffer))).toBe(true);
  });

  it("gives the same bytes with low-rank branches", async () => {
    const tokens = { batch: 2, text: 10, image: 40, target: 16 };
    const plain = await both(tokens, "f32", "bf16");
    const { out, whole } = await both(tokens, "f32", "bf16", true);
    expect(Buffer.from(out.buffer).equals(Buffer.from(whole.buffer))).toBe(true);
    expect(Buffer.from(out.buffer).equals(Buffer.from(plain.out.buffer))).toBe(false);
  });
});

describe("a GPU's recording of the last block", () => {
  /** The last attention's queries as [first, count] and its keys, and the rows and columns of the products into it. */
  async function recorded(tokens: Tokens, attention: AttentionType) {
    const device = cpuDevice(1);
    using transformer = await load(device, "f32", attention);
    const g = new Recorder("bf16");
    transformer.forward(g, inputs(device, transformer, tokens));
    const at = g.ops.findLastIndex(({ kind }) => kind.startsWith("attention"));
    const { q, k } = g.ops[at]!.inputs as { q: Value; k: Value };
    const axis = attention === "bf16" ? 1 : 2;
    const before: readonly Op[] = g.ops[at - 1]!.body ?? [g.ops[at - 1]!];
    const products = before.map(({ inputs }) => [inputs.x!.shape[1], inputs.weight!.shape[0]]);
    const first = (q.offset / q.stride[axis]!) % k.shape[axis]!;
    return { queries: [first, q.shape[axis]], keys: k.shape[axis], products };
  }
  const [all, heads] = [7 * 128 * 2, 3 * 128 * 2];

  it("asks with the target tokens alone, and makes no MLP of the others", async () => {
    const tokens = { batch: 1, text: 128, image: 512, target: 256 };
    for (const attention of ["bf16", "int8", "fp8"] as const) {
      expect(await recorded(tokens, attention)).toEqual({
        queries: [128, 256],
        keys: 640,
        products: [
          [256, all],
          [128, heads],
          [256, heads],
        ],
      });
    }
  });

  it("begins and ends where 8-bit layouts can be cut", async () => {
    expect(await recorded({ batch: 1, text: 77, image: 200, target: 100 }, "int8")).toEqual({
      queries: [64, 128],
      keys: 277,
      products: [
        [128, all],
        [64, heads],
        [85, heads],
      ],
    });
    expect(await recorded({ batch: 1, text: 60, image: 200, target: 200 }, "int8")).toEqual({
      queries: [0, 260],
      keys: 260,
      products: [[260, all]],
    });
  });
});
