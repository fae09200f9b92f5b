// The CPU's ops against golden/cases/numeric.safetensors: float64 results rounded to float32.
import { describe, expect, it } from "vitest";
import type { Device } from "../../lib/runtime/device.js";
import { bufferFrom, bufferOf, compute, computeTyped, cpuDevice } from "../support/device.js";
import { golden, goldenIndex, maxAbsDifference, relativeL2 } from "../support/golden.js";
import { toChannelsLast } from "../support/layout.js";

const cases = golden("cases/numeric.safetensors");
const index = goldenIndex("cases/numeric.safetensors");

/** The tolerance that the golden data states for f32 arithmetic. */
function tolerance(name: string, key = "fp32_impl"): number {
  const value = index.tensors[name].tolerance?.[key];
  if (typeof value !== "number") throw new Error(`${name} states no ${key}`);
  return value;
}

const load = (device: Device, name: string) => bufferFrom(device, cases.tensor(name));
const loadImage = (device: Device, name: string) => bufferFrom(device, toChannelsLast(cases.tensor(name)));

/** f32 values that are exactly bf16, as bf16 bits. */
function bf16Bits(values: Float32Array): Uint16Array {
  const words = new Uint32Array(values.buffer, values.byteOffset, values.length);
  return Uint16Array.from(words, (word) => word >>> 16);
}

describe("e4m3", () => {
  it("quantises rows to the codes and scales of the definition", async () => {
    const device = cpuDevice();
    for (const name of ["fp8.a", "fp8.w"]) {
      const x = load(device, name);
      const { codes, scale } = await computeTyped(device, (g) => {
        const codes = g.quantizeRows(x);
        return { codes, scale: codes.rowScale! };
      });
      expect(codes, name).toEqual(cases.raw(`${name}.row.codes`).data);
      expect(scale, name).toEqual(cases.f32(`${name}.row.scale`));
    }
  });

  it("rounds ties, subnormals and the largest values as the edge cases say", async () => {
    const device = cpuDevice();
    const values = cases.f32("fp8.edge.in");
    // A row's scale is max|x|/448: with 448 beside it each value is cast as it is.
    const rows = Float32Array.from({ length: 2 * values.length }, (_, at) =>
      at % 2 === 0 ? Math.max(-448, Math.min(448, values[at / 2])) : 448,
    );
    const x = bufferOf(device, "f32", [values.length, 2], rows);
    const { codes, scale } = await computeTyped(device, (g) => {
      const codes = g.quantizeRows(x);
      return { codes, scale: codes.rowScale! };
    });
    expect(new Set(scale)).toEqual(new Set([1]));
    expect(codes.filter((_, at) => at % 2 === 0)).toEqual(cases.raw("fp8.edge.codes").data);
  });

  it("gives a row of zeros the scale 1", async () => {
    const device = cpuDevice();
    const x = bufferOf(device, "f32", [2, 3], Float32Array.of(0, 0, -0, 0, 0, 448));
    const { codes, scale } = await computeTyped(device, (g) => {
      const codes = g.quantizeRows(x);
      return { codes, scale: codes.rowScale! };
    });
    expect([...scale]).toEqual([1, 1]);
    expect([...codes].map((code) => code & 0x7f)).toEqual([0, 0, 0, 0, 0, 0x7e]);
  });

  it.each([
    ["fp8.mm.row", false],
    ["fp8.mm.row.bias", true],
  ])("multiplies codes by codes: %s", async (name, biased) => {
    const device = cpuDevice();
    const x = load(device, "fp8.a");
    const { shape, data } = cases.raw("fp8.w.row.codes");
    const weight = bufferOf(device, "f8e4m3", shape, data as Uint8Array);
    const scale = load(device, "fp8.w.row.scale");
    const bias = biased ? load(device, "fp8.bias") : undefined;
    const { y } = await compute(device, (g) => ({ y: g.linear(x, { weight, scale, bias }) }));
    expect(relativeL2(y, cases.f32(name))).toBeLessThan(1e-5);
  });
});

