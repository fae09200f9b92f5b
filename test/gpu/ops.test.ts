// Every op of the CUDA backend against the CPU's, which is the definition. Layouts and edges of single kernels are tested in
// test/kernels; here it is what plans can ask for.

import assert from "node:assert/strict";
import { test } from "node:test";
import { decodeValues } from "../../dist/loaders/dtype.js";
import type { Buffer } from "../../dist/runtime/buffer.js";
import type { Device } from "../../dist/runtime/device.js";
import type { LinearWeights, Recorder, Tensor } from "../../dist/runtime/recorder.js";
import {
  activation,
  agree,
  compute,
  cpu,
  e4m3Codes,
  f32,
  gpu,
  i32,
  relativeL2,
  uniform,
  weight,
} from "./both.js";

for (const [rows, n, k] of [
  [1, 256, 128],
  [28, 384, 256],
  [64, 128, 512],
  [65, 256, 128],
  [127, 192, 64],
  [500, 1024, 256],
] as const) {
  for (const act of ["none", "gelu", "silu"] as const) {
    test(`linear [${rows}, ${k}] × [${n}, ${k}], ${act}`, () =>
      agree({ x: activation([1, rows, k]), w: weight([n, k], 0.1), b: f32([n]) }, (g, { x, w, b }) =>
        g.linear(x, { weight: w as never, bias: b as never }, { activation: act }),
      ));
  }
}

test("scales beside operands that have none, and what a projection onto an adapter does not do, are refused", async () => {
  const [rows, k] = [96, 128];
  using x = gpu.buffer("bf16", [1, rows, k]);
  using w = gpu.buffer("bf16", [128, k]);
  using qkv = gpu.buffer("bf16", [3 * 128, k]);
  using scale = gpu.buffer("f32", [128]);
  using scales = gpu.buffer("f32", [3 * 128]);
  using rope = gpu.buffer("f32", [rows, 64, 2]);
  const refused = async (build: (g: Recorder) => void, message: RegExp) => {
    using plan = gpu.record("refused", build);
    await assert.rejects(plan.run(), { code: "ERR_FLUX_BAD_ARGUMENT", message });
  };
  const down: LinearWeights = { weight: w, scale };
  await refused((g) => g.linear(x, { ...down, bias: scale }), /takes no bias/);
  await refused((g) => g.linear(x, down, { residual: x }), /takes no residual/);
  await refused((g) => g.linear(x, down, { activation: "gelu" }), /without an activation/);
  await refused((g) => g.linear(x, down, { dtype: "f32" }), /gives bf16/);
  await refused((g) => {
    const heads = g.heads([1, rows, 1], "bf16");
    g.qkvLinear(
      x,
      { weight: qkv, scale: scales },
      { qkv: heads, normQ: scale, normK: scale, rope, eps: 1e-6 },
    );
  }, /e4m3 operands both have scales/);
});

test("linear adds gate × y to a residual of two batches, in place", () =>
  agree(
    {
      x: activation([2, 70, 128]),
      w: weight([256, 128], 0.1),
      b: f32([256]),
      h: activation([2, 90, 256]),
      gate: f32([2, 256]),
    },
    (g, { x, w, b, h, gate }) => {
      const hidden = g.empty([2, 90, 256]);
      g.copy(h, hidden);
      const rows = hidden.slice(1, 20, 70);
      g.linear(x, { weight: w as never, bias: b as never }, { residual: rows, gate, into: rows });
      return hidden;
    },
  ));

