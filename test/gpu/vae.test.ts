// The autoencoder in bf16 on the GPU, against diffusers in float32.

import assert from "node:assert/strict";
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { readAutoencoderKLConfig } from "../../dist/loaders/config.js";
import { openSafetensors, readTensor } from "../../dist/loaders/safetensors.js";
import { WeightSource } from "../../dist/loaders/weights.js";
import { AutoencoderKL } from "../../dist/models/vae/autoencoder.js";
import type { Recorder, Tensor } from "../../dist/runtime/recorder.js";
import type { Value } from "../../dist/runtime/value.js";
import { gpu, relativeL2 } from "./both.js";

/** test/golden, or a folder with all of the golden data. */
const GOLDEN = [process.env.FLUX_GOLDEN ?? "", "../shared/golden", "test/golden"].find((path) =>
  existsSync(join(path, "cases")),
)!;
const CASE = "cases/vae.safetensors";
const { tensors } = JSON.parse(readFileSync(join(GOLDEN, "cases/cases.json"), "utf8")).files[CASE];
/** The smallest size alone is in the repository. */
const isWhole = existsSync(join(GOLDEN, CASE));
const file = isWhole ? CASE : "cases/vae_64.safetensors";

/** A tensor of the case: [B, C, H, W] as diffusers has it, turned into [B, H, W, C]. */
async function channelsLast(name: string): Promise<{ shape: number[]; data: Float32Array }> {
  const { shape, data } = await readTensor(await openSafetensors(join(GOLDEN, file)), name);
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
  const folder = join(GOLDEN, "tiny-flux/vae");
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
