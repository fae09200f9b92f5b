import { describe, expect, it } from "vitest";
import { imageIds, latentSize } from "../../../lib/models/latents.js";
import { referenceIds, referenceSize, sizeOfArea } from "../../../lib/pipelines/conditioning/kontext.js";
import { golden, goldenJson } from "../../support/golden.js";

interface Resolution {
  width: number;
  height: number;
  preferred_width: number;
  preferred_height: number;
  output_width: number;
  output_height: number;
}

const resolutions = goldenJson<Resolution[]>("cases/kontext_resolutions.json");

describe.each(resolutions)("$width×$height", (entry) => {
  it("as a reference becomes the trained size that FluxKontextPipeline chooses", () => {
    const { preferred_width: width, preferred_height: height } = entry;
    expect(referenceSize(entry, true)).toEqual({ width, height });
  });

  it("as a wish becomes the size of 1024² pixels that FluxKontextPipeline draws", () => {
    const { output_width: width, output_height: height } = entry;
    expect(sizeOfArea(entry, 1024 ** 2)).toEqual({ width, height });
  });
});

describe("sizes at the edge", () => {
  it.each([
    [
      { width: 1, height: 1 },
      { width: 1024, height: 1024 },
    ],
    [
      { width: 8000, height: 50 },
      { width: 1568, height: 672 },
    ],
    [
      { width: 15, height: 4000 },
      { width: 672, height: 1568 },
    ],
  ])("%j is resized to %j", (size, expected) => {
    expect(referenceSize(size, true)).toEqual(expected);
  });

  it("without resizing a reference loses what is over a multiple of 16, and no side all of it", () => {
    expect(referenceSize({ width: 100, height: 47 }, false)).toEqual({ width: 96, height: 32 });
    expect(referenceSize({ width: 1, height: 17 }, false)).toEqual({ width: 16, height: 16 });
  });

  it("a model for smaller images sees smaller references", () => {
    expect(referenceSize({ width: 300, height: 300 }, true, 256)).toEqual({ width: 256, height: 256 });
    expect(referenceSize({ width: 1500, height: 688 }, true, 512)).toEqual({ width: 752, height: 336 });
  });

  it("no side is below 16", () => {
    expect(sizeOfArea({ width: 1_000_000, height: 1 }, 256)).toEqual({ width: 16000, height: 16 });
  });
});

describe("ids of references", () => {
  it("of one follow the image's with index 1", () => {
    const ids = [...imageIds(latentSize(128, 128)), ...referenceIds([latentSize(96, 160)])];
    expect(Float32Array.from(ids)).toEqual(golden("cases/packing.safetensors").f32("kontext.img_ids"));
  });

  // Worked by hand after ComfyUI's comfy/ldm/flux/model.py, in tokens: 4×2, then 3×3, then 2×6 (rows × columns).
  it("of several lie on one plane, each where the plane grows least", () => {
    const sizes = [latentSize(64, 32), latentSize(48, 48), latentSize(32, 96)];
    const ids = referenceIds(sizes);
    const first = [0, 8, 17].map((token) => [...ids.subarray(3 * token, 3 * token + 3)]);
    // 3 + 4 rows > 3 + 2 columns: beside; then 2 + 4 rows < 6 + 5 columns: below.
    expect(first).toEqual([
      [1, 0, 0],
      [1, 0, 2],
      [1, 4, 0],
    ]);
    expect([...ids.subarray(-3)]).toEqual([1, 5, 5]);
    expect(ids).toHaveLength(3 * (8 + 9 + 12));
  });
});