test("linear with fp8 weights quantises a slice of two batches by rows", () => {
  const codes = { shape: [256, 128], data: e4m3Codes(256 * 128), dtype: "f8e4m3" as const };
  return agree(
    { x: activation([2, 90, 128], 3), w: codes, s: f32([256], 0.01), b: f32([256]), g: f32([128]) },
    (g, { x, w, s, b, g: gain }) => {
      const weights = { weight: w as never, scale: s as never, bias: b as never };
      const rows = g.empty([2, 90, 128]);
      g.copy(x, rows);
      const plain = g.linear(rows.slice(1, 10, 70), weights, { activation: "gelu" });
      const normalised = g.layerNorm(rows.slice(1, 10, 70), {
        weight: gain,
        bias: gain,
        eps: 1e-6,
        for: weights,
      });
      return g.add(plain, g.linear(normalised, weights));
    },
    6e-3, // a code that rounds the other way moves by an eighth
  );
});

for (const [text, image] of [
  [16, 100],
  [70, 333],
] as const) {
  test(`linears of ${text} and ${image} rows side by side, each with its own weights`, () =>
    agree(
      {
        h: activation([2, text + image, 256]),
        w0: weight([384, 256], 0.1),
        w1: weight([384, 256], 0.1),
        b: f32([384]),
        d0: weight([256, 384], 0.1),
        d1: weight([256, 384], 0.1),
        gate: f32([2, 256]),
      },
      (g, { h, w0, w1, b, d0, d1, gate }) => {
        const hidden = g.empty([2, text + image, 256]);
        g.copy(h, hidden);
        const parts = [
          { up: w0, down: d0, rows: hidden.slice(1, 0, text) },
          { up: w1, down: d1, rows: hidden.slice(1, text, image) },
        ];
        g.together(parts, ({ up, down, rows }) => {
          const y = g.linear(rows, { weight: up as never, bias: b as never }, { activation: "gelu" });
          g.linear(y, { weight: down as never }, { residual: rows, gate, into: rows });
        });
        return hidden;
      },
    ));
}

test("linear adds a residual without a gate", () =>
  agree(
    { x: activation([100, 128]), w: weight([256, 128], 0.1), h: activation([100, 256]) },
    (g, { x, w, h }) => g.linear(x, { weight: w as never }, { residual: h }),
  ));

for (const tokens of [16, 80, 333]) {
  test(`qkvLinear with an MLP beside it, ${tokens} tokens, then attention`, () =>
    agree(
      {
        x: activation([1, tokens, 256]),
        w: weight([3 * 256 + 512, 256], 0.1),
        b: f32([3 * 256 + 512], 0.1),
        nq: f32([128]),
        nk: f32([128]),
        ids: f32([tokens, 3], 20),
      },
      (g, { x, w, b, nq, nk, ids }) => {
        const rope = g.ropeTable(ids, [16, 56, 56], 10000);
        const qkv = g.empty([1, tokens, 3, 2, 128]);
        const joined = g.empty([1, tokens, 256 + 512]);
        g.qkvLinear(
          x,
          { weight: w as never, bias: b as never },
          {
            qkv,
            mlp: joined.slice(2, 256, 512),
            activation: "gelu",
            normQ: nq,
            normK: nk,
            rope,
            eps: 1e-6,
          },
        );
        g.attention(qkv.pick(2, 0), qkv.pick(2, 1), qkv.pick(2, 2), {
          scale: 1 / Math.sqrt(128),
          into: joined.slice(2, 0, 256).split(2, [2, 128]),
        });
        return joined;
      },
      6e-3, // q, k and v are rounded to bf16 on the way to attention
    ));
}

