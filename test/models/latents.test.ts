import { describe, expect, it } from "vitest";
import { imageIds, latentSize, textIds } from "../../lib/models/latents.js";
import { golden } from "../support/golden.js";

const packing = golden("cases/packing.safetensors");
const SIZES: [height: number, width: number][] = [
  [128, 128],
  [96, 160],
];

describe("latentSize", () => {
  it("gives /8 latents and /16 tokens", () => {
    expect(latentSize(768, 1344)).toEqual({
      height: 768,
      width: 1344,
      latentHeight: 96,
      latentWidth: 168,
      rows: 48,
      columns: 84,
      tokens: 4032,
    });
  });

  it.each([
    [100, 128, "height", "Use 96"],
    [128, 1023, "width", "Use 1024"],
    [0, 128, "height", "Use 16"],
    [-16, 128, "height", "Use 16"],
    [128, 16.5, "width", "Use 16"],
    [Number.NaN, 128, "height", "NaN"],
    [128, Number.POSITIVE_INFINITY, "width", "Infinity"],
    ["128" as unknown as number, 128, "height", "Use 128"],
  ])("refuses %s × %s", (height, width, side, says) => {
    expect(() => latentSize(height, width)).toThrow(
      expect.objectContaining({
        code: "ERR_FLUX_BAD_ARGUMENT",
        message: expect.stringMatching(new RegExp(`^${side} must be a multiple of 16.*${says}`)),
      }),
    );
  });
});

describe("latentSize of the golden packing", () => {
  it.each(SIZES)("has its latents and tokens for %i×%i", (height, width) => {
    const { latentHeight, latentWidth, tokens } = latentSize(height, width);
    expect(packing.shape(`${height}x${width}.latents`)).toEqual([2, 16, latentHeight, latentWidth]);
    expect(packing.shape(`${height}x${width}.packed`)).toEqual([2, tokens, 64]);
  });
});

describe("ids", () => {
  it.each(SIZES)("equal diffusers exactly for %i×%i", (height, width) => {
    expect(imageIds(latentSize(height, width))).toEqual(packing.f32(`${height}x${width}.img_ids`));
  });

  it("of text are zero", () => {
    expect(textIds(5)).toEqual(new Float32Array(15));
  });
});
