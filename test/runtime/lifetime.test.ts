import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import { describe, expect, it } from "vitest";
import { Device } from "../../lib/runtime/device.js";
import type { Plan } from "../../lib/runtime/plan.js";
import { bufferOf, cpuDevice } from "../support/device.js";
import { maxAbsDifference } from "../support/golden.js";
import { randomValues } from "../support/random.js";

const DISPOSED = { name: "FluxError", code: "ERR_FLUX_DISPOSED" };
const disposed = expect.objectContaining(DISPOSED);

const INPUT = randomValues(256 * 256, 1);
const WEIGHT = randomValues(256 * 256, 2, 0.1);

/** A plan that is busy for a while, with the Buffers that it reads and writes. */
function busyPlan(device: Device) {
  const x = bufferOf(device, "f32", [256, 256], INPUT);
  const weight = bufferOf(device, "f32", [256, 256], WEIGHT);
  const y = device.buffer("f32", [256, 256]);
  const plan = device.record("busy", (g) => g.copy(g.linear(g.linear(x, { weight }), { weight }), y));
  return { x, weight, y, plan };
}

describe("use after dispose", () => {
  it("is refused by a Buffer", async () => {
    const device = cpuDevice();
    const x = device.buffer("f32", [4]);
    x.dispose();
    expect(x.disposed).toBe(true);
    await expect(x.write(new Float32Array(4))).rejects.toMatchObject(DISPOSED);
    await expect(x.read()).rejects.toMatchObject(DISPOSED);
    expect(() => device.record("late", (g) => g.copy(x, x))).toThrow(disposed);
    x.dispose();
  });

  it("is refused by a Plan, and by one whose Buffer is gone", async () => {
    const device = cpuDevice();
    const { plan, weight, y } = busyPlan(device);
    const other = device.record("other", (g) => g.copy(g.activation(y, "silu"), y));
    weight.dispose();
    await expect(plan.run()).rejects.toMatchObject(DISPOSED);
    await expect(plan.profile()).rejects.toMatchObject(DISPOSED);
    await other.run();
    other.dispose();
    await expect(other.run()).rejects.toMatchObject(DISPOSED);
    other.dispose();
  });

  it("is refused by a Device and all that belongs to it", async () => {
    const device = cpuDevice();
    const { plan, x } = busyPlan(device);
    device.dispose();
    expect(device.disposed).toBe(true);
    expect(() => device.buffer("f32", [4])).toThrow(disposed);
    expect(() => device.record("late", () => {})).toThrow(disposed);
    await expect(device.drain()).rejects.toMatchObject(DISPOSED);
    await expect(plan.run()).rejects.toMatchObject(DISPOSED);
    await expect(x.read()).rejects.toMatchObject(DISPOSED);
    await expect(x.write(new Float32Array(4))).rejects.toMatchObject(DISPOSED);
    device.dispose();
  });

  it("is what `using` leads to", async () => {
    let escaped: Plan;
    {
      using device = Device.open("cpu", { threads: 1 });
      using x = device.buffer("f32", [4]);
      escaped = device.record("escaped", (g) => g.copy(x, x));
      await escaped.run();
    }
    await expect(escaped.run()).rejects.toMatchObject(DISPOSED);
  });
});

describe("disposal while work is queued", () => {
  it("lets runs and reads that were queued before finish with the right values", async () => {
    const device = cpuDevice();
    const { plan, y } = busyPlan(device);
    await plan.run();
    const expected = await y.read();
    await y.write(new Float32Array(y.elements));

    const { plan: again, x, weight, y: out } = busyPlan(device);
    const runs = [again.run(), again.run(), again.run()];
    const result = out.read();
    for (const owner of [again, x, weight, out]) owner.dispose();
    await Promise.all(runs);
    expect(maxAbsDifference(await result, expected)).toBe(0);
  });

  it("lets them finish when the Device goes, too", async () => {
    const device = cpuDevice();
    const { plan, y } = busyPlan(device);
    const runs = Promise.all([plan.run(), plan.run()]);
    const result = y.read();
    device.dispose();
    await runs;
    expect((await result).some((value) => value !== 0)).toBe(true);
  });
});

