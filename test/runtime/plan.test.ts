import { open, readFile } from "node:fs/promises";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import type { Device } from "../../lib/runtime/device.js";
import { bufferOf, cpuDevice } from "../support/device.js";
import { temporaryFolder } from "../support/fixture-folder.js";
import { randomValues } from "../support/random.js";

const floats = (...values: number[]) => Float32Array.from(values);

describe("Plan", () => {
  it("replays with what its Buffers hold at that moment", async () => {
    const device = cpuDevice();
    const x = device.buffer("f32", [3]);
    const y = device.buffer("f32", [3]);
    const plan = device.record("twice", (g) => g.copy(g.add(x, x), y));
    const results: Promise<Float32Array>[] = [];
    for (let round = 1; round <= 5; round++) {
      x.write(floats(round, 10 * round, 100 * round));
      plan.run();
      results.push(y.read());
    }
    // Nothing was awaited in between: writes, runs and reads happen in the order of the calls.
    const rounds = (await Promise.all(results)).map((values) => [...values]);
    expect(rounds).toEqual([1, 2, 3, 4, 5].map((round) => [2 * round, 20 * round, 200 * round]));
  });

  it("takes back revocable runs that have not begun, and no others", async () => {
    const device = cpuDevice();
    const count = bufferOf(device, "i32", [1], Int32Array.of(0));
    const x = bufferOf(device, "f32", [4_000_000], new Float32Array(4_000_000));
    const busy = device.record("busy", (g) => g.copy(g.activation(x, "gelu"), x));
    const plan = device.record("count", (g) => g.increment(count));
    // What follows is queued long before this is done.
    const runs = [busy.run(), plan.run({ revocable: true }), plan.run(), plan.run({ revocable: true })];
    plan.revoke();
    await Promise.all(runs);
    expect([...(await count.read())]).toEqual([1]);
    await plan.run({ revocable: true });
    expect([...(await count.read())], "a later one is not meant").toEqual([2]);
    plan.dispose();
    plan.revoke();
  });

  it("settles promises in the order of the calls", async () => {
    const device = cpuDevice();
    const x = device.buffer("f32", [64]);
    const plan = device.record("busy", (g) => g.copy(g.activation(x, "gelu"), x));
    const order: string[] = [];
    const note = (name: string) => () => void order.push(name);
    await Promise.all([
      x.write(new Float32Array(64)).then(note("write")),
      plan.run().then(note("run")),
      plan.run().then(note("second run")),
      x.read().then(note("read")),
      device.drain().then(note("drain")),
    ]);
    expect(order).toEqual(["write", "run", "second run", "read", "drain"]);
  });

  it("takes another Buffer's elements over in the order of the calls, and no others", async () => {
    const device = cpuDevice();
    const from = bufferOf(device, "f32", [2], floats(1, 2));
    const to = bufferOf(device, "f32", [2, 3], floats(0, 0, 0, 0, 0, 0));
    const copied = to.copyFrom(from, 3);
    void from.write(floats(8, 9));
    await copied;
    expect([...(await to.read())]).toEqual([0, 0, 0, 1, 2, 0]);
    for (const wrong of [to.copyFrom(from, 5), to.copyFrom(from, -1), from.copyFrom(to)])
      await expect(wrong).rejects.toMatchObject({ code: "ERR_FLUX_BAD_ARGUMENT" });
    const elsewhere = bufferOf(cpuDevice(), "f32", [2], floats(1, 2));
    await expect(to.copyFrom(elsewhere)).rejects.toMatchObject({ code: "ERR_FLUX_BAD_ARGUMENT" });
  });

  it("saves a Buffer into a file at a position, and says why it cannot", async () => {
    const device = cpuDevice();
    const x = bufferOf(device, "f32", [3], floats(1, 2, 3));
    const path = join(await temporaryFolder(), "saved");
    const file = await open(path, "w+");
    await file.write("head");
    await x.save(file.fd, 4);
    await file.close();
    const bytes = await readFile(path);
    expect(bytes.subarray(0, 4).toString()).toBe("head");
    expect([...new Float32Array(Uint8Array.from(bytes.subarray(4)).buffer)]).toEqual([1, 2, 3]);
    const readOnly = await open(path, "r");
    await expect(x.save(readOnly.fd, 0)).rejects.toMatchObject({ code: "ERR_FLUX_IO" });
    await readOnly.close();
  });

  it("copies what is written at the call", async () => {
    const device = cpuDevice();
    const x = device.buffer("f32", [3]);
    const data = floats(1, 2, 3);
    const written = x.write(data);
    data.fill(9);
    await written;
    expect([...(await x.read())]).toEqual([1, 2, 3]);
  });

  it("runs a condition's body only when the flag is set at that moment", async () => {
    const device = cpuDevice();
    const flag = bufferOf(device, "i32", [1], Int32Array.of(0));
    const x = bufferOf(device, "f32", [2], floats(1, 2));
    const y = device.buffer("f32", [2]);
    const plan = device.record("condition", (g) => {
      g.copy(x, y);
      g.if(flag, () => g.copy(g.add(x, x), y));
    });
    const seen: number[][] = [];
    for (const value of [0, 1, 0, -3]) {
      await flag.write(Int32Array.of(value));
      await plan.run();
      seen.push([...(await y.read())]);
    }
    expect(seen).toEqual([
      [1, 2],
      [2, 4],
      [1, 2],
      [2, 4],
    ]);
  });

  it("decides on a flag that the same run computed, and nests", async () => {
    const device = cpuDevice();
    const a = device.buffer("f32", [1]);
    const b = device.buffer("f32", [1]);
    const limit = bufferOf(device, "f32", [1], floats(10));
    const counter = bufferOf(device, "i32", [1], Int32Array.of(0));
    const inner = bufferOf(device, "i32", [1], Int32Array.of(0));
    const plan = device.record("nested", (g) => {
      g.if(g.greater(a, b), () => {
        g.increment(counter);
        g.if(g.greater(a, limit), () => g.increment(inner));
      });
    });
    for (const [left, right] of [
      [1, 2],
      [3, 2],
      [11, 12],
      [12, 11],
      [Number.NaN, 0],
      [20, 1],
    ]) {
      a.write(floats(left));
      b.write(floats(right));
      await plan.run();
    }
    expect([...(await counter.read()), ...(await inner.read())]).toEqual([3, 2]);
  });

  it("carries a value out of a condition in one that exists before", async () => {
    const device = cpuDevice();
    const flag = bufferOf(device, "i32", [1], Int32Array.of(1));
    const x = bufferOf(device, "f32", [3], floats(1, 2, 3));
    const y = device.buffer("f32", [3]);
    const plan = device.record("carry", (g) => {
      const kept = g.add(x, x);
      g.if(flag, () => g.copy(g.multiply(kept, x), kept));
      g.copy(g.add(kept, x), y);
    });
    await plan.run();
    expect([...(await y.read())]).toEqual([3, 10, 21]);
    await flag.write(Int32Array.of(0));
    await plan.run();
    expect([...(await y.read())]).toEqual([3, 6, 9]);
  });

  it("shares one arena between plans of different sizes", async () => {
    const device = cpuDevice();
    const plans = [100, 5000, 300].map((length) => {
      const x = bufferOf(device, "f32", [length], randomValues(length, length));
      const y = device.buffer("f32", [length]);
      const plan = device.record(`sum of ${length}`, (g) => g.copy(g.add(g.add(x, x), x), y));
      return { x, y, plan };
    });
    const buffers = device.memoryUsage().allocated;
    for (const round of [0, 1, 2, 0]) {
      const { x, y, plan } = plans[round];
      await plan.run();
      const [input, output] = [await x.read(), await y.read()];
      expect(output).toEqual(input.map((value) => Math.fround(Math.fround(value + value) + value)));
    }
    const largest = Math.max(...plans.map(({ plan }) => plan.arenaBytes));
    expect(device.memoryUsage().allocated).toBe(buffers + largest);
  });

  it("rejects a run whose op fails, and leaves the device usable", async () => {
    const device = cpuDevice();
    const ids = bufferOf(device, "i32", [1, 3], Int32Array.of(0, 5, 1));
    const table = bufferOf(device, "f32", [5, 2], randomValues(10, 1));
    const y = device.buffer("f32", [1, 3, 2]);
    const plan = device.record("lookup", (g) => g.copy(g.embedding(ids, table), y));
    await expect(plan.run()).rejects.toMatchObject({
      name: "FluxError",
      code: "ERR_FLUX_BAD_ARGUMENT",
      message: expect.stringMatching(/embedding: id 5 at position 1 is outside table \[5, 2\]/),
    });
    await ids.write(Int32Array.of(0, -1, 1));
    await expect(plan.run()).rejects.toMatchObject({ message: expect.stringMatching(/id -1/) });
    await ids.write(Int32Array.of(4, 0, 4));
    await plan.run();
    const rows = await table.read();
    expect([...(await y.read())]).toEqual([8, 9, 0, 1, 8, 9].map((at) => rows[at]));
  });

  it("does not run what follows a failed op", async () => {
    const device = cpuDevice();
    const step = bufferOf(device, "i32", [1], Int32Array.of(4));
    const table = bufferOf(device, "f32", [4, 2], randomValues(8, 1));
    const counter = bufferOf(device, "i32", [1], Int32Array.of(0));
    const plan = device.record("row, then count", (g) => {
      g.takeRow(table, step);
      g.increment(counter);
    });
    await expect(plan.run()).rejects.toMatchObject({ code: "ERR_FLUX_BAD_ARGUMENT" });
    expect([...(await counter.read())]).toEqual([0]);
  });

  it("refuses Buffers of another device", () => {
    const [one, other] = [cpuDevice(1), cpuDevice(1)];
    const x = one.buffer("f32", [4]);
    const y = other.buffer("f32", [4]);
    expect(() => one.record("mixed", (g) => g.copy(x, y))).toThrow(
      expect.objectContaining({
        code: "ERR_FLUX_BAD_ARGUMENT",
        message: expect.stringMatching(/another Device/),
      }),
    );
  });

  it("gives the same bytes at any number of threads", async () => {
    const results: Uint8Array[] = [];
    for (const threads of [1, 2, 5]) results.push(await mixedWork(cpuDevice(threads)));
    expect(results[0].some((byte) => byte !== 0)).toBe(true);
    expect(Buffer.compare(results[1], results[0])).toBe(0);
    expect(Buffer.compare(results[2], results[0])).toBe(0);
  });
});

