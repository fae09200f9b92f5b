import { afterAll, describe, expect, it } from "vitest";
import { Device } from "../../lib/runtime/device.js";
import { type LinearWeights, Recorder } from "../../lib/runtime/recorder.js";
import { bufferOf, compute, cpuDevice } from "../support/device.js";

const BAD_ARGUMENT = { code: "ERR_FLUX_BAD_ARGUMENT" };
const misuse = (message: RegExp) =>
  expect.objectContaining({ ...BAD_ARGUMENT, message: expect.stringMatching(message) });

describe("Recorder", () => {
  it("refuses to read what nothing has written", () => {
    const g = new Recorder();
    expect(() => g.activation(g.empty([2, 4]), "silu")).toThrow(
      misuse(/activation reads f32\[2, 4\] before anything wrote it/),
    );
  });

  it("refuses values of another recording", () => {
    const device = cpuDevice(1);
    const x = bufferOf(device, "f32", [4], Float32Array.of(1, 2, 3, 4));
    const foreign = new Recorder().activation(x, "silu");
    expect(() => new Recorder().add(x, foreign)).toThrow(misuse(/before anything wrote it/));
  });

  it("refuses a value after the condition that alone wrote it", () => {
    const device = cpuDevice(1);
    const flag = device.buffer("i32", [1]);
    const x = device.buffer("f32", [4]);
    const g = new Recorder();
    let inside = g.empty([4]);
    g.if(flag, () => {
      inside = g.activation(x, "silu");
      g.add(inside, inside);
    });
    expect(() => g.add(x, inside)).toThrow(misuse(/written only inside a condition/));
  });

  it("refuses it in a sibling condition, too", () => {
    const device = cpuDevice(1);
    const flag = device.buffer("i32", [1]);
    const x = device.buffer("f32", [4]);
    const g = new Recorder();
    let inside = g.empty([4]);
    g.if(flag, () => {
      inside = g.activation(x, "silu");
    });
    const sibling = () => g.if(flag, () => void g.activation(inside, "silu"));
    expect(sibling).toThrow(misuse(/written only inside a condition/));
  });

  it("goes on in the outer list after a condition whose recording threw", () => {
    const device = cpuDevice(1);
    const x = device.buffer("f32", [4]);
    const g = new Recorder();
    expect(() =>
      g.if(device.buffer("i32", [1]), () => {
        throw new Error("from model code");
      }),
    ).toThrow("from model code");
    g.activation(x, "silu");
    expect(g.ops.map((op) => op.kind)).toEqual(["activation"]);
  });

  it("names the shapes that do not fit", () => {
    const device = cpuDevice(1);
    const g = new Recorder();
    const x = device.buffer("f32", [2, 3, 8]);
    const weight = device.buffer("f32", [5, 7]);
    expect(() => g.linear(x, { weight })).toThrow(
      misuse(/linear: f32\[2, 3, 8\] times a weight of \[5, 7\]/),
    );
    expect(() => g.add(x, device.buffer("f32", [2, 3]))).toThrow(
      misuse(/add: f32\[2, 3, 8\] and f32\[2, 3\]/),
    );
    expect(() => g.attention(x, x, x, { scale: 1 })).toThrow(misuse(/attention: f32\[2, 3, 8\]/));
    const kernel = device.buffer("f32", [4, 3, 3, 16]);
    expect(() => g.conv2d(device.buffer("f32", [1, 6, 6, 8]), { weight: kernel })).toThrow(
      misuse(/conv2d: f32\[1, 6, 6, 8\] with 16 input channels/),
    );
  });
});

