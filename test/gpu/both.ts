// Records the same ops on the CPU and on the GPU, with the same bits in.

import assert from "node:assert/strict";
import { after } from "node:test";
import { Device } from "../../dist/runtime/device.js";
import type { DType } from "../../dist/runtime/dtype.js";
import type { Recorder, Tensor } from "../../dist/runtime/recorder.js";
import type { Value } from "../../dist/runtime/value.js";
import { fromBf16, relativeL2, toBf16, uniform } from "./random.js";

export const cpu = Device.open("cpu");
export const gpu = Device.open("cuda:0");
after(() => {
  cpu.dispose();
  gpu.dispose();
});

/** An operand: f32 numbers that bf16 holds. `"activation"` is bf16 on the GPU and f32 on the CPU. */
export interface Input {
  readonly shape: readonly number[];
  readonly data: Float32Array | Int32Array | Uint8Array;
  readonly dtype: DType | "activation";
}

let seed = 1;
export function activation(shape: readonly number[], scale = 1): Input {
  return {
    shape,
    data: uniform(
      shape.reduce((a, b) => a * b, 1),
      seed++,
      scale,
    ),
    dtype: "activation",
  };
}
export function weight(shape: readonly number[], scale = 1): Input {
  return { ...activation(shape, scale), dtype: "bf16" };
}
export function f32(shape: readonly number[], scale = 1): Input {
  return { ...activation(shape, scale), dtype: "f32" };
}
export function i32(data: readonly number[], shape: readonly number[] = [data.length]): Input {
  return { shape, data: Int32Array.from(data), dtype: "i32" };
}

/** Codes of every finite e4m3 value, in a seeded order. */
export function e4m3Codes(count: number): Uint8Array {
  return Uint8Array.from(uniform(count, seed++), (value) => {
    const code = Math.floor((value + 1) * 127.5);
    return (code & 0x7f) === 0x7f ? code - 1 : code;
  });
}

type Build<Names extends string> = (g: Recorder, inputs: Record<Names, Tensor>) => Value;

/** What `build` computes on one device, as f32. Runs twice and asserts that both runs give the same bytes. */
export async function compute<Names extends string>(
  device: Device,
  inputs: Record<Names, Input>,
  build: Build<Names>,
): Promise<Float32Array> {
  const buffers = {} as Record<Names, ReturnType<Device["buffer"]>>;
  for (const [name, { shape, data, dtype }] of Object.entries(inputs) as [Names, Input][]) {
    const kept = dtype === "activation" ? device.dtype : dtype;
    const buffer = device.buffer(kept, shape);
    await buffer.write(kept === "bf16" ? toBf16(data as Float32Array) : data);
    buffers[name] = buffer;
  }
  let shape: readonly number[] = [];
  const shapes = device.record("shape", (g) => {
    shape = build(g, buffers).shape;
  });
  shapes.dispose();
  const out = device.buffer("f32", shape);
  const plan = device.record("test", (g) => g.copy(build(g, buffers), out));
  await out.write(new Float32Array(out.elements).fill(Number.NaN));
  await plan.run();
  const first = await out.read();
  await plan.run();
  assert.deepEqual(Buffer.from((await out.read()).buffer), Buffer.from(first.buffer), "two runs differ");
  plan.dispose();
  for (const buffer of [out, ...(Object.values(buffers) as ReturnType<Device["buffer"]>[])]) buffer.dispose();
  return first;
}

/** Asserts that both devices agree to a relative L2 of `tolerance`: 2.5e-3 is what one rounding to bf16 costs. */
export async function agree<Names extends string>(
  inputs: Record<Names, Input>,
  build: Build<Names>,
  tolerance = 2.5e-3,
): Promise<void> {
  const expected = await compute(cpu, inputs, build);
  const actual = await compute(gpu, inputs, build);
  const error = relativeL2(actual, expected);
  assert.ok(error <= tolerance, `relative L2 ${error.toExponential(2)} is over ${tolerance}`);
}

export { fromBf16, relativeL2, toBf16, uniform };