/** One of each kind of reduction, over sizes that no block divides; the bytes of all results. */
async function mixedWork(device: Device): Promise<Uint8Array> {
  const random = (shape: number[], seed: number) =>
    bufferOf(
      device,
      "f32",
      shape,
      randomValues(
        shape.reduce((a, b) => a * b),
        seed,
      ),
    );
  const x = random([2, 131, 3 * 2 * 40], 1);
  const weight = random([253, 240], 2);
  const image = random([1, 37, 29, 24], 3);
  const kernel = random([19, 3, 3, 24], 4);
  const [norm, bias] = [random([24], 5), random([24], 6)];
  const outputs: ReturnType<typeof random>[] = [];
  const plan = device.record("mixed", (g) => {
    const qkv = x.value.split(-1, [3, 2, 40]);
    const values = [
      g.linear(x, { weight }, { activation: "gelu" }),
      g.attention(qkv.pick(2, 0), qkv.pick(2, 1), qkv.pick(2, 2), { scale: 0.16, causal: true }),
      g.layerNorm(x, { eps: 1e-6 }),
      g.groupNorm(image, { weight: norm, bias, groups: 6, eps: 1e-6, activation: "silu" }),
      g.conv2d(image, { weight: kernel }, { padding: [1, 1, 1, 1], upsample: 2 }),
    ];
    for (const value of values) {
      const output = device.buffer("f32", value.shape);
      g.copy(value, output);
      outputs.push(output);
    }
  });
  await plan.run();
  const arrays = await Promise.all(outputs.map((output) => output.read()));
  return new Uint8Array(Buffer.concat(arrays.map((array) => new Uint8Array(array.buffer))));
}