describe("linear", () => {
  it.each(["f32", "bf16"] as const)("multiplies by %s weights and adds the bias", async (dtype) => {
    const device = cpuDevice();
    const x = load(device, "fp8.a");
    const { shape, data } = cases.tensor("fp8.w");
    const weight =
      dtype === "f32" ? bufferOf(device, dtype, shape, data) : bufferOf(device, dtype, shape, bf16Bits(data));
    const bias = load(device, "fp8.bias");
    const { y } = await compute(device, (g) => ({ y: g.linear(x, { weight, bias }) }));
    expect(relativeL2(y, cases.f32("mm.exact"))).toBeLessThan(1e-6);
  });

  it("adds gate · act(x·Wᵀ + b) to the residual", async () => {
    const device = cpuDevice();
    const x = bufferFrom(device, { shape: [2, 32, 256], data: cases.f32("fp8.a") });
    const weight = load(device, "fp8.w");
    const bias = load(device, "fp8.bias");
    const gate = Float32Array.from({ length: 2 * 96 }, (_, at) => (at % 7) / 3 - 1);
    const residual = Float32Array.from({ length: 64 * 96 }, (_, at) => (at % 11) - 5);
    const gateBuffer = bufferOf(device, "f32", [2, 96], gate);
    const residualBuffer = bufferOf(device, "f32", [2, 32, 96], residual);
    const { y } = await compute(device, (g) => ({
      y: g.linear(x, { weight, bias }, { activation: "silu", gate: gateBuffer, residual: residualBuffer }),
    }));
    const expected = cases.f32("mm.exact").map((value, at) => {
      const gateOf = gate[Math.floor(at / (32 * 96)) * 96 + (at % 96)];
      return residual[at] + (gateOf * value) / (1 + Math.exp(-value));
    });
    expect(relativeL2(y, expected)).toBeLessThan(1e-6);
  });
});

describe("pointwise functions", () => {
  it.each([
    ["gelu", "gelu.tanh"],
    ["silu", "silu"],
    ["quickGelu", "quick_gelu"],
  ] as const)("%s", async (activation, name) => {
    const device = cpuDevice();
    const x = load(device, "gelu.x");
    const { y } = await compute(device, (g) => ({ y: g.activation(x, activation) }));
    expect(maxAbsDifference(y, cases.f32(name))).toBeLessThan(tolerance(name));
  });

  it("timestep embedding", async () => {
    const device = cpuDevice();
    const t = load(device, "timestep.t");
    const scaled = bufferOf(
      device,
      "f32",
      [9],
      cases.f32("timestep.t").map((value) => value / 1000),
    );
    const { direct, thousandth } = await compute(device, (g) => ({
      direct: g.timestepEmbedding(t, 256, 1),
      thousandth: g.timestepEmbedding(scaled, 256),
    }));
    const expected = cases.f32("timestep.emb");
    expect(maxAbsDifference(direct, expected)).toBeLessThan(tolerance("timestep.emb"));
    expect(maxAbsDifference(thousandth, expected)).toBeLessThan(tolerance("timestep.emb"));
  });
});

