// The CUDA Device: memory, order, graphs with conditions, profiles, errors, disposal.

import assert from "node:assert/strict";
import { test } from "node:test";
import { Device, deviceInfo } from "../../dist/runtime/device.js";
import { gpu, uniform } from "./both.js";

test("inspect says what the GPU is", () => {
  const { cuda } = deviceInfo();
  assert.equal(cuda.built, true);
  assert.equal(cuda.available, true);
  assert.equal(cuda.reason, undefined);
  assert.match(cuda.devices[0]!.computeCapability, /^\d+\.\d$/);
  assert.ok(cuda.devices[0]!.memoryBytes > 2 ** 30);
});

test("a GPU that is not there is refused with the ones that are", () => {
  assert.throws(() => Device.open("cuda:99"), { code: "ERR_FLUX_NO_DEVICE", message: /cuda:0/ });
});

test("Buffers keep what was written, across more than both staging areas", async () => {
  const data = uniform(30_000_000, 7); // 120 MB
  using buffer = gpu.buffer("f32", [data.length]);
  await buffer.write(data);
  await buffer.write(Float32Array.of(5, 6), 29_999_998);
  data.set([5, 6], 29_999_998);
  assert.deepEqual(Buffer.from((await buffer.read()).buffer), Buffer.from(data.buffer));
});

test("jobs run in the order of the calls", async () => {
  using x = gpu.buffer("f32", [4]);
  using counter = gpu.buffer("i32", [1]);
  using plan = gpu.record("count", (g) => g.increment(counter));
  const [, , , first, , , second] = await Promise.all([
    counter.write(Int32Array.of(0)),
    plan.run(),
    plan.run(),
    counter.read(),
    plan.run(),
    x.write(Float32Array.of(1, 2, 3, 4)),
    counter.read(),
  ]);
  assert.deepEqual([first[0], second[0]], [2, 3]);
});

test("a condition runs its body only when the flag says so, nested ones too", async () => {
  using a = gpu.buffer("f32", [1]);
  using limit = gpu.buffer("f32", [1]);
  using outer = gpu.buffer("i32", [1]);
  using inner = gpu.buffer("i32", [1]);
  using after = gpu.buffer("i32", [1]);
  using innerLimit = gpu.buffer("f32", [1]);
  using plan = gpu.record("conditions", (g) => {
    const flag = g.greater(a, limit);
    g.if(flag, () => {
      g.increment(outer);
      g.if(g.greater(a, innerLimit), () => g.increment(inner));
    });
    g.increment(after);
  });
  const zero = Int32Array.of(0);
  await Promise.all([
    limit.write(Float32Array.of(1)),
    innerLimit.write(Float32Array.of(10)),
    outer.write(zero),
    inner.write(zero),
    after.write(zero),
  ]);
  for (const value of [0, 2, 20, 0.5, 30]) {
    await a.write(Float32Array.of(value));
    await plan.run();
  }
  const counts = await Promise.all([outer.read(), inner.read(), after.read()]);
  assert.deepEqual(
    counts.map((count) => count[0]),
    [3, 2, 5],
  );
  await a.write(Float32Array.of(30));
  await plan.profile(); // op by op, twice: once to warm up
  assert.deepEqual([(await outer.read())[0], (await after.read())[0]], [5, 7]);
});
test("a profiled plan shows its times", async () => {
  using x = gpu.buffer("bf16", [512, 256]);
  using w = gpu.buffer("bf16", [1024, 256]);
  using out = gpu.buffer("f32", [512, 1024]);
  await x.write(new Uint16Array(512 * 256));
  await w.write(new Uint16Array(1024 * 256));
  using plan = gpu.record("linear", (g) => g.copy(g.linear(x, { weight: w }), out));
  await plan.profile();
  const { ops } = plan.describe();
  assert.ok(ops.every((op) => op.ms! > 0 && op.ms! < 100));
  assert.match(plan.toString(), / ms /);
});

test("a shape that the kernels do not take is refused by name", async () => {
  using x = gpu.buffer("bf16", [100, 24]);
  using w = gpu.buffer("bf16", [24, 24]);
  using out = gpu.buffer("bf16", [100, 24]);
  using plan = gpu.record("narrow", (g) => g.copy(g.linear(x, { weight: w }), out));
  await assert.rejects(plan.run(), { code: "ERR_FLUX_BAD_ARGUMENT", message: /16/ });
});

test("more memory than there is gives an error, and the Device goes on", async () => {
  assert.throws(() => gpu.buffer("u8", [2 ** 45]), { code: "ERR_FLUX_OUT_OF_MEMORY", message: /MiB/ });
  using small = gpu.buffer("u8", [16]);
  await small.write(new Uint8Array(16));
});

test("everything is given back", async () => {
  const device = Device.open("cuda:0");
  const x = device.buffer("bf16", [64, 256]);
  const out = device.buffer("bf16", [64, 256]);
  const plan = device.record("add", (g) => g.copy(g.add(g.add(x, x), x), out));
  const runs = [plan.run(), plan.run()];
  plan.dispose();
  x.dispose();
  out.dispose();
  await Promise.all(runs);
  await device.drain();
  assert.equal(device.memoryUsage().allocated, 0);
  assert.ok(device.memoryUsage().peak > 64 * 256 * 4);
  device.dispose();
  assert.throws(() => device.buffer("u8", [1]), { code: "ERR_FLUX_DISPOSED" });
});

test("freed memory goes back to the GPU with the last Buffer, and before it at trim()", async () => {
  const [gigabyte, slack] = [2 ** 30, 2 ** 28];
  const device = Device.open("cuda:0");
  await device.drain();
  const before = gpu.availableMemory(); // of another Device: what the GPU has, and what that one keeps
  const kept = device.buffer("u8", [2 ** 20]);
  const freed = device.buffer("u8", [gigabyte]);
  assert.ok(gpu.availableMemory() < before - gigabyte + slack);
  freed.dispose();
  await device.drain();
  assert.ok(gpu.availableMemory() < before - gigabyte + slack, "kept for the next Buffer");
  device.trim();
  await device.drain();
  assert.ok(gpu.availableMemory() > before - slack);
  const last = device.buffer("u8", [gigabyte]);
  kept.dispose();
  last.dispose();
  await device.drain();
  assert.ok(gpu.availableMemory() > before - slack);
  device.dispose();
});

test("two Devices of one GPU work at once", async () => {
  const other = Device.open("cuda:0");
  using a = gpu.buffer("i32", [1]);
  const b = other.buffer("i32", [1]);
  await Promise.all([a.write(Int32Array.of(1)), b.write(Int32Array.of(2))]);
  using first = gpu.record("a", (g) => g.increment(a));
  const second = other.record("b", (g) => g.increment(b));
  await Promise.all(Array.from({ length: 50 }, () => [first.run(), second.run()]).flat());
  assert.deepEqual([(await a.read())[0], (await b.read())[0]], [51, 52]);
  other.dispose();
});