describe("a low-rank branch", () => {
  /** q, k, v and the MLP of heads·128 = 128 columns, rank 4 each, beside a weight of the given dtype. */
  const weights = (dtype: "bf16" | "f8e4m3") => {
    const device = cpuDevice(1);
    return {
      weight: device.buffer(dtype, [896, 32]),
      ...(dtype === "f8e4m3" && { scale: device.buffer("f32", [896]) }),
      lowRank: {
        down: device.buffer("bf16", [16, 32]),
        scale: device.buffer("f32", [16]),
        up: device.buffer("bf16", [896, 4]),
        starts: [0, 128, 256, 384],
      },
    };
  };
  const record = (g: Recorder, dtype: "bf16" | "f8e4m3") => {
    const device = cpuDevice(1);
    const [w, x] = [weights(dtype), device.buffer("bf16", [1, 2, 32])];
    const norm = device.buffer("f32", [128]);
    g.qkvLinear(g.layerNorm(x, { eps: 1e-6, for: w }), w, {
      qkv: g.empty([1, 2, 3, 1, 128]),
      mlp: g.empty([1, 2, 512]),
      normQ: norm,
      normK: norm,
      rope: device.buffer("f32", [2, 64, 2]),
      eps: 1e-6,
    });
    return Object.fromEntries(g.ops.map((op, i) => [`${i} ${op.kind}`, op]));
  };

  it("is one thin linear before the fused one, which knows the columns of each part", () => {
    const ops = record(new Recorder("bf16"), "bf16");
    expect(Object.keys(ops)).toEqual(["0 layerNorm", "1 ropePairs", "2 linear", "3 qkvLinear"]);
    const { x, weightScale, y } = { ...ops["2 linear"]!.inputs, ...ops["2 linear"]!.outputs };
    expect(x).toBe(ops["0 layerNorm"]!.outputs.y);
    expect(weightScale!.shape).toEqual([16]);
    expect(y!.shape).toEqual([1, 2, 16]);
    expect(ops["3 qkvLinear"]!.inputs).toMatchObject({ low: y, lowUp: { shape: [896, 4] } });
    expect(ops["3 qkvLinear"]!.attributes).toMatchObject({ part1: 128, part2: 256, part3: 384 });
  });

  it("reads the codes that a quantised weight is multiplied with, without their scales", () => {
    const ops = record(new Recorder("bf16"), "f8e4m3");
    expect(Object.keys(ops)).toEqual(["0 layerNorm", "1 ropePairs", "2 linear", "3 qkvLinear"]);
    const { y, yScale } = ops["0 layerNorm"]!.outputs;
    expect(y!.dtype).toBe("f8e4m3");
    expect(ops["2 linear"]!.inputs.x).toBe(y);
    expect(ops["2 linear"]!.inputs.xScale).toBeUndefined();
    expect(ops["3 qkvLinear"]!.inputs).toMatchObject({ x: y, xScale: yScale });
  });

  it("reads what a linear quantises by itself", () => {
    const g = new Recorder("bf16");
    const x = cpuDevice(1).buffer("bf16", [2, 32]);
    g.linear(x, weights("f8e4m3"));
    expect(g.ops.map((op) => op.kind)).toEqual(["quantizeRows", "linear", "linear"]);
    expect(g.ops[1]!.inputs.x).toBe(g.ops[0]!.outputs.codes);
  });
});

describe("what goes to a quantised linear", () => {
  const device = Device.open("cpu", { threads: 1 });
  afterAll(() => device.dispose());
  const layer = (n: number, k: number, dtype: "bf16" | "f8e4m3" = "f8e4m3") => ({
    weight: device.buffer(dtype, [n, k]),
    ...(dtype === "f8e4m3" && { scale: device.buffer("f32", [n]) }),
  });
  const branch = (n: number, k: number) => ({
    down: device.buffer("bf16", [4, k]),
    scale: device.buffer("f32", [4]),
    up: device.buffer("bf16", [n, 4]),
    starts: [0],
  });
  const up = { ...layer(64, 32), bounds: device.buffer("f32", [2]) };
  const down = layer(32, 64);
  const x = device.buffer("bf16", [2, 3, 32]);
  const kinds = (g: Recorder) => g.ops.map((op) => op.kind);

  it("is quantised as it is written, where its layer has bounds", () => {
    const g = new Recorder("bf16");
    g.linear(g.linear(x, up, { for: down }), down);
    expect(kinds(g)).toEqual(["quantizeRows", "linear", "linear"]);
    const { y, yScale } = g.ops[1]!.outputs;
    expect(y).toMatchObject({ dtype: "f8e4m3", shape: [2, 3, 64], rowScale: yScale });
    expect(yScale!.shape).toEqual([6]);
    expect(g.ops[1]!.inputs.bounds).toBe(up.bounds.value);
    expect(g.ops[2]!.inputs).toMatchObject({ x: y, xScale: yScale });
  });

  it("is bounded with its adapter, and another adapter may read it", () => {
    const g = new Recorder("bf16");
    const bounds = device.buffer("f32", [2]);
    const next = { ...down, lowRank: branch(32, 64) };
    g.linear(g.linear(x, { ...up, lowRank: { ...branch(64, 32), bounds } }, { for: next }), next);
    expect(kinds(g)).toEqual(["quantizeRows", "linear", "linear", "linear", "linear"]);
    expect(g.ops[2]!.inputs.bounds).toBe(bounds.value);
    expect(g.ops[3]!.inputs.x).toBe(g.ops[2]!.outputs.y);
  });

  it.each<[string, LinearWeights, LinearWeights]>([
    ["its layer has no bounds", layer(64, 32), down],
    ["an adapter adds to it that has no bounds", { ...up, lowRank: branch(64, 32) }, down],
  ])("is quantised by an op of its own where %s", (_, first, second) => {
    const g = new Recorder("bf16");
    g.linear(g.linear(x, first, { for: second }), second);
    expect(kinds(g).filter((kind) => kind === "quantizeRows")).toHaveLength(2);
  });
});

