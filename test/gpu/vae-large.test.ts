// The autoencoder on the GPU where images are large or several: 2048² and batches of four, value by value against the CPU in f32, and the
// seams of tiles.

import assert from "node:assert/strict";
import { test } from "node:test";
import { readAutoencoderKLConfig } from "../../dist/loaders/config.js";
import { resolveConfig } from "../../dist/loaders/pipeline-configs.js";
import { RandomWeights } from "../../dist/loaders/random-weights.js";
import { WeightSource } from "../../dist/loaders/weights.js";
import { AutoencoderKL } from "../../dist/models/vae/autoencoder.js";
import type { Device } from "../../dist/runtime/device.js";
import type { Recorder, Tensor } from "../../dist/runtime/recorder.js";
import type { Value } from "../../dist/runtime/value.js";
import { cpu, gpu, relativeL2, toBf16, uniform } from "./both.js";

const TINY = "models/tiny/vae";
/** Three to four times what bf16 costs the golden cases (vae.test.ts), and for the worst value of an image in −1 to 1. */
const IMAGE = { whole: 3e-2, worst: 0.3 };
const MOMENTS = { whole: 4e-2, worst: Infinity };
/** Sums in another order, at the most. */
const ALONE = { whole: 2e-2, worst: Infinity };

async function smallVae(device: Device): Promise<AutoencoderKL> {
  const vae = new AutoencoderKL(device, await readAutoencoderKLConfig(TINY));
  await vae.load(await WeightSource.open(TINY));
  return vae;
}

/** FLUX.1's widths with made-up weights. */
async function largeVae(): Promise<AutoencoderKL> {
  const vae = new AutoencoderKL(gpu, (await resolveConfig("flux1-dev")).vae);
  await vae.load(new RandomWeights(vae.tensors(), 0));
  return vae;
}

type Build = (g: Recorder, x: Tensor) => Value;

/** What is made of an input, as f32. */
async function compute(device: Device, shape: readonly number[], data: Float32Array, build: Build) {
  using x = device.buffer("f32", shape);
  await x.write(data);
  let result: readonly number[] = [];
  device
    .record("shape", (g) => {
      result = build(g, x).shape;
    })
    .dispose();
  using out = device.buffer("f32", result);
  using plan = device.record("test", (g) => g.copy(build(g, x), out));
  await plan.run();
  return out.read();
}

const worstOf = (a: Float32Array, b: Float32Array) =>
  a.reduce((most, value, i) => Math.max(most, Math.abs(value - b[i]!)), 0);

function near(name: string, actual: Float32Array, expected: Float32Array, allowed = IMAGE): void {
  const whole = relativeL2(actual, expected);
  const worst = worstOf(actual, expected);
  console.log(`${name}: relative L2 ${whole.toExponential(2)}, worst ${worst.toFixed(3)}`);
  assert.ok(whole <= allowed.whole && worst <= allowed.worst, name);
}

/** An image of a batch of four. */
const row = (values: Float32Array, at: number) =>
  values.subarray((at * values.length) / 4, ((at + 1) * values.length) / 4);

/** Latents of a picture of stripes and slopes, each batch entry with its own. */
function latents(shape: readonly [number, number, number, number]): Float32Array {
  const [batch, height, width, channels] = shape;
  const values = new Float32Array(batch * height * width * channels);
  let i = 0;
  for (let b = 0; b < batch; b++)
    for (let y = 0; y < height; y++)
      for (let x = 0; x < width; x++)
        for (let c = 0; c < channels; c++)
          values[i++] =
            Math.sin((y * (b + 2)) / 9 + c) * Math.cos((x * (c + 1)) / 31 - b) + (x > width / 2 ? 0.4 : -0.4);
  return values;
}

/** RGB in −1 to 1, each batch entry with its own. */
function pictures(batch: number, height: number, width: number): Float32Array {
  const values = new Float32Array(batch * height * width * 3);
  let i = 0;
  for (let b = 0; b < batch; b++)
    for (let y = 0; y < height; y++)
      for (let x = 0; x < width; x++)
        for (let c = 0; c < 3; c++)
          values[i++] = Math.sin((y + b * 40) / (17 + 5 * c)) * (x % (64 + 16 * b) < 24 ? -0.9 : 0.8);
  return values;
}

test("decodes 2048² as the CPU does, value by value", async () => {
  using onGpu = await smallVae(gpu);
  using onCpu = await smallVae(cpu);
  const shape = [1, 256, 256, 16] as const;
  const z = latents(shape);
  const actual = await compute(gpu, shape, z, (g, x) => onGpu.decode(g, x));
  near("decoded 2048²", actual, await compute(cpu, shape, z, (g, x) => onCpu.decode(g, x)));
});