// What is between them: P in e4m3, 2.6 %, and codes that round the other way since q, k and v are summed in another order.
for (const [type, tolerance] of [
  ["int8", 0.035],
  ["fp8", 0.04],
] as const) {
  for (const [text, tokens] of [
    [64, 333],
    [128, 512],
    [77, 333],
    [5, 21],
  ] as const) {
    test(`two streams of ${text} and ${tokens - text} tokens, ${type} attention`, () =>
      agree(
        {
          x: activation([2, tokens, 256]),
          w: weight([3 * 256, 256], 0.1),
          b: f32([3 * 256], 0.1),
          nq: f32([128]),
          nk: f32([128]),
          ids: f32([tokens, 3], 20),
        },
        (g, { x, w, b, nq, nk, ids }) => {
          const rope = g.ropeTable(ids, [16, 56, 56], 10000);
          const rows = g.empty([2, tokens, 256]);
          g.copy(x, rows);
          const qkv = g.heads([2, tokens, 2], type, { starts: [0, text] });
          for (const [start, length] of [
            [0, text],
            [text, tokens - text],
          ] as const) {
            g.qkvLinear(
              rows.slice(1, start, length),
              { weight: w as never, bias: b as never },
              {
                qkv: qkv.slice(start, length),
                normQ: nq,
                normK: nk,
                rope: rope.slice(0, start, length),
                eps: 1e-6,
              },
            );
          }
          return g.attend(qkv, { scale: 1 / Math.sqrt(128) });
        },
        tolerance,
      ));
  }
}

test("attention of 64-wide heads with a bias (T5) and causal (CLIP)", async () => {
  const shape = [1, 77, 4, 64];
  await agree(
    { q: activation(shape), k: activation(shape), v: activation(shape), bias: f32([4, 77, 77]) },
    (g, { q, k, v, bias }) => g.attention(q, k, v, { scale: 1, bias }),
    6e-3,
  );
  await agree(
    { q: activation(shape), k: activation(shape), v: activation(shape) },
    (g, { q, k, v }) => g.attention(q, k, v, { scale: 0.125, causal: true }),
    6e-3,
  );
});

test("layerNorm, modulated and affine, of a slice of a joint buffer", async () => {
  await agree(
    { h: activation([2, 40, 256]), shift: f32([2, 256]), scale: f32([2, 256]) },
    (g, { h, shift, scale }) => {
      const hidden = g.empty([2, 40, 256]);
      g.copy(h, hidden);
      return g.layerNorm(hidden.slice(1, 8, 32), { shift, scale, eps: 1e-6 });
    },
  );
  await agree({ x: activation([1, 77, 768]), w: f32([768]), b: f32([768]) }, (g, { x, w, b }) =>
    g.layerNorm(x, { weight: w, bias: b, eps: 1e-5 }),
  );
});

for (const width of [256, 3072]) {
  test(`layerNorm of two parts side by side, ${width} wide, each with its own modulation`, () =>
    agree(
      {
        h: activation([2, 40, width]),
        shift0: f32([2, width]),
        scale0: f32([2, width]),
        shift1: f32([2, width]),
        scale1: f32([2, width]),
      },
      (g, { h, shift0, scale0, shift1, scale1 }) => {
        const hidden = g.empty([2, 40, width]);
        g.copy(h, hidden);
        const parts = [
          { rows: hidden.slice(1, 0, 9), shift: shift0, scale: scale0 },
          { rows: hidden.slice(1, 9, 31), shift: shift1, scale: scale1 },
        ];
        g.together(parts, ({ rows, shift, scale }) =>
          g.copy(g.layerNorm(rows, { shift, scale, eps: 1e-6 }), rows),
        );
        return hidden;
      },
    ));
}

test("rmsNorm and groupNorm with SiLU", async () => {
  await agree({ x: activation([1, 50, 512]), w: f32([512]) }, (g, { x, w }) => g.rmsNorm(x, w, 1e-6));
  await agree({ x: activation([2, 12, 20, 64]), w: f32([64]), b: f32([64]) }, (g, { x, w, b }) =>
    g.groupNorm(x, { weight: w, bias: b, groups: 8, eps: 1e-6, activation: "silu" }),
  );
});