describe("Value", () => {
  const value = () => new Recorder().empty([2, 3, 8]);

  it("refuses views beyond its shape", () => {
    expect(() => value().slice(1, 2, 2)).toThrow(
      misuse(/cannot take 2 entries from 2 of axis 1 of f32\[2, 3, 8\]/),
    );
    expect(() => value().slice(3, 0, 1)).toThrow(misuse(/axis 3/));
    expect(() => value().slice(0, 0, 0)).toThrow(misuse(/cannot take 0/));
    expect(() => value().pick(2, 0)).toThrow(misuse(/innermost/));
    expect(() => value().split(-1, [3, 3])).toThrow(misuse(/cannot split/));
  });

  it("refuses to reshape a view with gaps", () => {
    expect(() => value().slice(-1, 0, 4).reshape([24])).toThrow(misuse(/cannot reshape/));
    expect(() => value().reshape([47])).toThrow(misuse(/cannot reshape/));
  });

  it("reads and writes through views", async () => {
    const device = cpuDevice(1);
    const x = bufferOf(
      device,
      "f32",
      [2, 3, 4],
      Float32Array.from({ length: 24 }, (_, i) => i),
    );
    const { column, picked, heads, joint } = await compute(device, (g) => {
      const joint = g.empty([2, 4]);
      g.copy(x.value.pick(0, 0).slice(0, 2, 1), joint.slice(0, 1, 1));
      g.copy(x.value.pick(0, 1).slice(0, 0, 1), joint.slice(0, 0, 1));
      return {
        column: x.value.slice(-1, 1, 2),
        picked: x.value.pick(1, 1),
        heads: x.value.split(-1, [2, 2]).pick(2, 1),
        joint,
      };
    });
    expect([...column]).toEqual([1, 2, 5, 6, 9, 10, 13, 14, 17, 18, 21, 22]);
    expect([...picked]).toEqual([4, 5, 6, 7, 16, 17, 18, 19]);
    expect([...heads]).toEqual([2, 3, 6, 7, 10, 11, 14, 15, 18, 19, 22, 23]);
    expect([...joint]).toEqual([12, 13, 14, 15, 8, 9, 10, 11]);
  });

  it("repeats an axis without memory of its own", async () => {
    const device = cpuDevice(1);
    const row = bufferOf(device, "f32", [1, 3], Float32Array.of(1, 2, 3));
    const x = bufferOf(device, "f32", [2, 1, 3], Float32Array.of(10, 20, 30, 40, 50, 60));
    const { sum } = await compute(device, (g) => ({ sum: g.add(x, row.value.repeat(0, 2)) }));
    expect([...sum]).toEqual([11, 22, 33, 41, 52, 63]);
  });
});