describe("Plan.describe", () => {
  const describedPlan = (device: Device) => {
    const x = device.buffer("f32", [2, 8, 16]);
    const weight = device.buffer("bf16", [32, 16]);
    const flag = device.buffer("i32", [1]);
    const y = device.buffer("f32", [2, 8, 32]);
    return device.record("sketch", (g) => {
      const h = g.linear(x, { weight }, { activation: "silu" });
      g.if(flag, () => g.copy(h, y));
    });
  };

  it("counts FLOPs and bytes from the shapes", () => {
    const { ops, flops, bytes, arenaBytes, liveBytes, bufferBytes } = describedPlan(cpuDevice(1)).describe();
    expect(ops.map(({ kind, depth }) => [kind, depth])).toEqual([
      ["linear", 0],
      ["if", 0],
      ["copy", 1],
    ]);
    expect(ops[0].inputs).toEqual({ x: "f32[2, 8, 16]", weight: "bf16[32, 16]" });
    expect(ops[0].outputs).toEqual({ y: "f32[2, 8, 32]" });
    expect(flops).toBe(2 * 16 * 32 * 16);
    const [input, weights, output] = [2 * 8 * 16 * 4, 32 * 16 * 2, 2 * 8 * 32 * 4];
    expect(bytes).toBe(input + weights + output + 4 + 2 * output);
    expect(arenaBytes).toBe(output);
    expect(liveBytes).toBe(output);
    expect(bufferBytes).toBe(input + weights + output + 4);
  });

  it("prints a row an op", () => {
    const text = describedPlan(cpuDevice(1)).toString();
    expect(text).toMatch(/^plan sketch: 3 ops/);
    expect(text.split("\n")).toHaveLength(5);
    expect(text).toMatch(/linear .*f32\[2, 8, 16\] bf16\[32, 16\] → f32\[2, 8, 32\]/);
  });

  it("has the times of top-level ops after a profiled run", async () => {
    const plan = describedPlan(cpuDevice(1));
    expect(plan.describe().ops.every((op) => op.ms === undefined)).toBe(true);
    await plan.profile();
    const times = plan.describe().ops.map((op) => op.ms);
    expect(times.slice(0, 2).every((ms) => typeof ms === "number" && ms >= 0)).toBe(true);
    expect(times[2]).toBeUndefined();
    expect(plan.toString()).toMatch(/\d\.\d{3} ms/);
  });
});