for (const [name, shape, out, size, options] of [
  ["3×3", [2, 19, 34, 64], 96, 3, { padding: [1, 1, 1, 1] }],
  ["3×3 of an image", [1, 20, 36, 3], 128, 3, { padding: [1, 1, 1, 1] }],
  ["3×3 to an image", [1, 20, 36, 128], 3, 3, { padding: [1, 1, 1, 1] }],
  ["1×1", [2, 9, 14, 48], 64, 1, {}],
  [
    "stride 2, padded on the right and at the bottom",
    [2, 18, 34, 64],
    64,
    3,
    { stride: 2, padding: [0, 0, 1, 1] },
  ],
  ["doubled", [2, 9, 14, 48], 64, 3, { upsample: 2, padding: [1, 1, 1, 1] }],
] as const) {
  test(`conv2d ${name}`, () =>
    agree(
      { x: activation(shape), w: weight([out, size, size, shape[3]], 0.1), b: f32([out]) },
      (g, { x, w, b }) => g.conv2d(x, { weight: w as never, bias: b as never }, options),
    ));
}

test("conv2d of a normalised image, twice, as in a resnet; then a norm of its own", () =>
  agree(
    {
      x: activation([2, 20, 36, 64]),
      w: weight([64, 3, 3, 64], 0.1),
      b: f32([64]),
      v: weight([64, 3, 3, 64], 0.1),
      n: f32([64]),
    },
    (g, { x, w, b, v, n }) => {
      const norm = { weight: n, bias: b, groups: 8, eps: 1e-6 };
      const padding = [1, 1, 1, 1] as const;
      const begun = g.add(x, x);
      const h = g.conv2d(begun, { weight: w as never, bias: b as never }, { padding, norm });
      const y = g.conv2d(h, { weight: v as never }, { padding, norm, residual: begun });
      return g.groupNorm(y, norm);
    },
    6e-3, // what lies between is rounded to bf16
  ));

test("blendTile lays tiles over each other", () =>
  agree({ a: activation([1, 12, 20, 3]), b: activation([1, 8, 14, 3]) }, (g, { a, b }) => {
    const image = g.empty([1, 12, 20, 3]);
    g.blendTile(a, image, { top: { edge: 0, length: 0 }, left: { edge: 0, length: 0 } });
    const corner = image.slice(1, 4, 8).slice(2, 6, 14);
    g.blendTile(b, corner, { top: { edge: 2, length: 3 }, left: { edge: 1, length: 6 } });
    return image;
  }));

test("conv2d adds a residual, in place", () =>
  agree(
    { x: activation([1, 12, 20, 64]), w: weight([64, 3, 3, 64], 0.1), h: activation([1, 12, 20, 64]) },
    (g, { x, w, h }) => {
      const residual = g.add(h, h);
      return g.conv2d(x, { weight: w as never }, { padding: [1, 1, 1, 1], residual });
    },
  ));

test("pointwise ops", async () => {
  const inputs = { a: activation([3, 70, 48]), b: activation([3, 70, 48]) };
  await agree(inputs, (g, { a, b }) => g.add(a, b));
  await agree(inputs, (g, { a, b }) => g.multiply(a, b, "gelu"));
  await agree(inputs, (g, { a }) => g.activation(a, "quickGelu"));
  await agree(inputs, (g, { a, b }) => g.guide(a, b, 2.5));
});

test("embeddings and tables", async () => {
  await agree(
    { ids: i32([3, 0, 9, 9, 1, 2], [2, 3]), table: weight([10, 64]), positions: weight([77, 64]) },
    (g, { ids, table, positions }) => g.embedding(ids, table, positions),
  );
  await agree({ t: f32([7]) }, (g, { t }) => g.timestepEmbedding(t, 256));
  await agree({ table: weight([32, 4]) }, (g, { table }) => g.t5Bias(table, 200, 128), 1e-6);
  await agree({ ids: f32([30, 3], 90) }, (g, { ids }) => g.ropeTable(ids, [16, 56, 56], 10000), 1e-6);
  await agree(
    { table: f32([5, 2, 64]), index: i32([3]) },
    (g, { table, index }) => g.takeRow(table, index),
    0,
  );
  await agree(
    { x: activation([2, 9, 64]), index: i32([8, 0]) },
    (g, { x, index }) => g.gatherRows(x, index),
    0,
  );
});

