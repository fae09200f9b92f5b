// 8-bit attention's offset of k through the ops: both devices find the same one, and it takes what a common mean costs.

import assert from "node:assert/strict";
import { test } from "node:test";
import type { Device } from "../../dist/runtime/device.js";
import type { AttentionType } from "../../dist/runtime/heads.js";
import { cpu, gpu } from "./both.js";
import { relativeL2, toBf16, uniform } from "./random.js";

const [BATCH, HEADS, WIDTH] = [2, 2, 256];
const rows = (tokens: number) => uniform(BATCH * tokens * WIDTH, 71);
const weight = uniform(3 * WIDTH * WIDTH, 72, 0.1);
// k's bias stands far above its products. RoPE does not turn, or the mean would not be one.
const bias = uniform(3 * WIDTH, 73).map((value, at) => (Math.floor(at / WIDTH) === 1 ? 6 * value : value));

/** Two runs of one recording: what attention gave, and the offset that it left, after each. */
async function twoSteps(device: Device, type: AttentionType, tokens: number, text: number) {
  const buffer = (dtype: "f32" | "bf16", shape: number[], data: Float32Array) => {
    const made = device.buffer(dtype, shape);
    made.write(dtype === "bf16" ? toBf16(data) : data).catch(() => {}); // a failure shows where it is read
    return made;
  };
  const x = buffer(device.dtype, [BATCH, tokens, WIDTH], rows(tokens));
  const weights = {
    weight: buffer("bf16", [3 * WIDTH, WIDTH], weight),
    bias: buffer("f32", [3 * WIDTH], bias),
  };
  const norm = buffer("f32", [128], new Float32Array(128).fill(6));
  const keyOffset = buffer("f32", [BATCH, HEADS, 128], new Float32Array(BATCH * HEADS * 128));
  const ids = buffer("f32", [tokens, 3], new Float32Array(3 * tokens));
  const y = device.buffer("f32", [BATCH, tokens, HEADS, 128]);
  const plan = device.record("two steps", (g) => {
    const rope = g.ropeTable(ids, [16, 56, 56], 10000);
    const qkv = g.heads([BATCH, tokens, HEADS], type, { starts: [0, text], keyOffset });
    const parts = [
      { start: 0, length: text },
      { start: text, length: tokens - text },
    ];
    for (const { start, length } of parts) {
      g.qkvLinear(x.value.slice(1, start, length), weights, {
        qkv: qkv.slice(start, length),
        normQ: norm,
        normK: norm,
        rope: rope.slice(0, start, length),
        eps: 1e-6,
      });
    }
    g.copy(g.attend(qkv, { scale: 1 / Math.sqrt(128) }), y);
  });
  const step = async () => {
    await plan.run();
    const [out, offset] = await Promise.all([y.read(), keyOffset.read()]);
    return { out, offset };
  };
  const steps = [await step(), await step()] as const;
  plan.dispose();
  for (const made of [x, weights.weight, weights.bias, norm, keyOffset, ids, y]) made.dispose();
  return steps;
}

// Text that ends at a multiple of 64 tokens is packed by the GEMM, other text by an op of its own.
for (const [tokens, text] of [
  [300, 128],
  [301, 77],
] as const) {
  for (const type of ["int8", "fp8"] as const) {
    test(`${type}, ${text} + ${tokens - text} tokens`, async () => {
      const exact = (await twoSteps(cpu, "bf16", tokens, text))[0].out;
      const [expected, got] = [
        await twoSteps(cpu, type, tokens, text),
        await twoSteps(gpu, type, tokens, text),
      ];
      const errors = got.map(({ out }) => relativeL2(out, exact));
      const offsets = got.map(({ offset }, at) => relativeL2(offset, expected[at]!.offset));
      console.log(
        `${type}: errors ${errors.map((e) => e.toFixed(4))}, offsets ${offsets.map((e) => e.toFixed(4))}`,
      );
      for (const offset of offsets) assert.ok(offset < 0.01);
      assert.ok(errors[1]! < 0.85 * errors[0]!);
    });
  }
}