test("encodes 2048² as the CPU does, value by value", async () => {
  using onGpu = await smallVae(gpu);
  using onCpu = await smallVae(cpu);
  const shape = [1, 2048, 2048, 3];
  const image = pictures(1, 2048, 2048);
  const actual = await compute(gpu, shape, image, (g, x) => onGpu.encode(g, x));
  const expected = await compute(cpu, shape, image, (g, x) => onCpu.encode(g, x));
  near("moments of 2048²", actual, expected, MOMENTS);
});

test("a batch of four decodes and encodes each image as the CPU does", async () => {
  using onGpu = await smallVae(gpu);
  using onCpu = await smallVae(cpu);
  const shape = [4, 24, 40, 16] as const;
  const z = latents(shape);
  const decoded = await compute(gpu, shape, z, (g, x) => onGpu.decode(g, x));
  const image = pictures(4, 192, 320);
  const encoded = await compute(gpu, [4, 192, 320, 3], image, (g, x) => onGpu.encode(g, x));
  for (let at = 0; at < 4; at++) {
    const pixels = await compute(cpu, [1, 24, 40, 16], row(z, at), (g, x) => onCpu.decode(g, x));
    near(`image ${at} of four, decoded`, row(decoded, at), pixels);
    const moments = await compute(cpu, [1, 192, 320, 3], row(image, at), (g, x) => onCpu.encode(g, x));
    near(`image ${at} of four, moments`, row(encoded, at), moments, MOMENTS);
  }
});

test("at FLUX.1's widths each image of a batch of four is what it is alone", async () => {
  using vae = await largeVae();
  const shape = [4, 64, 64, 16] as const;
  const z = latents(shape);
  const together = await compute(gpu, shape, z, (g, x) => vae.decode(g, x));
  const images = pictures(4, 512, 512);
  const encoded = await compute(gpu, [4, 512, 512, 3], images, (g, x) => vae.encode(g, x));
  for (let at = 0; at < 4; at++) {
    const alone = await compute(gpu, [1, 64, 64, 16], row(z, at), (g, x) => vae.decode(g, x));
    near(`image ${at} of four beside alone, decoded`, row(together, at), alone, ALONE);
    const moments = await compute(gpu, [1, 512, 512, 3], row(images, at), (g, x) => vae.encode(g, x));
    near(`image ${at} of four beside alone, moments`, row(encoded, at), moments, ALONE);
    const other = row(together, (at + 1) % 4);
    assert.ok(relativeL2(alone, other) > 0.1, "a mix-up of images would show");
  }
});

test("a convolution of 2048² × 128 channels is the CPU's in windows from the first row to the last", async () => {
  // The picture is a band of rows, 32 times: a GB in bf16, of which the host makes a thirty-second.
  const [side, channels, rows] = [2048, 128, 64];
  const band = uniform(rows * side * channels, 901);
  const weight = uniform(channels * 9 * channels, 902, 0.05);
  const [height, width] = [6, 40];
  const corners = [
    [0, 0],
    [61, 1000],
    [1022, 2008],
    [1980, 3],
    [2042, 2008],
  ] as const;
  using bandOnGpu = gpu.buffer("bf16", [1, rows, side, channels]);
  using weightOnGpu = gpu.buffer("bf16", [channels, 3, 3, channels]);
  await Promise.all([bandOnGpu.write(toBf16(band)), weightOnGpu.write(toBf16(weight))]);
  const windows = corners.map(() => gpu.buffer("f32", [1, height, width, channels]));
  using plan = gpu.record("large convolution", (g) => {
    const x = g.empty([1, side, side, channels]);
    for (let top = 0; top < side; top += rows) g.copy(bandOnGpu, x.slice(1, top, rows));
    const y = g.conv2d(x, { weight: weightOnGpu as never }, { padding: [1, 1, 1, 1] });
    for (const [i, [top, left]] of corners.entries())
      g.copy(y.slice(1, top, height).slice(2, left, width), windows[i]!);
  });
  await plan.run();

  using weightOnCpu = cpu.buffer("bf16", weightOnGpu.shape);
  await weightOnCpu.write(toBf16(weight));
  for (const [i, [top, left]] of corners.entries()) {
    const around = new Float32Array((height + 2) * (width + 2) * channels); // zeros beyond the picture
    for (let y = top - 1; y <= top + height; y++) {
      for (let x = left - 1; x <= left + width; x++) {
        if (Math.min(x, y) < 0 || Math.max(x, y) >= side) continue;
        const pixel = ((y % rows) * side + x) * channels;
        const to = ((y - top + 1) * (width + 2) + x - left + 1) * channels;
        around.set(band.subarray(pixel, pixel + channels), to);
      }
    }
    const expected = await compute(cpu, [1, height + 2, width + 2, channels], around, (g, x) =>
      g.conv2d(x, { weight: weightOnCpu as never }),
    );
    const name = `rows from ${top}, columns from ${left}`;
    near(name, await windows[i]!.read(), expected, { whole: 2.5e-3, worst: Infinity });
    windows[i]!.dispose();
  }
});