test("latents: pack, unpack, sample, noise, Euler", async () => {
  await agree({ x: f32([2, 16, 8, 12]) }, (g, { x }) => g.packLatents(x, { channelsFirst: true }), 2.5e-3);
  await agree(
    { x: f32([2, 8, 12, 16]) },
    (g, { x }) => g.packLatents(x, { scale: 0.36, shift: 0.11 }),
    2.5e-3,
  );
  await agree(
    { x: f32([2, 24, 64]) },
    (g, { x }) => g.unpackLatents(x, 8, 12, { scale: 0.36, shift: 0.11 }),
    2.5e-3,
  );
  await agree({ m: activation([1, 6, 6, 32]), n: f32([1, 6, 6, 16]) }, (g, { m, n }) =>
    g.sampleLatents(m, n),
  );
  const sigmas = { ...f32([4]), data: Float32Array.of(1, 0.75, 0.5, 0) };
  await agree(
    { x: f32([1, 24, 64]), v: f32([1, 24, 64]), sigmas, step: i32([1]) },
    (g, { x, v, sigmas, step }) => {
      const latents = g.empty([1, 24, 64], "f32");
      g.copy(g.scaleNoise(x, v, sigmas, step), latents);
      g.eulerStep(latents, v, sigmas, step);
      return latents;
    },
    1e-6,
  );
});

for (const [batch, tokens, text, width] of [
  [1, 256, 40, 3072],
  [2, 77, 16, 256],
  [3, 5, 2, 65],
] as const) {
  test(`a residual of [${batch}, ${tokens}, ${width}] beside ${text} text tokens: difference, sums`, async () => {
    const shape = [batch, text + tokens, width];
    const inputs = {
      x: activation(shape, 2),
      base: activation([batch, tokens, width], 2),
      previous: activation([batch, tokens, width]),
      factor: f32([1]),
    };
    const image = (g: Parameters<Parameters<typeof cpu.record>[1]>[0], x: Parameters<typeof g.add>[0]) => {
      const hidden = g.empty(shape);
      g.copy(x, hidden);
      return { hidden, part: hidden.slice(1, text, tokens) };
    };
    await agree(
      inputs,
      (g, { x, base, previous }) => g.relativeDifference(image(g, x).part, base, previous),
      1e-5,
    );
    await agree(inputs, (g, { x, base }) => g.subtract(image(g, x).part, base));
    await agree(inputs, (g, { x, base, previous, factor }) => {
      const { hidden, part } = image(g, x);
      g.add(part, base, part);
      g.addScaled(part, previous, factor);
      return hidden;
    });
  });
}

test("images to 8 bits and back", async () => {
  const build = (g: Parameters<Parameters<typeof cpu.record>[1]>[0], x: Parameters<typeof g.toImage>[0]) => {
    const pixels = g.empty([1, 9, 11, 3], "u8");
    g.toImage(x, pixels);
    return g.fromImage(pixels);
  };
  const inputs = { x: activation([1, 9, 11, 3], 1.5) };
  const expected = await compute(cpu, inputs, (g, { x }) => build(g, x));
  const actual = await compute(gpu, inputs, (g, { x }) => build(g, x));
  // A level apart is 2/255; the GPU then rounds what it reads back to bf16.
  actual.forEach((value, i) => {
    assert.ok(Math.abs(value - expected[i]!) <= 0.012, `pixel ${i}`);
  });
});

