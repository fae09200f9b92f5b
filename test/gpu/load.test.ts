// Weights on their way to the GPU, against what the CPU keeps of the same files: rows of every dtype, more than the staging memory holds,
// quantised there or kept as they are.

import assert from "node:assert/strict";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { RandomWeights } from "../../dist/loaders/random-weights.js";
import type { TensorSource } from "../../dist/loaders/tensor-source.js";
import { WeightSource } from "../../dist/loaders/weights.js";
import { Linear } from "../../dist/nn/linear.js";
import { Model } from "../../dist/nn/model.js";
import type { Precision } from "../../dist/nn/scope.js";
import type { Device } from "../../dist/runtime/device.js";
import { cpu, e4m3Codes, gpu } from "./both.js";
import { toBf16, uniform } from "./random.js";

class Stacked extends Model {
  readonly linear: Linear;

  constructor(device: Device, precision: Precision, columns: number, rows: readonly number[]) {
    super(device, precision);
    const names = rows.map((_, index) => `layer.${index}`);
    this.linear = new Linear(this.scope, names, columns, rows, { bias: false, quantised: true });
  }
}

/** Codes and scales of a stacked linear in fp8, or its values in bf16 and no scales. */
async function kept(
  device: Device,
  precision: Precision,
  source: TensorSource,
  columns: number,
  rows: readonly number[],
) {
  using model = new Stacked(device, precision, columns, rows);
  await model.load(source);
  const { weight, scale } = model.linear;
  return { dtype: weight.dtype, weight: await weight.read(), scale: await scale?.read() };
}

async function expectSame(source: TensorSource, columns: number, rows: readonly number[]) {
  const [ours, reference] = [
    await kept(gpu, "fp8", source, columns, rows),
    await kept(cpu, "fp8", source, columns, rows),
  ];
  assert.equal(ours.dtype, "f8e4m3");
  assert.deepEqual(ours.scale, reference.scale);
  assert.ok(Buffer.from(ours.weight.buffer).equals(Buffer.from(reference.weight.buffer)), "codes differ");
  const bf16 = await kept(gpu, "bf16", source, columns, rows);
  const stored = await kept(cpu, "f32", source, columns, rows);
  assert.equal(bf16.dtype, "bf16");
  const expected =
    stored.dtype === "bf16" ? (stored.weight as Uint16Array) : toBf16(stored.weight as Float32Array);
  assert.ok(Buffer.from(bf16.weight.buffer).equals(Buffer.from(expected.buffer)), "bf16 values differ");
}

const folder = mkdtempSync(join(tmpdir(), "fluxwarp-load-"));
after(() => rmSync(folder, { recursive: true }));

interface Stored {
  readonly dtype: string;
  readonly shape: readonly number[];
  readonly bytes: Uint8Array;
}

async function fileOf(name: string, tensors: Readonly<Record<string, Stored>>): Promise<WeightSource> {
  let end = 0;
  const header: Record<string, object> = {};
  for (const [tensor, { dtype, shape, bytes }] of Object.entries(tensors)) {
    header[tensor] = { dtype, shape, data_offsets: [end, end + bytes.length] };
    end += bytes.length;
  }
  const json = Buffer.from(JSON.stringify(header));
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(json.length));
  const path = join(folder, name);
  writeFileSync(path, Buffer.concat([length, json, ...Object.values(tensors).map(({ bytes }) => bytes)]));
  return WeightSource.open(path);
}

const bytesOf = (array: ArrayBufferView) => new Uint8Array(array.buffer, array.byteOffset, array.byteLength);

/** f16 bits of numbers that f16 holds: multiples of 1/64 below 8. */
const toF16 = (values: Float32Array) =>
  Uint16Array.from(values, (value) => {
    const magnitude = Math.abs(value);
    if (magnitude === 0) return 0;
    const exponent = Math.floor(Math.log2(magnitude));
    return (value < 0 ? 0x8000 : 0) | ((exponent + 15) << 10) | ((magnitude / 2 ** exponent - 1) * 1024);
  });

test("random weights of more than both staging areas hold", async () => {
  const rows = [9001, 4096, 3];
  const source = new RandomWeights(
    rows.map((count, index) => ({ name: `layer.${index}.weight`, shape: [count, 4096] })),
    11,
  );
  await expectSame(source, 4096, rows);
});

for (const dtype of ["F32", "BF16", "F16"] as const) {
  test(`a file in ${dtype}, with a row of zeros`, async () => {
    const [rows, columns] = [257, 1023];
    const values = uniform(rows * columns, 5, 4).map((value) => Math.round(value * 64) / 64);
    values.fill(0, 3 * columns, 4 * columns);
    const encoded = { F32: values, BF16: toBf16(values), F16: toF16(values) }[dtype];
    const source = await fileOf(`${dtype}.safetensors`, {
      "layer.0.weight": { dtype, shape: [rows, columns], bytes: bytesOf(encoded) },
    });
    await expectSame(source, columns, [rows]);
  });
}

test("a file in e4m3 with one scale, with one for each row, and with none", async () => {
  const [rows, columns] = [130, 4096];
  const scales = uniform(rows, 7).map((value) => Math.abs(value) + 0.01);
  const codes = () => ({ dtype: "F8_E4M3", shape: [rows, columns], bytes: e4m3Codes(rows * columns) });
  const source = await fileOf("e4m3.safetensors", {
    "layer.0.weight": codes(),
    "layer.1.weight": codes(),
    "layer.2.weight": codes(),
    scales: { dtype: "F32", shape: [rows], bytes: bytesOf(scales) },
  });
  const scaleOf: Readonly<Record<string, object>> = {
    "layer.0.weight": { scale: 0.37 },
    "layer.1.weight": { scale: source.find("scales")! },
  };
  const view = { location: "", find: (name: string) => ({ ...source.find(name)!, ...scaleOf[name] }) };
  await expectSame(view, columns, [rows, rows, rows]);
});

test("values that are not finite are counted, and nothing stays allocated", async () => {
  const values = toBf16(uniform(64 * 256, 9));
  values.fill(0x7f80, 100, 103);
  const source = await fileOf("infinite.safetensors", {
    "layer.0.weight": { dtype: "BF16", shape: [64, 256], bytes: bytesOf(values) },
  });
  await gpu.drain();
  const before = gpu.memoryUsage().allocated;
  await assert.rejects(kept(gpu, "fp8", source, 256, [64]), /layer\.0\.weight \(3 of 16384 values\)/);
  await gpu.drain();
  assert.equal(gpu.memoryUsage().allocated, before);
});