describe("norms", () => {
  it("RMSNorm", async () => {
    const device = cpuDevice();
    const x = load(device, "rmsnorm.x");
    const weight = load(device, "rmsnorm.weight");
    const { y } = await compute(device, (g) => ({ y: g.rmsNorm(x, weight, 1e-6) }));
    expect(relativeL2(y, cases.f32("rmsnorm.y"))).toBeLessThan(tolerance("rmsnorm.y"));
  });

  it("LayerNorm with modulation", async () => {
    const device = cpuDevice();
    const [x, shift, scale] = ["x", "shift", "scale"].map((name) => load(device, `ln_mod.${name}`));
    const { y } = await compute(device, (g) => ({ y: g.layerNorm(x, { eps: 1e-6, shift, scale }) }));
    expect(relativeL2(y, cases.f32("ln_mod.y"))).toBeLessThan(tolerance("ln_mod.y"));
  });

  it("GroupNorm, alone and with SiLU", async () => {
    const device = cpuDevice();
    const x = loadImage(device, "groupnorm.x");
    const parameters = {
      weight: load(device, "groupnorm.weight"),
      bias: load(device, "groupnorm.bias"),
      groups: 8,
      eps: 1e-6,
    };
    const { y, silu } = await compute(device, (g) => ({
      y: g.groupNorm(x, parameters),
      silu: g.groupNorm(x, { ...parameters, activation: "silu" }),
    }));
    const expected = (name: string) => toChannelsLast(cases.tensor(name)).data;
    expect(relativeL2(y, expected("groupnorm.y"))).toBeLessThan(tolerance("groupnorm.y"));
    expect(relativeL2(silu, expected("groupnorm.y_silu"))).toBeLessThan(tolerance("groupnorm.y_silu"));
  });

  it("is the same by sums, a multiplier and an addend for each channel, and their application", async () => {
    const device = cpuDevice();
    const x = loadImage(device, "groupnorm.x");
    const weights = {
      weight: load(device, "groupnorm.weight"),
      bias: load(device, "groupnorm.bias"),
      groups: 8,
      eps: 1e-6,
    };
    const { y, silu } = await compute(device, (g) => {
      const affine = g.groupNormAffine([g.groupNormSums(x)], weights);
      return { y: g.groupNormApply(x, affine, "none"), silu: g.groupNormApply(x, affine, "silu") };
    });
    const expected = (name: string) => toChannelsLast(cases.tensor(name)).data;
    expect(relativeL2(y, expected("groupnorm.y"))).toBeLessThan(tolerance("groupnorm.y"));
    expect(relativeL2(silu, expected("groupnorm.y_silu"))).toBeLessThan(tolerance("groupnorm.y_silu"));
  });
});

describe("blendTile", () => {
  it("keeps the edge, ramps, and reads nothing of what it covers", async () => {
    const device = cpuDevice();
    const before = bufferOf(device, "f32", [1, 3, 6, 1], new Float32Array(18).fill(2));
    const covered = bufferOf(device, "f32", [1, 3, 6, 1], new Float32Array(18).fill(Number.NaN));
    const tile = bufferOf(device, "f32", [1, 3, 6, 1], new Float32Array(18).fill(10));
    const none = { edge: 0, length: 0 };
    const { across, over } = await compute(device, (g) => {
      const image = g.empty([1, 3, 6, 1]);
      g.copy(before, image);
      g.blendTile(tile, image, { top: { edge: 1, length: 0 }, left: { edge: 1, length: 4 } });
      const whole = g.empty([1, 3, 6, 1]);
      g.copy(covered, whole);
      g.blendTile(tile, whole, { top: none, left: none });
      return { across: image, over: whole };
    });
    // Shares of the tile across: 0, then 1/8, 3/8, 5/8, 7/8, then 1.
    const ramp = [2, 3, 5, 7, 9, 10];
    expect([...across]).toEqual([2, 2, 2, 2, 2, 2, ...ramp, ...ramp]);
    expect([...over]).toEqual(new Array(18).fill(10));
  });
});

describe("conv2d", () => {
  it.each([
    ["conv.same", { padding: [1, 1, 1, 1] as const }],
    ["conv.down", { stride: 2, padding: [0, 0, 1, 1] as const }],
    ["conv.up", { upsample: 2 as const, padding: [1, 1, 1, 1] as const }],
  ])("%s", async (name, options) => {
    const device = cpuDevice();
    const x = loadImage(device, "groupnorm.x");
    const weight = loadImage(device, "conv.weight");
    const bias = load(device, "conv.bias");
    const { y } = await compute(device, (g) => ({ y: g.conv2d(x, { weight, bias }, options) }));
    expect(relativeL2(y, toChannelsLast(cases.tensor(name)).data)).toBeLessThan(1e-5);
  });
});

