// The picture's way to the VAE against diffusers' VaeImageProcessor, which resizes with Pillow.

import { describe, expect, it } from "vitest";
import type { Picture } from "../../../lib/pipelines/conditioning/picture.js";
import { binarise, normalise } from "../../../lib/pipelines/conditioning/pixels.js";
import { resize } from "../../../lib/pipelines/conditioning/resample.js";
import { golden, maxAbsDifference } from "../../support/golden.js";
import { toChannelsLast } from "../../support/layout.js";
import { seededRandom } from "../../support/random.js";

const file = golden("cases/image_processing.safetensors");

function stored(name: string, channels: 1 | 3): Picture {
  const { shape, data } = file.raw(name);
  return { data: data as Uint8Array, height: shape[0]!, width: shape[1]!, channels };
}

describe("VaeImageProcessor", () => {
  it.each(["pre.default", "pre.96x160"])("%s: the same 8 bits after Lanczos, in [−1, 1]", async (name) => {
    const [, , height, width] = file.shape(name) as [number, number, number, number];
    const pixels = normalise(await resize(stored("in.u8", 3), width, height));
    // The stored tolerance is two levels; one level is 2/255.
    expect(maxAbsDifference(pixels, toChannelsLast(file.tensor(name)).data)).toBeLessThan(1e-6);
  });

  it("mask.96x160: the same half", async () => {
    const mask = binarise(await resize(stored("in.mask_u8", 1), 160, 96));
    expect(mask).toEqual(file.f32("mask.96x160"));
  });
});

describe("resize", () => {
  const noise = (width: number, height: number): Picture => {
    const next = seededRandom(7);
    const data = Uint8Array.from({ length: 3 * width * height }, () => Math.floor(256 * next()));
    return { data, width, height, channels: 3 };
  };

  it("keeps the mean of noise, and a colour as it is, at any size", async () => {
    const grey = { ...noise(31, 17), data: new Uint8Array(3 * 31 * 17).fill(137) };
    for (const [width, height] of [
      [1, 1],
      [500, 3],
      [62, 34],
      [16, 16],
    ] as const) {
      const { data } = await resize(grey, width, height);
      expect(data).toEqual(new Uint8Array(3 * width * height).fill(137));
    }
    const mean = (data: Uint8Array) => data.reduce((sum, level) => sum + level, 0) / data.length;
    const source = noise(200, 300);
    const { data } = await resize(source, 20, 30);
    expect(Math.abs(mean(data) - mean(source.data))).toBeLessThan(1);
  });

  it("is the same picture when its size is the same", async () => {
    const source = noise(8, 8);
    expect(await resize(source, 8, 8)).toBe(source);
  });

  it("gives the event loop its turn while a large picture is made smaller", async () => {
    let turns = 0;
    const timer = setInterval(() => turns++, 1);
    await resize({ ...noise(1, 1), width: 3000, height: 2000, data: new Uint8Array(18e6) }, 768, 512);
    clearInterval(timer);
    expect(turns).toBeGreaterThan(5);
  });
});