describe("memory", () => {
  it("counts Buffers and the arena, and goes back to nothing", async () => {
    const device = cpuDevice();
    for (let round = 0; round < 20; round++) {
      const { plan, x, weight, y } = busyPlan(device);
      const buffers = x.bytes + weight.bytes + y.bytes;
      expect(device.memoryUsage().allocated).toBe(buffers);
      await plan.run();
      expect(device.memoryUsage().allocated).toBe(buffers + plan.arenaBytes);
      for (const owner of [x, plan, y, weight]) owner.dispose();
      await device.drain();
      expect(device.memoryUsage().allocated).toBe(0);
    }
    const { x, weight, y, plan } = busyPlan(device);
    expect(device.memoryUsage().peak).toBe(x.bytes + weight.bytes + y.bytes + plan.arenaBytes);
  });

  it("goes back to nothing after failed runs", async () => {
    const device = cpuDevice();
    for (let round = 0; round < 5; round++) {
      const ids = bufferOf(device, "i32", [1, 1], Int32Array.of(99));
      const table = device.buffer("f32", [4, 64]);
      const plan = device.record("bad id", (g) => g.activation(g.embedding(ids, table), "silu"));
      await expect(plan.run()).rejects.toThrow(/id 99/);
      for (const owner of [ids, table, plan]) owner.dispose();
    }
    await device.drain();
    expect(device.memoryUsage().allocated).toBe(0);
  });

  it.each(["before", "after"])("is given back by Buffers and Plans disposed %s the Device", async (when) => {
    const device = cpuDevice();
    const { plan, x, weight, y } = busyPlan(device);
    const run = plan.run();
    const release = () => {
      for (const owner of [plan, x, weight, y]) owner.dispose();
    };
    if (when === "before") release();
    device.dispose();
    if (when === "after") release();
    await run;
    await expect.poll(() => device.memoryUsage().allocated).toBe(0);
  });

  it("of Buffers and Plans that were forgotten is given back by the garbage collector", async () => {
    setFlagsFromString("--expose-gc");
    const collect = runInNewContext("gc") as () => void;
    const device = cpuDevice();
    const forget = async () => {
      for (let i = 0; i < 20; i++) await busyPlan(device).plan.run();
    };
    await forget();
    expect(device.memoryUsage().allocated).toBeGreaterThan(0);
    await expect
      .poll(
        () => {
          collect();
          return device.memoryUsage().allocated;
        },
        { timeout: 10_000 },
      )
      .toBe(0);
  });

  it("that is not there is an error, and the device goes on", async () => {
    const device = cpuDevice();
    expect(() => device.buffer("f32", [2 ** 24, 2 ** 24])).toThrow(
      expect.objectContaining({ name: "FluxError", code: "ERR_FLUX_OUT_OF_MEMORY" }),
    );
    expect(device.memoryUsage().allocated).toBe(0);
    const x = bufferOf(device, "f32", [2], Float32Array.of(1, 2));
    expect([...(await x.read())]).toEqual([1, 2]);
  });

  it("for an arena that is not there is an error of the run", async () => {
    const device = cpuDevice();
    const x = bufferOf(device, "f32", [1, 1], Float32Array.of(1));
    const plan = device.record("huge", (g) => {
      const rows = x.value
        .pick(0, 0)
        .repeat(0, 2 ** 24)
        .repeat(0, 2 ** 24);
      g.activation(rows, "silu");
    });
    await expect(plan.run()).rejects.toMatchObject({ code: "ERR_FLUX_OUT_OF_MEMORY" });
    expect(device.memoryUsage().allocated).toBe(4);
    expect([...(await x.read())]).toEqual([1]);
  });
});
