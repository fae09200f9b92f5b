import { once } from "node:events";
import { describe, expect, it } from "vitest";
import { Device, type DeviceName, deviceInfo } from "../../lib/runtime/device.js";
import { bufferOf, cpuDevice } from "../support/device.js";

const BAD_ARGUMENT = { name: "FluxError", code: "ERR_FLUX_BAD_ARGUMENT" };
const badArgument = expect.objectContaining(BAD_ARGUMENT);

describe("Device.open", () => {
  it("refuses names that are none", () => {
    for (const name of ["gpu", "cuda:", "cuda:x", "CPU", ""]) {
      expect(() => Device.open(name as DeviceName), name).toThrow(badArgument);
    }
  });

  it("refuses impossible numbers of threads", () => {
    for (const threads of [0, -1, 1.5, 1025, Number.NaN]) {
      expect(() => Device.open("cpu", { threads }), String(threads)).toThrow(badArgument);
    }
  });

  it.skipIf(deviceInfo().cuda.available)("says why there is no GPU", () => {
    const { reason } = deviceInfo().cuda;
    expect(reason).toMatch(/\S/);
    expect(() => Device.open("cuda:0")).toThrow(
      expect.objectContaining({ code: "ERR_FLUX_NO_DEVICE", message: expect.stringContaining(reason!) }),
    );
  });

  it.skipIf(deviceInfo().cuda.available)(
    "falls back to the CPU with a warning that names the reason",
    async () => {
      const warned = once(process, "warning") as Promise<(Error & { code?: string })[]>;
      using device = Device.open("auto", { threads: 1 });
      const [warning] = await warned;
      expect(device.kind).toBe("cpu");
      expect(warning.code).toBe("FLUX_CPU_FALLBACK");
      expect(warning.message).toContain(deviceInfo().cuda.reason);
    },
  );

  it("says which instructions it computes with", () => {
    expect(["avx512", "avx2", "baseline"]).toContain(deviceInfo().cpu.simd);
    expect(deviceInfo().cpu.cores).toBeGreaterThanOrEqual(1);
  });
});

describe("Buffer", () => {
  it("refuses impossible shapes", () => {
    const device = cpuDevice(1);
    for (const shape of [[0], [2, -1], [1.5], [Number.NaN]]) {
      expect(() => device.buffer("f32", shape), shape.join()).toThrow(badArgument);
    }
  });

  it("holds every dtype as it was written", async () => {
    const device = cpuDevice(1);
    const written = {
      f32: Float32Array.of(1.5, -0, 3e38, Number.NaN),
      bf16: Uint16Array.of(0x3f80, 0xffff, 0, 7),
      f16: Uint16Array.of(0x3c00, 0xffff, 0, 7),
      f8e4m3: Uint8Array.of(0x38, 0x7f, 0, 255),
      i32: Int32Array.of(1, -(2 ** 31), 2 ** 31 - 1, 0),
      i8: Int8Array.of(1, -128, 127, 0),
      u8: Uint8Array.of(1, 128, 255, 0),
    } as const;
    for (const [dtype, data] of Object.entries(written) as [keyof typeof written, never][]) {
      const buffer = bufferOf(device, dtype, [2, 2], data);
      expect(buffer.shape).toEqual([2, 2]);
      expect(await buffer.read(), dtype).toEqual(data);
    }
  });

  it("takes a part at an offset", async () => {
    const device = cpuDevice(1);
    const x = bufferOf(device, "i32", [5], Int32Array.of(1, 2, 3, 4, 5));
    await x.write(Int32Array.of(8, 9), 3);
    await x.write(Int32Array.of(0, 7, 0).subarray(1, 2), 0);
    expect([...(await x.read())]).toEqual([7, 2, 3, 8, 9]);
  });

  it("refuses what does not fit", async () => {
    const device = cpuDevice(1);
    const x = bufferOf(device, "f32", [4], Float32Array.of(1, 2, 3, 4));
    for (const [length, offset] of [
      [5, 0],
      [1, 4],
      [2, 3],
      [1, -1],
      [1, 0.5],
      [1, Number.NaN],
    ]) {
      await expect(x.write(new Float32Array(length), offset), `${length} at ${offset}`).rejects.toMatchObject(
        BAD_ARGUMENT,
      );
    }
    await expect(x.write(new Float64Array(4) as never)).rejects.toMatchObject(BAD_ARGUMENT);
    await expect(x.write([1, 2] as never)).rejects.toMatchObject(BAD_ARGUMENT);
    expect([...(await x.read())]).toEqual([1, 2, 3, 4]);
  });
});