/** Weights [n, k] in e4m3 with a scale a channel, and what they stand for. */
function quantisedLayer(n: number, k: number) {
  const codes = e4m3Codes(n * k);
  const scale = uniform(n, n).map((x) => 1e-3 * (2 + x));
  const values = decodeValues("F8_E4M3", codes) as Float32Array;
  return {
    codes: { shape: [n, k], data: codes, dtype: "f8e4m3" as const },
    scale: { shape: [n], data: scale, dtype: "f32" as const },
    exact: {
      shape: [n, k],
      data: values.map((value, i) => value * scale[Math.floor(i / k)]!),
      dtype: "f32" as const,
    },
  };
}

test("weightBounds agrees with the CPU's", () => {
  const { codes, scale } = quantisedLayer(300, 128);
  return agree(
    { w: codes, s: scale, b: f32([300], 3) },
    (g, { w, s, b }) => {
      const bounds = (w as Buffer).device.buffer("f32", [2]);
      g.weightBounds({ weight: w as never, scale: s as never, bias: b as never }, bounds);
      return bounds.value;
    },
    1e-4,
  );
});

test("branchBounds agrees with the CPU's", () => {
  const w = quantisedLayer(300, 128);
  const low = quantisedLayer(48, 128);
  return agree(
    { s: w.scale, base: f32([2], 3), down: low.codes, f: low.scale, up: weight([300, 16], 20) },
    (g, { s, base, down, up, f }) => {
      const bounds = (s as Buffer).device.buffer("f32", [2]);
      const branch = { down: down as never, up: up as never, scale: f, starts: [0, 100, 220] };
      g.branchBounds({ weight: up as never, scale: s as never, bounds: base as never }, branch, bounds);
      return bounds.value;
    },
    1.5e-2, // the GPU's has room for its roundings
  );
});

test("a branch beside fp8 weights, within its bound, errs no more than the weights do", async () => {
  const up = quantisedLayer(512, 256);
  const down = quantisedLayer(256, 512);
  const low = quantisedLayer(32, 256);
  const b = activation([512, 16], 0.2);
  const x = activation([1, 130, 256]);
  const starts = [0, 384];
  const ones = { shape: [32], data: new Float32Array(32).fill(1), dtype: "f32" as const };
  const twoLinears = (lowRank: boolean) =>
    compute(cpu, { x, u: up.exact, d: down.exact, a: low.exact, b, f: ones }, (g, { x, u, d, a, b, f }) => {
      const branch = { down: a as never, up: b as never, scale: f, starts };
      const first = { weight: u as never, ...(lowRank && { lowRank: branch }) };
      return g.linear(g.linear(x, first, { activation: "gelu" }), { weight: d as never });
    });
  const scales = up.scale.data as Float32Array;
  const divided = (b.data as Float32Array).map((value, i) => value / scales[Math.floor(i / 16)]!);
  const codes = { x, u: up.codes, us: up.scale, d: down.codes, ds: down.scale };
  const branch = {
    a: low.codes,
    f: low.scale,
    b: { shape: [512, 16], data: divided, dtype: "bf16" as const },
  };
  const quantised = (withBranch: boolean) =>
    compute(gpu, { ...codes, ...branch }, (g, { x, u, us, d, ds, a, b, f }) => {
      const [base, bounds] = [gpu.buffer("f32", [2]), gpu.buffer("f32", [2])];
      const first = { weight: u as never, scale: us as never, bounds: base };
      const lowRank = { down: a as never, up: b as never, scale: f, starts, bounds };
      g.weightBounds(first, base);
      g.branchBounds(first, lowRank, bounds);
      const next = { weight: d as never, scale: ds as never };
      const from = { ...first, ...(withBranch && { lowRank }) };
      return g.linear(g.linear(x, from, { activation: "gelu", for: next }), next);
    });
  const without = relativeL2(await quantised(false), await twoLinears(false));
  const error = relativeL2(await quantised(true), await twoLinears(true));
  const share = relativeL2(await twoLinears(true), await twoLinears(false));
  console.log(
    `two fp8 linears: relative L2 ${without.toExponential(2)}, with a branch ${error.toExponential(2)}, which adds ${share.toFixed(2)}`,
  );
  assert.ok(share > 0.1 && error <= 1.2 * without);
});

