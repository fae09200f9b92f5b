import { truncate, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { withAliases } from "../../lib/loaders/tensor-source.js";
import { WeightSource } from "../../lib/loaders/weights.js";
import { Conv2d } from "../../lib/nn/conv.js";
import { Linear } from "../../lib/nn/linear.js";
import { Model } from "../../lib/nn/model.js";
import { LayerNorm } from "../../lib/nn/norm.js";
import type { Precision } from "../../lib/nn/scope.js";
import type { Device } from "../../lib/runtime/device.js";
import { native } from "../../lib/runtime/native.js";
import { bufferOf, compute, cpuDevice } from "../support/device.js";
import { safetensorsBytes, temporaryFolder, writeWeights } from "../support/fixture-folder.js";
import { maxAbsDifference } from "../support/golden.js";
import { randomValues } from "../support/random.js";

/** Two stacked projections, a norm and a convolution: every kind of parameter. */
class Sketch extends Model {
  readonly projections: Linear;
  readonly norm: LayerNorm;
  readonly conv: Conv2d;

  constructor(device: Device, precision: Precision = "f32") {
    super(device, precision);
    this.projections = new Linear(this.scope.at("attn"), ["to_q", "to_k"], 8, [4, 2], { quantised: true });
    this.norm = new LayerNorm(this.scope, "norm", 8, 1e-6);
    this.conv = new Conv2d(this.scope.at("layers").at(0), "conv", 3, 5, 3);
  }
}

const SHAPES: Readonly<Record<string, readonly number[]>> = {
  "attn.to_q.weight": [4, 8],
  "attn.to_k.weight": [2, 8],
  "attn.to_q.bias": [4],
  "attn.to_k.bias": [2],
  "norm.weight": [8],
  "norm.bias": [8],
  "layers.0.conv.weight": [5, 3, 3, 3],
  "layers.0.conv.bias": [5],
};

type Dtype = "F32" | "BF16" | "F16" | "F8_E4M3";
interface Stored {
  dtype: Dtype;
  shape: readonly number[];
  values: Float32Array;
}

/** Values that each of the dtypes holds exactly: multiples of 1/8 up to 1. */
function sketchTensors(dtype: Dtype = "F32"): Record<string, Stored> {
  return Object.fromEntries(
    Object.entries(SHAPES).map(([name, shape], seed) => {
      const values = randomValues(
        shape.reduce((a, b) => a * b),
        seed + 1,
      ).map((v) => Math.round(v * 8) / 8);
      return [name, { dtype, shape, values }];
    }),
  );
}

async function sourceOf(
  tensors: Readonly<Record<string, Stored>>,
): Promise<{ path: string; source: WeightSource }> {
  const header: Record<string, object> = {};
  const parts: Uint8Array[] = [];
  let end = 0;
  for (const [name, { dtype, shape, values }] of Object.entries(tensors)) {
    const bytes = encode(dtype, values);
    header[name] = { dtype, shape, data_offsets: [end, end + bytes.length] };
    parts.push(bytes);
    end += bytes.length;
  }
  const path = join(await temporaryFolder(), "model.safetensors");
  await writeFile(path, safetensorsBytes(header, Buffer.concat(parts)));
  return { path, source: await WeightSource.open(path) };
}

/** Rounds towards zero, which is exact for the values of these tests. */
function encode(dtype: Dtype, values: Float32Array): Uint8Array {
  const bytesOf = (array: Uint8Array | Uint16Array | Float32Array) => new Uint8Array(array.slice().buffer);
  switch (dtype) {
    case "F32":
      return bytesOf(values);
    case "BF16":
      return bytesOf(Uint16Array.from(new Uint32Array(values.slice().buffer), (word) => word >>> 16));
    case "F16":
      return bytesOf(Uint16Array.from(values, (value) => smallFloat(value, 5, 10)));
    case "F8_E4M3":
      return bytesOf(Uint8Array.from(values, (value) => smallFloat(value, 4, 3)));
  }
}

function smallFloat(value: number, exponentBits: number, mantissaBits: number): number {
  const sign = value < 0 || Object.is(value, -0) ? 1 << (exponentBits + mantissaBits) : 0;
  const magnitude = Math.abs(value);
  if (Number.isNaN(value)) return 2 ** (exponentBits + mantissaBits) - 1;
  if (magnitude === Number.POSITIVE_INFINITY) return sign | ((2 ** exponentBits - 1) << mantissaBits);
  if (magnitude === 0) return sign;
  const exponent = Math.floor(Math.log2(magnitude));
  const biased = exponent + 2 ** (exponentBits - 1) - 1;
  return sign | (biased << mantissaBits) | Math.floor((magnitude / 2 ** exponent - 1) * 2 ** mantissaBits);
}

const freeOf = async (device: Device) => {
  await device.drain();
  return device.memoryUsage().allocated;
};

describe("Model.load", () => {
  it("stacks parts in order and turns convolutions channels-last", async () => {
    const device = cpuDevice();
    const tensors = sketchTensors();
    const model = new Sketch(device);
    await model.load((await sourceOf(tensors)).source);
    const stacked = [...tensors["attn.to_q.weight"].values, ...tensors["attn.to_k.weight"].values];
    expect([...(await model.projections.weight.read())]).toEqual(stacked);
    const bias = [...tensors["attn.to_q.bias"].values, ...tensors["attn.to_k.bias"].values];
    expect([...(await model.projections.bias!.read())]).toEqual(bias);
    expect(model.conv.weight.shape).toEqual([5, 3, 3, 3]);
    const kernel = await model.conv.weight.read();
    const stored = tensors["layers.0.conv.weight"].values;
    for (let out = 0; out < 5; out++) {
      for (let channel = 0; channel < 3; channel++) {
        for (let pixel = 0; pixel < 9; pixel++) {
          expect(kernel[(out * 9 + pixel) * 3 + channel]).toBe(stored[(out * 3 + channel) * 9 + pixel]);
        }
      }
    }
  });

  it("keeps an upsampling kernel as four 2×2 ones that give what doubling and 3×3 gives", async () => {
    const device = cpuDevice();
    const [outs, channels] = [3, 2];
    const values = randomValues(outs * channels * 9, 60);
    const path = join(await temporaryFolder(), "up.safetensors");
    const shape = [outs, channels, 3, 3];
    await writeWeights(path, { kernel: { shape, data: values } });
    const source = await WeightSource.open(path);
    const target = device.buffer("f32", [outs, 4, 4, channels]);
    const file = new (native().Mapping)(path);
    const { begin } = source.find("kernel")!;
    const layout = "upsamplePhases";
    await device.load({
      file,
      begin,
      from: "f32",
      to: "f32",
      shape,
      layout,
      target: target.native,
      targetOffset: 0,
    });
    file.close();
    const phases = await target.read();
    const [height, width] = [3, 4];
    const image = randomValues(height * width * channels, 61);
    const pixel = (y: number, x: number, c: number) =>
      y < 0 || x < 0 || y >= height || x >= width ? 0 : image[(y * width + x) * channels + c];
    for (let y = 0; y < 2 * height; y++) {
      for (let x = 0; x < 2 * width; x++) {
        for (let out = 0; out < outs; out++) {
          let expected = 0;
          let actual = 0;
          for (let c = 0; c < channels; c++) {
            for (let tap = 0; tap < 9; tap++) {
              const [down, right] = [y + Math.floor(tap / 3) - 1, x + (tap % 3) - 1];
              expected +=
                values[(out * channels + c) * 9 + tap] *
                pixel(Math.floor(down / 2), Math.floor(right / 2), c);
            }
            for (let tap = 0; tap < 4; tap++) {
              const [down, right] = [(y >> 1) + (y % 2) - 1 + (tap >> 1), (x >> 1) + (x % 2) - 1 + (tap % 2)];
              const phase = 2 * (y % 2) + (x % 2);
              actual += phases[((out * 4 + phase) * 4 + tap) * channels + c] * pixel(down, right, c);
            }
          }
          expect(actual).toBeCloseTo(expected, 5);
        }
      }
    }
  });

  it.each(["F32", "BF16", "F16", "F8_E4M3"] as const)("computes the same from %s weights", async (dtype) => {
    const device = cpuDevice();
    const tensors = sketchTensors(dtype);
    const model = new Sketch(device);
    await model.load((await sourceOf(tensors)).source);
    expect(model.projections.weight.dtype).toBe(dtype === "BF16" ? "bf16" : "f32");
    expect(model.projections.bias!.dtype).toBe("f32");
    const input = randomValues(3 * 8, 50);
    const x = bufferOf(device, "f32", [3, 8], input);
    const { y } = await compute(device, (g) => ({ y: model.projections.forward(g, x) }));
    const rows = [...tensors["attn.to_q.weight"].values, ...tensors["attn.to_k.weight"].values];
    const bias = [...tensors["attn.to_q.bias"].values, ...tensors["attn.to_k.bias"].values];
    const expected = Array.from({ length: 3 * 6 }, (_, at) => {
      const [token, out] = [Math.floor(at / 6), at % 6];
      let sum = bias[out];
      for (let d = 0; d < 8; d++) sum += input[token * 8 + d] * rows[out * 8 + d];
      return sum;
    });
    expect(maxAbsDifference(y, expected)).toBeLessThan(1e-6);
  });

  it("quantises the linears of an fp8 model, one scale per row, and nothing else", async () => {
    const device = cpuDevice();
    const tensors = sketchTensors("BF16");
    tensors["attn.to_k.weight"].values.fill(0, 0, 8);
    const model = new Sketch(device, "fp8");
    await model.load((await sourceOf(tensors)).source);
    expect(model.projections.weight.dtype).toBe("f8e4m3");
    expect(model.conv.weight.dtype).toBe("bf16");
    const rows = [tensors["attn.to_q.weight"], tensors["attn.to_k.weight"]].flatMap(({ values }) =>
      Array.from({ length: values.length / 8 }, (_, row) => values.subarray(row * 8, row * 8 + 8)),
    );
    const scales = rows.map((row) => Math.fround(Math.max(...row.map(Math.abs)) / 448) || 1);
    expect([...(await model.projections.scale!.read())]).toEqual(scales);
    const codes = await model.projections.weight.read();
    rows.forEach((row, n) => {
      row.forEach((value, k) => {
        const decoded = e4m3(codes[n * 8 + k] as number) * scales[n];
        expect(Math.abs(decoded - value)).toBeLessThanOrEqual(Math.abs(value) / 16 + 1e-9);
      });
    });
  });

  describe("of fp8 tensors with scales", () => {
    const SCALES = [0.5, 3, 0.0625, 7, 1e-3, 11];

    /** A file of e4m3 with one scale for to_q, and one for each row of to_k in a tensor of its own. */
    async function scaled() {
      const tensors = sketchTensors("F8_E4M3");
      tensors.rows = { dtype: "F32", shape: [2], values: Float32Array.from(SCALES.slice(4)) };
      const { source } = await sourceOf(tensors);
      const scaleOf = (name: string) => {
        if (name === "attn.to_q.weight") return { scale: SCALES[0] };
        return name === "attn.to_k.weight" ? { scale: source.find("rows")! } : {};
      };
      const view = {
        location: source.location,
        find: (name: string) => ({ ...source.find(name)!, ...scaleOf(name) }),
      };
      return { tensors, view };
    }
    const rowScales = [...new Array(4).fill(SCALES[0]), SCALES[4], SCALES[5]].map(Math.fround);

    it("multiplies them where the model computes in f32", async () => {
      const { tensors, view } = await scaled();
      const model = new Sketch(cpuDevice());
      await model.load(view);
      const values = [...tensors["attn.to_q.weight"].values, ...tensors["attn.to_k.weight"].values];
      const expected = values.map((value, at) => Math.fround(value * rowScales[Math.floor(at / 8)]));
      expect([...(await model.projections.weight.read())]).toEqual(expected);
    });

    it("keeps the codes, and the scales as the rows', where it computes in fp8", async () => {
      const { tensors, view } = await scaled();
      const model = new Sketch(cpuDevice(), "fp8");
      await model.load(view);
      const codes = await model.projections.weight.read();
      const stored = [tensors["attn.to_q.weight"], tensors["attn.to_k.weight"]];
      expect([...codes]).toEqual(stored.flatMap(({ values }) => [...encode("F8_E4M3", values)]));
      expect([...(await model.projections.scale!.read())]).toEqual(rowScales);
    });

    it("names the tensor whose scale is not finite", async () => {
      const { view } = await scaled();
      const broken = {
        location: view.location,
        find: (name: string) => ({
          ...view.find(name),
          ...(name === "attn.to_q.weight" && { scale: Infinity }),
        }),
      };
      for (const precision of ["f32", "fp8"] as const) {
        await expect(new Sketch(cpuDevice(), precision).load(broken)).rejects.toMatchObject({
          code: "ERR_FLUX_BAD_WEIGHTS",
          message: expect.stringContaining("attn.to_q.weight (32 of 32 values)"),
        });
      }
    });
  });

  it("stacks the parts of a tensor, whatever their order in the file", async () => {
    const tensors = sketchTensors();
    const { source } = await sourceOf(tensors);
    const rows = (name: string, first: number, count: number) => {
      const tensor = source.find(name)!;
      return { ...tensor, shape: [count, 8], begin: tensor.begin + first * 32 };
    };
    const find = (name: string) =>
      name === "attn.to_q.weight"
        ? {
            name,
            dtype: "F32" as const,
            shape: [4, 8],
            parts: [rows(name, 2, 2), rows(name, 0, 2)],
          }
        : source.find(name);
    const model = new Sketch(cpuDevice());
    await model.load({ location: source.location, find });
    const { values } = tensors["attn.to_q.weight"];
    const expected = [
      ...values.subarray(16),
      ...values.subarray(0, 16),
      ...tensors["attn.to_k.weight"].values,
    ];
    expect([...(await model.projections.weight.read())]).toEqual(expected);
  });

  it("reports progress up to the size of the tensors", async () => {
    const device = cpuDevice();
    const seen: number[] = [];
    const totals = new Set<number>();
    await new Sketch(device).load((await sourceOf(sketchTensors())).source, {
      onProgress: ({ loadedBytes, totalBytes }) => {
        seen.push(loadedBytes);
        totals.add(totalBytes);
      },
    });
    const total = Object.values(SHAPES).reduce((sum, shape) => sum + 4 * shape.reduce((a, b) => a * b), 0);
    expect([...totals]).toEqual([total]);
    expect(seen).toHaveLength(8);
    expect(seen).toEqual(seen.toSorted((a, b) => a - b));
    expect(seen.at(-1)).toBe(total);
  });

  it("gives the memory back on dispose, and of the old weights on a second load", async () => {
    const device = cpuDevice();
    const { source } = await sourceOf(sketchTensors());
    const model = new Sketch(device);
    await model.load(source);
    const once = await freeOf(device);
    await model.load(source);
    expect(await freeOf(device)).toBe(once);
    model.dispose();
    expect(await freeOf(device)).toBe(0);
    expect(() => model.projections.weight).toThrow(
      expect.objectContaining({
        code: "ERR_FLUX_DISPOSED",
        message: expect.stringContaining("attn.to_q.weight"),
      }),
    );
  });
});

describe("Model.load of damaged checkpoints", () => {
  it("names all missing and all misshapen tensors at once, and allocates nothing", async () => {
    const device = cpuDevice();
    const tensors = sketchTensors();
    delete tensors["attn.to_k.bias"];
    delete tensors["norm.weight"];
    tensors["layers.0.conv.weight"] = { ...tensors["layers.0.conv.weight"], shape: [5, 27] };
    tensors["norm.bias"] = { dtype: "F32", shape: [4], values: new Float32Array(4) };
    const failed = new Sketch(device).load((await sourceOf(tensors)).source);
    const error = await failed.catch((reason) => reason);
    expect(error).toMatchObject({ name: "FluxError", code: "ERR_FLUX_BAD_WEIGHTS" });
    expect(error.message).toContain("missing: attn.to_k.bias, norm.weight");
    expect(error.message).toContain("layers.0.conv.weight has shape [5, 27], not [5, 3, 3, 3]");
    expect(error.message).toContain("norm.bias has shape [4], not [8]");
    expect(device.memoryUsage().peak).toBe(0);
  });

  it("names a dtype that weights cannot have", async () => {
    const header = Object.fromEntries(
      Object.entries(SHAPES).map(([name, shape], at) => [
        name,
        { dtype: "I32", shape, data_offsets: [at, at] },
      ]),
    );
    let end = 0;
    for (const entry of Object.values(header)) {
      const bytes = 4 * entry.shape.reduce((a, b) => a * b);
      entry.data_offsets = [end, end + bytes];
      end += bytes;
    }
    const path = join(await temporaryFolder(), "ints.safetensors");
    await writeFile(path, safetensorsBytes(header, new Uint8Array(end)));
    await expect(new Sketch(cpuDevice()).load(await WeightSource.open(path))).rejects.toMatchObject({
      code: "ERR_FLUX_BAD_WEIGHTS",
      message: expect.stringContaining("attn.to_q.weight has dtype I32"),
    });
  });

  it.each([
    ["F32", Number.NaN],
    ["F32", Number.NEGATIVE_INFINITY],
    ["BF16", Number.NaN],
    ["F16", Number.POSITIVE_INFINITY],
    ["F8_E4M3", Number.NaN],
  ] as const)("names the tensors with %s %d, and gives all memory back", async (dtype, value) => {
    const device = cpuDevice();
    const tensors = sketchTensors(dtype);
    tensors["attn.to_k.weight"].values.fill(value, 3, 5);
    tensors["norm.bias"].values[7] = value;
    for (const precision of ["f32", "fp8"] as const) {
      const error = await new Sketch(device, precision)
        .load((await sourceOf(tensors)).source)
        .catch((reason) => reason);
      expect(error).toMatchObject({ name: "FluxError", code: "ERR_FLUX_BAD_WEIGHTS" });
      expect(error.message).toMatch(/NaN or infinite/);
      expect(error.message).toContain("attn.to_k.weight (2 of 16 values)");
      expect(error.message).toContain("norm.bias (1 of 8 values)");
      expect(await freeOf(device)).toBe(0);
    }
  });

  it.each([
    ["to a part", 600],
    ["to nothing", 0],
  ])("says that a file was cut %s after it was opened", async (_, length) => {
    const device = cpuDevice();
    const { path, source } = await sourceOf(sketchTensors());
    await truncate(path, length);
    const failed = new Sketch(device).load(source);
    await expect(failed).rejects.toMatchObject({
      code: "ERR_FLUX_BAD_WEIGHTS",
      message: expect.stringContaining(path),
    });
    expect(await freeOf(device)).toBe(0);
  });

  it("says that a file went away", async () => {
    const device = cpuDevice();
    const { source } = await sourceOf(sketchTensors());
    const gone = {
      location: source.location,
      find: (name: string) => {
        const tensor = source.find(name)!;
        return { ...tensor, file: { ...tensor.file, path: `${tensor.file.path}.gone` } };
      },
    };
    await expect(new Sketch(device).load(gone)).rejects.toMatchObject({
      code: "ERR_FLUX_IO",
      message: expect.stringMatching(/\.gone: No such file/),
    });
    expect(await freeOf(device)).toBe(0);
  });
});

describe("Model.load and AbortSignal", () => {
  it("rejects with the signal's reason when it is aborted before, and allocates nothing", async () => {
    const device = cpuDevice();
    const { source } = await sourceOf(sketchTensors());
    const signal = AbortSignal.abort(new Error("not now"));
    await expect(new Sketch(device).load(source, { signal })).rejects.toThrow("not now");
    expect(device.memoryUsage().peak).toBe(0);
  });

  it("stops while it loads, gives all memory back, and can load afterwards", async () => {
    const device = cpuDevice();
    const { source } = await sourceOf(sketchTensors());
    const controller = new AbortController();
    let loaded = 0;
    const model = new Sketch(device);
    const aborted = model.load(source, {
      signal: controller.signal,
      onProgress: () => {
        loaded += 1;
        if (loaded === 2) controller.abort();
      },
    });
    await expect(aborted).rejects.toMatchObject({ name: "AbortError" });
    expect(loaded).toBe(2);
    expect(await freeOf(device)).toBe(0);
    await model.load(source);
    expect(await freeOf(device)).toBeGreaterThan(0);
  });
});

describe("withAliases", () => {
  it("prefers the first name that is there", async () => {
    const { source } = await sourceOf(sketchTensors());
    const view = withAliases(source, (name) => [`norm.${name}`, `attn.to_q.${name}`]);
    expect(view.find("norm.bias")?.name).toBe("norm.bias");
    expect(view.find("bias")?.name).toBe("norm.bias");
    expect(view.find("nothing")).toBeUndefined();
    expect(view.location).toBe(source.location);
  });
});

/** The value of an e4m3fn code. */
function e4m3(code: number): number {
  const sign = code & 0x80 ? -1 : 1;
  const exponent = (code >> 3) & 15;
  const fraction = (code & 7) / 8;
  return sign * (exponent === 0 ? fraction * 2 ** -6 : (1 + fraction) * 2 ** (exponent - 7));
}