describe("Recorder.together", () => {
  const kinds = (g: Recorder) => g.ops.map(({ kind, body }) => [kind, ...(body ?? []).map((op) => op.kind)]);

  it("joins ops at the same place of every part", () => {
    const device = cpuDevice(1);
    const g = new Recorder();
    const joint = g.empty([2, 12, 4]);
    g.copy(device.buffer("f32", [2, 12, 4]), joint);
    g.together([joint.slice(1, 0, 5), joint.slice(1, 5, 7)], (part) => {
      const y = g.activation(part, "silu");
      g.copy(g.add(y, y), part);
    });
    expect(kinds(g)).toEqual([
      ["copy"],
      ["together", "activation", "activation"],
      ["together", "add", "add"],
      ["together", "copy", "copy"],
    ]);
    expect(g.ops[1]).toMatchObject({
      inputs: { "0.x": { shape: [2, 5, 4] }, "1.x": { shape: [2, 7, 4] } },
      outputs: { "0.y": { shape: [2, 5, 4] }, "1.y": { shape: [2, 7, 4] } },
      inPlace: [
        ["0.y", "0.x"],
        ["1.y", "1.x"],
      ],
      flops: 2 * 12 * 4,
    });
  });

  it("lets the rest of the parts follow one another where they differ", () => {
    const device = cpuDevice(1);
    const g = new Recorder();
    const x = device.buffer("f32", [3, 4]);
    g.together([1, 2], (part) => {
      const y = g.activation(x, "gelu");
      if (part === 2) g.rmsNorm(y, device.buffer("f32", [4]), 1e-6);
      g.add(y, y);
    });
    expect(kinds(g)).toEqual([["together", "activation", "activation"], ["add"], ["rmsNorm"], ["add"]]);
  });

  it("keeps a single part, conditions and nested calls as they are", () => {
    const device = cpuDevice(1);
    const g = new Recorder();
    const x = device.buffer("f32", [3, 4]);
    g.together([1], () => void g.activation(x, "gelu"));
    const flag = device.buffer("i32", [1]);
    g.together([1, 2], () => g.if(flag, () => void g.activation(x, "gelu")));
    g.together([1, 2], () => g.together([1, 2], () => void g.activation(x, "gelu")));
    g.together([], () => undefined);
    expect(kinds(g)).toEqual([
      ["activation"],
      ["if", "activation"],
      ["if", "activation"],
      ["together", "activation", "activation"],
      ["together", "activation", "activation"],
    ]);
  });

  it("computes what the parts compute one after the other", async () => {
    const device = cpuDevice(1);
    const x = Float32Array.from({ length: 2 * 5 * 4 }, (_, index) => Math.sin(index));
    const w = [0, 1].map((part) =>
      bufferOf(
        device,
        "f32",
        [6, 4],
        Float32Array.from({ length: 24 }, (_, i) => Math.cos(i + 50 * part)),
      ),
    );
    const { y } = await compute(device, (g) => {
      const input = bufferOf(device, "f32", [2, 5, 4], x).value;
      const y = g.empty([2, 5, 6]);
      const parts = [
        { weight: w[0], start: 0, length: 2 },
        { weight: w[1], start: 2, length: 3 },
      ];
      g.together(parts, ({ weight, start, length }) =>
        g.linear(input.slice(1, start, length), { weight }, { into: y.slice(1, start, length) }),
      );
      return { y };
    });
    for (let row = 0; row < 10; row++) {
      const weight = await w[row % 5 < 2 ? 0 : 1].read();
      for (let n = 0; n < 6; n++) {
        let sum = 0;
        for (let k = 0; k < 4; k++) sum += x[row * 4 + k] * weight[n * 4 + k];
        expect(y[row * 6 + n]).toBeCloseTo(sum, 5);
      }
    }
  });

  it("refuses parts that write over one another", () => {
    const device = cpuDevice(1);
    const g = new Recorder();
    const x = device.buffer("f32", [2, 12, 4]);
    const joint = g.empty([2, 12, 4]);
    const write = (starts: number[], axis: number, length: number) => () =>
      g.together(starts, (start) =>
        g.copy(x.value.slice(axis, start, length), joint.slice(axis, start, length)),
      );
    expect(write([0, 4], 1, 5)).toThrow(misuse(/together must be apart.*f32\[2, 5, 4\]/));
    expect(write([0, 1], 2, 2)).toThrow(misuse(/together must be apart/));
    expect(write([0, 5], 1, 5)).not.toThrow();
    expect(write([0, 2], 2, 2)).not.toThrow();
    expect(() =>
      g.together([0, 1], (part) =>
        part === 0 ? g.copy(x, joint) : void g.activation(joint.slice(1, 3, 2), "silu"),
      ),
    ).toThrow(misuse(/together must be apart/));
    expect(() =>
      g.together([0, 1], (part) =>
        g.copy(
          x.value.reshape([part + 1, 24 / (part + 1), 4]),
          part === 0 ? joint.reshape([1, 24, 4]) : joint,
        ),
      ),
    ).toThrow(misuse(/together must be apart/));
  });

  it("goes on in the outer list after a part whose recording threw", () => {
    const device = cpuDevice(1);
    const g = new Recorder();
    expect(() =>
      g.together([1, 2], () => {
        throw new Error("from model code");
      }),
    ).toThrow("from model code");
    g.activation(device.buffer("f32", [4]), "silu");
    expect(kinds(g)).toEqual([["activation"]]);
  });
});
