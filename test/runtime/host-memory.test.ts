// Matrices on their way from files into Buffers, against the same done value by value here.

import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { decodeValues, type SafetensorsDtype } from "../../lib/loaders/dtype.js";
import type { Device } from "../../lib/runtime/device.js";
import {
  clear,
  columnsInUse,
  type Gather,
  gather,
  HostMemory,
  type StoredMatrix,
  transfer,
  valuesOf,
} from "../../lib/runtime/host-memory.js";
import { native } from "../../lib/runtime/native.js";
import { bufferOf, cpuDevice } from "../support/device.js";
import { temporaryFolder } from "../support/fixture-folder.js";
import { randomValues, seededRandom } from "../support/random.js";

const DTYPES = [
  ["f32", "F32", 4],
  ["bf16", "BF16", 2],
  ["f16", "F16", 2],
  ["f8e4m3", "F8_E4M3", 1],
  ["f8e5m2", "F8_E5M2", 1],
] as const;

/** A matrix of random finite values at an odd place of a file, and its values. */
async function randomMatrix(
  [name, stored, size]: readonly [StoredMatrix["dtype"], SafetensorsDtype, number],
  rows: number,
  columns: number,
  seed = 1,
) {
  const next = seededRandom(seed);
  const bytes = new Uint8Array(3 + rows * columns * size).map(() => Math.floor(256 * next()));
  // No exponent of all ones: the upper byte of each element is a small number's.
  for (let i = 3 + size - 1; i < bytes.length; i += size) bytes[i] = 0x30 + (bytes[i]! & 0x83);
  const path = join(await temporaryFolder(), "matrix");
  await writeFile(path, bytes);
  const from: StoredMatrix = { source: new (native().Mapping)(path), begin: 3, dtype: name, rows, columns };
  const values = decodeValues(stored, bytes.subarray(3)) as Float32Array;
  return { from, values, at: (row: number, column: number) => values[row * columns + column]! };
}

/** What a gather leaves in host memory, as f32. */
async function gathered(
  device: Device,
  rows: number,
  columns: number,
  request: Omit<Gather, "target" | "targetOffset">,
) {
  const target = new HostMemory(device, 8 + 4 * rows * columns);
  const bad = await gather(device, [{ ...request, target, targetOffset: 8 }]);
  const values = await valuesOf(device, [{ source: target, begin: 8, dtype: request.to, rows, columns }]);
  target.dispose();
  return { bad: bad[0], values };
}

/** bf16 by rounding to nearest even, from the definition. */
function toBf16(value: number): number {
  const bits = new Uint32Array(Float32Array.of(value).buffer);
  bits[0] = (bits[0]! + 0x7fff + ((bits[0]! >>> 16) & 1)) & 0xffff0000;
  return new Float32Array(bits.buffer)[0]!;
}

describe.each(DTYPES)("gather from %s", (...dtype) => {
  it("keeps all of a matrix, in f32 and rounded to bf16", async () => {
    const device = cpuDevice();
    const { from, values } = await randomMatrix(dtype, 7, 33);
    expect(await gathered(device, 7, 33, { from, to: "f32" })).toEqual({ bad: 0, values });
    const rounded = await gathered(device, 7, 33, { from, to: "bf16" });
    expect(rounded).toEqual({ bad: 0, values: values.map(toBf16) });
  });

  it("chooses rows and columns, scales and transposes", async () => {
    const device = cpuDevice();
    const { from, at } = await randomMatrix(dtype, 9, 20);
    const [rows, columns] = [Int32Array.of(8, 0, 3), Int32Array.of(5, 19)];
    const request = { from, rows, columns, factor: 0.5, to: "f32" } as const;
    const chosen = [...rows].map((row) => [...columns].map((column) => 0.5 * at(row, column)));
    expect((await gathered(device, 3, 2, request)).values).toEqual(Float32Array.from(chosen.flat()));
    const turned = await gathered(device, 2, 3, { ...request, transposed: true });
    expect(turned.values).toEqual(
      Float32Array.from([0, 1].flatMap((column) => chosen.map((row) => row[column]!))),
    );
  });
});

