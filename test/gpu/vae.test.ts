// The autoencoder in bf16 on the GPU, against diffusers in float32.

import assert from "node:assert/strict";
import { existsSync, readFileSync } from "node:fs";
import { test } from "node:test";
import { readAutoencoderKLConfig } from "../../dist/loaders/config.js";
import { openSafetensors, readTensor } from "../../dist/loaders/safetensors.js";
import { WeightSource } from "../../dist/loaders/weights.js";
import { AutoencoderKL } from "../../dist/models/vae/autoencoder.js";
import type { Recorder, Tensor } from "../../dist/runtime/recorder.js";
import type { Value } from "../../dist/runtime/value.js";
import { gpu, relativeL2 } from "./both.js";
import { goldenPath } from "./golden.js";

const CASE = "cases/vae.safetensors";
const { tensors } = JSON.parse(readFileSync(goldenPath("cases/cases.json"), "utf8")).files[CASE];
/** The smallest size alone is in the repository. */
const isWhole = existsSync(goldenPath(CASE));
const file = isWhole ? CASE : "cases/vae_64.safetensors";

/** A tensor of the case: [B, C, H, W] as diffusers has it, turned into [B, H, W, C]. */
async function channelsLast(name: string): Promise<{ shape: number[]; data: Float32Array }> {
  const { shape, data } = await readTensor(await openSafetensors(goldenPath(file)), name);
  const [batch, channels, height, width] = shape as [number, number, number, number];
  const turned = new Float32Array(data.length);
  const pixels = height * width;
  for (let b = 0; b < batch; b++) {
    for (let c = 0; c < channels; c++) {
      for (let p = 0; p < pixels; p++) {
        turned[(b * pixels + p) * channels + c] = (data as Float32Array)[(b * channels + c) * pixels + p]!;
      }
    }
  }
  return { shape: [batch, height, width, channels], data: turned };
}

async function run(build: (g: Recorder, vae: AutoencoderKL, x: Tensor) => Value, input: string) {
  const folder = goldenPath("tiny-flux/vae");
  using vae = new AutoencoderKL(gpu, await readAutoencoderKLConfig(folder));
  await vae.load(await WeightSource.open(folder));
  const { shape, data } = await channelsLast(input);
  using x = gpu.buffer("f32", shape);
  await x.write(data);
  let result: readonly number[] = [];
  gpu
    .record("shape", (g) => {
      result = build(g, vae, x).shape;
    })
    .dispose();
  using out = gpu.buffer("f32", result);
  using plan = gpu.record("test", (g) => g.copy(build(g, vae, x), out));
  await plan.run();
  return out.read();
}

const tolerance = (name: string): number => tensors[name].tolerance.bf16_impl;

for (const size of ["64x64", "128x128", "96x160"]) {
  const skip = isWhole || size === "64x64" ? false : "needs the golden data of ../shared";

  test(`decodes ${size} within 2 × bf16_impl`, { skip }, async () => {
    const image = await run((g, vae, z) => vae.decode(g, z), `${size}.z`);
    const error = relativeL2(image, (await channelsLast(`${size}.decoded`)).data);
    console.log(`decoded ${size}: relative L2 ${error.toExponential(2)}`);
    assert.ok(error <= 2 * tolerance(`${size}.decoded`));
  });

  test(`encodes ${size} within 2 × bf16_impl`, { skip }, async () => {
    const moments = await run((g, vae, image) => vae.encode(g, image), `${size}.image`);
    for (const [part, name] of [`${size}.mean`, `${size}.logvar`].entries()) {
      const expected = await channelsLast(name);
      const channels = expected.shape[3]!;
      const half = expected.data.map(
        (_, i) => moments[Math.floor(i / channels) * 2 * channels + part * channels + (i % channels)]!,
      );
      const error = relativeL2(half, expected.data);
      console.log(`${name}: relative L2 ${error.toExponential(2)}`);
      assert.ok(error <= 2 * tolerance(name));
    }
  });
}

/** A picture [1, height, width, 3] in −1 to 1 whose parts are unlike, so that tiles are unlike, too. */
function picture(height: number, width: number): Float32Array {
  const data = new Float32Array(height * width * 3);
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      const inDisc = Math.hypot(y - height / 2, x - width / 3) < height / 4;
      const stripes = x > width / 2 && Math.floor(y / 12) % 2 === 0;
      const color = inDisc
        ? [0.9, 0.1, -0.6]
        : stripes
          ? [-0.8, 0.2, 0.7]
          : [-0.7, (2 * y) / height - 1, -0.3];
      data.set(color, (y * width + x) * 3);
    }
  }
  return data;
}

