import { describe, expect, it } from "vitest";
import { readAutoencoderKLConfig } from "../../../lib/loaders/config.js";
import { WeightSource } from "../../../lib/loaders/weights.js";
import { AutoencoderKL } from "../../../lib/models/vae/autoencoder.js";
import { checkTileSize, spansOf } from "../../../lib/models/vae/tiles.js";
import { chooseTiles } from "../../../lib/pipelines/vae-tiles.js";
import type { Device } from "../../../lib/runtime/device.js";
import { bufferFrom, bufferOf, compute, cpuDevice } from "../../support/device.js";
import { randomValues } from "../../support/random.js";

const FOLDER = "models/tiny/vae";

async function smallVae(device: Device): Promise<AutoencoderKL> {
  const model = new AutoencoderKL(device, await readAutoencoderKLConfig(FOLDER));
  await model.load(await WeightSource.open(FOLDER));
  return model;
}

/** A picture [1, height, width, 3] in −1 to 1 whose halves have unlike brightness and detail, so that tiles are unlike, too. */
function picture(height: number, width: number) {
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
  return { shape: [1, height, width, 3], data };
}

function psnr(a: Float32Array, b: Float32Array, range: number): number {
  const error = a.reduce((sum, value, i) => sum + (value - b[i]) ** 2, 0) / a.length;
  return 10 * Math.log10(range ** 2 / error);
}

/** The means of moments [.., 2C]. */
const meansOf = (moments: Float32Array, channels: number) =>
  moments.filter((_, i) => i % (2 * channels) < channels);

describe("tiles of the autoencoder", () => {
  it("cover an axis evenly and overlap by no less than asked for", () => {
    for (const [length, side, overlap] of [
      [64, 64, 16],
      [65, 64, 16],
      [112, 64, 16],
      [113, 64, 16],
      [500, 32, 16],
    ] as const) {
      const spans = spansOf(length, side, overlap);
      expect(spans[0]).toEqual({ start: 0, length: Math.min(length, side), overlap: 0 });
      expect(spans.at(-1)!.start + spans.at(-1)!.length).toBe(length);
      for (const [i, span] of spans.slice(1).entries()) {
        const { start, length: before } = spans[i]!;
        expect(span.overlap).toBe(start + before - span.start);
        expect(span.overlap).toBeGreaterThanOrEqual(overlap);
      }
    }
  });

  it.each([0, 128, 264, 300.5])("are refused with a side of %s pixels", (side) => {
    expect(() => checkTileSize(side)).toThrow(
      expect.objectContaining({ code: "ERR_FLUX_BAD_ARGUMENT", message: expect.stringMatching(/256/) }),
    );
  });

  it("encode and decode the small model's images to more than 40 dB of the whole", async () => {
    const device = cpuDevice();
    const vae = await smallVae(device);
    const image = bufferFrom(device, picture(400, 528));
    const options = { tileSize: 256 };
    const { whole, tiled } = await compute(device, (g) => ({
      whole: vae.encode(g, image),
      tiled: vae.encode(g, image, options),
    }));
    const means = meansOf(whole, 16);
    const range = means.reduce((most, value) => Math.max(most, Math.abs(value)), 0) * 2;
    expect(psnr(meansOf(tiled, 16), means, range)).toBeGreaterThan(40);

    const z = bufferOf(device, "f32", [1, 50, 66, 16], means);
    const images = await compute(device, (g) => ({
      whole: vae.decode(g, z),
      tiled: vae.decode(g, z, options),
    }));
    expect(psnr(images.tiled, images.whole, 2)).toBeGreaterThan(40);
    // No seam: the largest difference is nowhere near one between neighbouring tiles' own brightness.
    const worst = images.tiled.reduce(
      (most, value, i) => Math.max(most, Math.abs(value - images.whole[i])),
      0,
    );
    expect(worst).toBeLessThan(0.1);
  });

  it("treat the images of a batch each for itself", async () => {
    const device = cpuDevice();
    const vae = await smallVae(device);
    const values = randomValues(2 * 20 * 36 * 16, 5);
    const both = bufferOf(device, "f32", [2, 20, 36, 16], values);
    const second = bufferOf(device, "f32", [1, 20, 36, 16], values.slice(values.length / 2));
    const options = { tileSize: 256 };
    const { batch, alone } = await compute(device, (g) => ({
      batch: vae.decode(g, both, options),
      alone: vae.decode(g, second, options),
    }));
    expect(batch.subarray(batch.length / 2)).toEqual(alone);
  });

  it("leave images alone that are no larger than a tile", async () => {
    const device = cpuDevice();
    const vae = await smallVae(device);
    const z = bufferOf(device, "f32", [1, 8, 12, 16], randomValues(8 * 12 * 16, 6));
    const bytes = (tileSize?: number) => device.forecast((g) => vae.decode(g, z, { tileSize }));
    expect(bytes(256)).toBe(bytes());
  });

  it("are chosen where the plan's forecast exceeds the memory that is free, the largest that fit", async () => {
    const device = cpuDevice();
    const vae = await smallVae(device);
    const z = bufferOf(device, "f32", [1, 192, 192, 16], randomValues(192 * 192 * 16, 7));
    const record = (g: Parameters<Parameters<Device["forecast"]>[0]>[0], options: { tileSize?: number }) => {
      vae.decode(g, z, options);
    };
    const forecast = (options: { tileSize?: number }) => device.forecast((g) => record(g, options));
    const withFree = (bytes: number) => {
      const fake = Object.create(device, { availableMemory: { value: () => bytes } }) as Device;
      return chooseTiles(fake, undefined, record);
    };
    expect(withFree(2 * forecast({}))).toEqual({});
    expect(withFree(1.2 * forecast({ tileSize: 768 }))).toEqual({ tileSize: 768 });
    expect(withFree(1)).toEqual({ tileSize: 256 });
    expect(chooseTiles(device, 512, record)).toEqual({ tileSize: 512 });
  });
});
