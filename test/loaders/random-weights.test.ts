import { describe, expect, it } from "vitest";
import { RandomWeights } from "../../lib/loaders/random-weights.js";
import { Linear } from "../../lib/nn/linear.js";
import { Model } from "../../lib/nn/model.js";
import { RMSNorm } from "../../lib/nn/norm.js";
import type { Precision } from "../../lib/nn/scope.js";
import type { Device } from "../../lib/runtime/device.js";
import { cpuDevice } from "../support/device.js";
import { maxAbsDifference } from "../support/golden.js";

class Sketch extends Model {
  readonly linear: Linear;
  readonly norm: RMSNorm;

  constructor(device: Device, precision: Precision = "f32") {
    super(device, precision);
    this.linear = new Linear(this.scope, ["a", "b"], 512, [96, 160], { quantised: true });
    this.norm = new RMSNorm(this.scope, "norm", 4096, 1e-6);
  }
}

async function loaded(device: Device, seed: number | bigint, precision?: Precision): Promise<Sketch> {
  const model = new Sketch(device, precision);
  await model.load(new RandomWeights(model.tensors(), seed));
  return model;
}

const widened = (bits: ArrayLike<number>) =>
  new Float32Array(Uint32Array.from(bits, (word) => word << 16).buffer);

/** SplitMix64 of Steele, Lea and Flood (2014), as its authors publish it: the state advances by the golden ratio before each output. */
function splitMix64(seed: bigint, count: number): bigint[] {
  const wrap = (value: bigint) => BigInt.asUintN(64, value);
  return Array.from({ length: count }, (_, i) => {
    let z = wrap(seed + BigInt(i + 1) * 0x9e3779b97f4a7c15n);
    z = wrap((z ^ (z >> 30n)) * 0xbf58476d1ce4e5b9n);
    z = wrap((z ^ (z >> 27n)) * 0x94d049bb133111ebn);
    return z ^ (z >> 31n);
  });
}

describe("RandomWeights", () => {
  it("gives matrices deviation 1/√K, biases near 0 and norms near 1", async () => {
    const { linear, norm } = await loaded(cpuDevice(), 7);
    expect(linear.weight.dtype).toBe("bf16");
    const moments = (values: Float32Array) => {
      const mean = values.reduce((sum, value) => sum + value, 0) / values.length;
      const moment = (n: number) =>
        values.reduce((sum, value) => sum + (value - mean) ** n, 0) / values.length;
      return { mean, deviation: Math.sqrt(moment(2)), kurtosis: moment(4) / moment(2) ** 2 };
    };
    const weight = moments(widened((await linear.weight.read()) as Uint16Array));
    expect(Math.abs(weight.mean) * Math.sqrt(512)).toBeLessThan(0.01);
    expect(weight.deviation * Math.sqrt(512)).toBeCloseTo(1, 2);
    expect(weight.kurtosis).toBeGreaterThan(2.6); // of four uniforms 2.7, of a normal distribution 3
    const bias = moments((await linear.bias!.read()) as Float32Array);
    expect(Math.abs(bias.mean)).toBeLessThan(0.01);
    expect(bias.deviation).toBeLessThan(0.05);
    const scale = moments((await norm.weight.read()) as Float32Array);
    expect(scale.mean).toBeCloseTo(1, 2);
    expect(scale.deviation).toBeCloseTo(0.03, 2);
  });

  it("sums the four quarters of SplitMix64's words, in bf16", async () => {
    const device = cpuDevice();
    const model = new Sketch(device);
    const source = new RandomWeights(model.tensors(), 3);
    await model.load(source);
    const { key } = source.find("a.weight")!;
    const actual = widened((await model.linear.weight.read()) as Uint16Array).subarray(0, 96 * 512);
    const expected = splitMix64(key, 96 * 512).map((word) => {
      const quarters = [0n, 16n, 32n, 48n].map((shift) => Number((word >> shift) & 0xffffn));
      const sum = quarters.reduce((a, b) => a + b) / 65536 - 2 + 2 / 65536;
      return sum / Math.sqrt(1 / 3) / Math.sqrt(512);
    });
    // Half a bf16 ulp of values up to 3.46/√512 = 0.153.
    expect(maxAbsDifference(actual, expected)).toBeLessThanOrEqual(2 ** -11);
  });

  it("is the same on any number of threads, and differs by seed and by name", async () => {
    const read = async (threads: number, seed: number | bigint) =>
      (await (await loaded(cpuDevice(threads), seed)).linear.weight.read()) as Uint16Array;
    const once = await read(1, 7);
    expect(await read(3, 7n)).toEqual(once);
    expect(await read(1, 8)).not.toEqual(once);
    expect(once.subarray(0, 512)).not.toEqual(once.subarray(96 * 512, 97 * 512));
  });

  it("is quantised for an fp8 model as weights from a file are", async () => {
    const device = cpuDevice();
    const [stored, fp8] = [await loaded(device, 1), await loaded(device, 1, "fp8")];
    const values = widened((await stored.linear.weight.read()) as Uint16Array);
    const scales = (await fp8.linear.scale!.read()) as Float32Array;
    for (let row = 0; row < 256; row++) {
      const largest = values
        .subarray(row * 512, (row + 1) * 512)
        .reduce((a, b) => Math.max(a, Math.abs(b)), 0);
      expect(scales[row]).toBe(Math.fround(largest / 448));
    }
  });

  it.each([-1, 1.5, 2n ** 64n])("refuses the seed %s", (seed) => {
    expect(() => new RandomWeights([], seed)).toThrow(
      expect.objectContaining({ code: "ERR_FLUX_BAD_ARGUMENT" }),
    );
  });
});