describe("gather", () => {
  it("counts what is not finite, of what was chosen only", async () => {
    const device = cpuDevice();
    const source = new HostMemory(device, 24);
    const data = Float32Array.of(1, Number.NaN, 2, Number.POSITIVE_INFINITY, 3, 4);
    source.native.write(new Uint8Array(data.buffer), 0);
    const from = { source, begin: 0, dtype: "f32", rows: 3, columns: 2 } as const;
    expect((await gathered(device, 3, 2, { from, to: "f32" })).bad).toBe(2);
    expect((await gathered(device, 3, 1, { from, to: "bf16", columns: Int32Array.of(1) })).bad).toBe(2);
    expect((await gathered(device, 3, 1, { from, to: "f32", columns: Int32Array.of(0) })).bad).toBe(0);
  });

  it("refuses what does not fit, and goes on", async () => {
    const device = cpuDevice();
    const { from } = await randomMatrix(DTYPES[0], 4, 4);
    const target = new HostMemory(device, 63);
    const refused = async (request: Partial<Gather>, code: string, message: RegExp) => {
      const whole = { from, target, targetOffset: 0, to: "f32", ...request } as const;
      const error = { code, message: expect.stringMatching(message) };
      await expect(gather(device, [whole])).rejects.toThrow(expect.objectContaining(error));
    };
    const one = Int32Array.of(0);
    await refused({}, "ERR_FLUX_BAD_ARGUMENT", /too small/);
    await refused({ rows: Int32Array.of(4) }, "ERR_FLUX_BAD_ARGUMENT", /index 4 is outside an axis of 4/);
    await refused({ rows: one, from: { ...from, rows: 5 } }, "ERR_FLUX_BAD_WEIGHTS", /outside the file/);
    await refused({ rows: one, to: "f16" as "f32" }, "ERR_FLUX_UNSUPPORTED", /kept as f32 or bf16, not f16/);
    const whole = { rows: Int32Array.of(0, 1), from, target, targetOffset: 0, to: "f32" } as const;
    expect(await gather(device, [whole])).toEqual(Float64Array.of(0));
    target.dispose();
    expect(() => gather(device, [whole])).toThrow(expect.objectContaining({ code: "ERR_FLUX_DISPOSED" }));
  });
});

it("columnsInUse finds the columns of each band that hold anything", async () => {
  const device = cpuDevice();
  const source = new HostMemory(device, 4 * 24);
  const data = new Float32Array(24);
  for (const [row, column] of [
    [0, 1],
    [1, 1],
    [2, 0],
    [2, 3],
    [5, 2],
  ] as const)
    data[row * 4 + column] = -1;
  source.native.write(new Uint8Array(data.buffer), 0);
  const from = { source, begin: 0, dtype: "f32", rows: 6, columns: 4 } as const;
  const used = await columnsInUse(device, from, [2, 3, 5, 6]);
  expect(used.map((columns) => [...columns])).toEqual([[1], [0, 3], [], [2]]);
});

describe("transfer", () => {
  it("writes a matrix into a part of a Buffer, and nothing beside it", async () => {
    const device = cpuDevice();
    const values = randomValues(12, 3);
    const source = new HostMemory(device, 48);
    source.native.write(new Uint8Array(values.buffer), 0);
    const target = bufferOf(device, "f32", [5, 6], new Float32Array(30).fill(9));
    const part = { source, sourceOffset: 16, target, row: 1, column: 3 };
    await transfer(device, [{ ...part, rows: 4, columns: 2 }]);
    const found = await target.read();
    for (let row = 0; row < 5; row++) {
      for (let column = 0; column < 6; column++) {
        const inside = row >= 1 && (column === 3 || column === 4);
        const expected = inside ? values[4 + (row - 1) * 2 + (column - 3)] : 9;
        expect(found[row * 6 + column], `${row}, ${column}`).toBe(expected);
      }
    }
    await transfer(device, [{ source, sourceOffset: 0, target, row: 3, column: 0, rows: 2, columns: 6 }]);
    expect((await target.read()).slice(18)).toEqual(values);
  });

  it("refuses what would reach beyond the Buffer", () => {
    const device = cpuDevice();
    const source = new HostMemory(device, 400);
    const target = device.buffer("f32", [5, 6]);
    const beyond = { source, sourceOffset: 0, target, row: 1, column: 0, rows: 5, columns: 6 };
    expect(() => transfer(device, [beyond])).toThrow(/target Memory is too small/);
    target.dispose();
    expect(() => transfer(device, [{ ...beyond, row: 0 }])).toThrow(
      expect.objectContaining({ code: "ERR_FLUX_DISPOSED" }),
    );
  });

  it("clears Buffers", async () => {
    const device = cpuDevice();
    const target = bufferOf(device, "f32", [3], Float32Array.of(1, Number.NaN, 3));
    await clear(device, [target]);
    expect(await target.read()).toEqual(new Float32Array(3));
  });
});

it("host memory is counted, and given back", () => {
  const device = cpuDevice();
  const memory = new HostMemory(device, 1000);
  expect(device.memoryUsage().host).toBe(1000);
  memory.dispose();
  expect(device.memoryUsage().host).toBe(0);
});

it("work beside the device's thread ends with the Device", async () => {
  const device = cpuDevice();
  const { from } = await randomMatrix(DTYPES[0], 300, 300);
  const target = new HostMemory(device, 4 * 300 * 300);
  const queued = Array.from({ length: 5 }, () =>
    gather(device, [{ from, target, targetOffset: 0, to: "f32" }]),
  );
  device.dispose();
  for (const bad of await Promise.all(queued)) expect(bad).toEqual(Float64Array.of(0));
  expect(() => valuesOf(device, [from])).toThrow(expect.objectContaining({ code: "ERR_FLUX_DISPOSED" }));
});