describe("attention", () => {
  it("softmax(q·kᵀ/√128)·v", async () => {
    const device = cpuDevice();
    const [q, k, v] = ["q", "k", "v"].map((name) => load(device, `attention.${name}`));
    const { y } = await compute(device, (g) => ({ y: g.attention(q, k, v, { scale: 1 / Math.sqrt(128) }) }));
    expect(relativeL2(y, cases.f32("attention.out"))).toBeLessThan(tolerance("attention.out"));
  });

  it("after rotary embedding, through qkvLinear", async () => {
    const device = cpuDevice();
    const tokens = 141;
    const [q, k, v] = ["q", "k", "v"].map((name) => cases.f32(`attention.${name}`));
    // x holds q, k and v side by side and the weight is the identity, so that qkvLinear only normalises and rotates. The
    // golden q and k are not normalised: each row's RMS goes back on afterwards, on the host.
    const width = 3 * 2 * 128;
    const x = new Float32Array(tokens * width);
    for (let token = 0; token < tokens; token++) {
      for (const [part, data] of [q, k, v].entries()) {
        x.set(data.subarray(token * 256, (token + 1) * 256), token * width + part * 256);
      }
    }
    const identity = Float32Array.from({ length: width * width }, (_, at) =>
      at % (width + 1) === 0 ? 1 : 0,
    );
    const ones = bufferOf(device, "f32", [128], new Float32Array(128).fill(1));
    const rope = bufferOf(device, "f32", [tokens, 64, 2], ropePairs("attention.cos", "attention.sin"));
    const xBuffer = bufferOf(device, "f32", [1, tokens, width], x);
    const weight = bufferOf(device, "f32", [width, width], identity);
    const { rotated } = await compute(device, (g) => {
      const qkv = g.empty([1, tokens, 3, 2, 128]);
      g.qkvLinear(xBuffer, { weight }, { qkv, normQ: ones, normK: ones, rope, eps: 0 });
      return { rotated: qkv };
    });
    const restored = rotated.map((value, at) => {
      const head = Math.floor(at / 128);
      return head % 6 < 4 ? value * rootMeanSquare(x.subarray(head * 128, (head + 1) * 128)) : value;
    });
    const part = (index: number) => restored.filter((_, at) => Math.floor(at / 256) % 3 === index);
    expect(relativeL2(part(0), cases.f32("attention.q_rope"))).toBeLessThan(tolerance("attention.q_rope"));
    expect(maxAbsDifference(part(2), v)).toBe(0);
    const qkv = bufferOf(device, "f32", [1, tokens, 3, 2, 128], restored);
    const { y } = await compute(device, (g) => {
      const [rq, rk, rv] = [0, 1, 2].map((index) => qkv.value.pick(2, index));
      return { y: g.attention(rq, rk, rv, { scale: 1 / Math.sqrt(128) }) };
    });
    expect(relativeL2(y, cases.f32("attention.out_rope"))).toBeLessThan(tolerance("attention.out_rope"));
  });
});

/** cos and sin, each stored twice per pair, as the [T, 64, 2] table that ops take. */
function ropePairs(cosName: string, sinName: string): Float32Array {
  const cos = cases.f32(cosName);
  const sin = cases.f32(sinName);
  return cos.map((_, at) => (at % 2 === 0 ? cos[at] : sin[at]));
}

function rootMeanSquare(values: Float32Array): number {
  return Math.sqrt(values.reduce((sum, value) => sum + value * value, 0) / values.length);
}

describe("T5's relative position bias", () => {
  it("puts every relative position into its bucket", async () => {
    const device = cpuDevice();
    const buckets = cases.raw("t5.bucket").data as Int32Array;
    const table = bufferOf(
      device,
      "f32",
      [32, 1],
      Float32Array.from({ length: 32 }, (_, bucket) => bucket),
    );
    const { bias } = await compute(device, (g) => ({ bias: g.t5Bias(table, 512, 128) }));
    for (let query = 0; query < 512; query += 73) {
      for (let key = 0; key < 512; key++) {
        expect(bias[query * 512 + key], `${query}, ${key}`).toBe(buckets[key - query + 511]);
      }
    }
    expect(bias[511 * 512]).toBe(buckets[0]);
  });
});