test("a linear that quantises its result by a bound errs no more than one that knows its rows' maxima", async () => {
  const up = quantisedLayer(512, 256);
  const down = quantisedLayer(256, 512);
  const x = activation([1, 130, 256]);
  const two = (g: Recorder, first: LinearWeights, second: LinearWeights, input: Tensor) =>
    g.linear(g.linear(input, first, { activation: "gelu", for: second }), second);
  const exact = await compute(cpu, { x, u: up.exact, d: down.exact }, (g, { x, u, d }) =>
    two(g, { weight: u as never }, { weight: d as never }, x),
  );
  const inputs = { x, u: up.codes, us: up.scale, d: down.codes, ds: down.scale };
  const quantised = (device: Device) =>
    compute(device, inputs, (g, { x, u, us, d, ds }) => {
      const bounds = device.buffer("f32", [2]);
      const first = { weight: u as never, scale: us as never, bounds };
      g.weightBounds(first, bounds);
      return two(g, first, { weight: d as never, scale: ds as never }, x);
    });
  const byMaximum = relativeL2(await quantised(cpu), exact);
  const byBound = relativeL2(await quantised(gpu), exact);
  console.log(
    `two fp8 linears: relative L2 ${byBound.toExponential(2)}, by maxima ${byMaximum.toExponential(2)}`,
  );
  assert.ok(byBound <= 1.05 * byMaximum);
});

test("a single block's attention and MLP quantised by a bound err no more than by their rows' maxima", async () => {
  const [tokens, heads, width] = [333, 2, 256];
  const up = quantisedLayer(3 * width + 4 * width, width);
  const down = quantisedLayer(width, 5 * width);
  const x = activation([1, tokens, width]);
  const norms = { nq: f32([128]), nk: f32([128]), ids: f32([tokens, 3], 20) };
  const block = (g: Recorder, inputs: Record<string, Tensor>, from: LinearWeights, next: LinearWeights) => {
    const qkv = g.heads([1, tokens, heads], "int8");
    const joined = g.joined([1, tokens, 5 * width], qkv, { from, next });
    g.qkvLinear(inputs.x!, from, {
      qkv,
      mlp: joined.slice(2, width, 4 * width),
      mlpScale: joined.rowScale,
      activation: "gelu",
      normQ: inputs.nq!,
      normK: inputs.nk!,
      rope: g.ropeTable(inputs.ids!, [16, 56, 56], 10000),
      eps: 1e-6,
    });
    g.attend(qkv, {
      scale: 1 / Math.sqrt(128),
      into: joined.slice(2, 0, width).split(2, [heads, 128]),
      intoScale: joined.rowScale,
    });
    return g.linear(joined, next);
  };
  const exact = await compute(cpu, { x, u: up.exact, d: down.exact, ...norms }, (g, inputs) =>
    block(g, inputs, { weight: inputs.u as never }, { weight: inputs.d as never }),
  );
  const coded = { x, u: up.codes, us: up.scale, d: down.codes, ds: down.scale, ...norms };
  const quantised = (device: Device) =>
    compute(device, coded, (g, inputs) => {
      const bounds = device.buffer("f32", [2]);
      const from = { weight: inputs.u as never, scale: inputs.us as never, bounds };
      g.weightBounds(from, bounds);
      return block(g, inputs, from, { weight: inputs.d as never, scale: inputs.ds as never });
    });
  const byMaximum = relativeL2(await quantised(cpu), exact);
  const byBound = relativeL2(await quantised(gpu), exact);
  console.log(
    `a single block's branches: relative L2 ${byBound.toExponential(2)}, by maxima ${byMaximum.toExponential(2)}`,
  );
  assert.ok(byBound <= 1.1 * byMaximum); // P in e4m3, which the CPU does not emulate
});