test("decodes and encodes the small model's pictures in tiles to 35 dB and more of the whole", async () => {
  using vae = new AutoencoderKL(gpu, await readAutoencoderKLConfig("models/tiny/vae"));
  await vae.load(await WeightSource.open("models/tiny/vae"));
  const [height, width] = [400, 528];
  using image = gpu.buffer("f32", [1, height, width, 3]);
  await image.write(picture(height, width));
  const outputs = {
    moments: gpu.buffer("f32", [1, height / 8, width / 8, 32]),
    tiledMoments: gpu.buffer("f32", [1, height / 8, width / 8, 32]),
    whole: gpu.buffer("f32", [1, height, width, 3]),
    tiled: gpu.buffer("f32", [1, height, width, 3]),
  };
  using plan = gpu.record("tiles", (g) => {
    const moments = vae.encode(g, image);
    g.copy(moments, outputs.moments);
    g.copy(vae.encode(g, image, { tileSize: 256 }), outputs.tiledMoments);
    const z = g.sampleLatents(moments);
    g.copy(vae.decode(g, z), outputs.whole);
    g.copy(vae.decode(g, z, { tileSize: 256 }), outputs.tiled);
  });
  await plan.run();
  const [moments, tiledMoments, whole, tiled] = await Promise.all(
    Object.values(outputs).map((buffer) => buffer.read()),
  );
  for (const buffer of Object.values(outputs)) buffer.dispose();
  const means = (values: Float32Array) => values.filter((_, i) => i % 32 < 16);
  const range = 2 * means(moments!).reduce((most, value) => Math.max(most, Math.abs(value)), 0);
  const decoded = psnr(tiled!, whole!, 2);
  const encoded = psnr(means(tiledMoments!), means(moments!), range);
  console.log(`tiles: decoded ${decoded.toFixed(1)} dB, encoded ${encoded.toFixed(1)} dB`);
  assert.ok(decoded > 35 && encoded > 35);
  // No seam: no value is off by what neighbouring tiles' own brightness differs by, and no line is a step in the difference.
  const difference = tiled!.map((value, i) => value - whole![i]!);
  const worst = difference.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
  const step = largestStep(difference, height, width);
  console.log(`tiles: worst difference ${worst.toFixed(3)}, largest step along a line ${step.toFixed(4)}`);
  assert.ok(worst < 0.15 && step < 0.02);
});

/** Of [height, width, 3]: by how much two neighbouring rows or columns differ in their means, at the most. */
function largestStep(values: Float32Array, height: number, width: number): number {
  const rows = new Float64Array(height);
  const columns = new Float64Array(width);
  for (const [i, value] of values.entries()) {
    const pixel = Math.floor(i / 3);
    rows[Math.floor(pixel / width)]! += value / (3 * width);
    columns[pixel % width]! += value / (3 * height);
  }
  return Math.max(
    ...[rows, columns].flatMap((means) =>
      [...means.subarray(1)].map((mean, i) => Math.abs(mean - means[i]!)),
    ),
  );
}

function psnr(a: Float32Array, b: Float32Array, range: number): number {
  const error = a.reduce((sum, value, i) => sum + (value - b[i]!) ** 2, 0) / a.length;
  return 10 * Math.log10(range ** 2 / error);
}

test("takes the memory that its plan forecast, for one size after the other and a batch of four", async () => {
  using vae = new AutoencoderKL(gpu, await readAutoencoderKLConfig("models/tiny/vae"));
  await vae.load(await WeightSource.open("models/tiny/vae"));
  for (const shape of [
    [1, 64, 96, 16],
    [4, 64, 96, 16],
    [1, 256, 256, 16],
  ]) {
    const [batch, height, width] = shape as [number, number, number];
    using z = gpu.buffer("f32", shape);
    using pixels = gpu.buffer("u8", [batch, 8 * height, 8 * width, 3]);
    await z.write(new Float32Array(z.elements).map((_, i) => Math.sin(i)));
    await gpu.drain(); // what earlier plans had is given back
    const before = gpu.memoryUsage().allocated;
    using plan = gpu.record("memory", (g) => g.toImage(vae.decode(g, z), pixels));
    await plan.run();
    assert.equal(gpu.memoryUsage().allocated - before, plan.arenaBytes);
  }
});
