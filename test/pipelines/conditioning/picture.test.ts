// What people bring as pictures: a right result, or an error that says what to do.

import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import sharp, { type Sharp } from "sharp";
import { describe, expect, it } from "vitest";
import { FluxImage } from "../../../lib/index.js";
import { type ImageInput, readMask, readPicture } from "../../../lib/pipelines/conditioning/picture.js";
import { temporaryFolder } from "../../support/fixture-folder.js";

const COLOUR = [200, 100, 50] as const;
const WIDTH = 40;
const HEIGHT = 20;
const pixels = Buffer.from(Array.from({ length: WIDTH * HEIGHT }, () => COLOUR).flat());
/** A plain picture, 40×20, on its way to a file. */
const plain = (): Sharp => sharp(pixels, { raw: { width: WIDTH, height: HEIGHT, channels: 3 } });

/** Its size, and the colours that it has. */
async function seen(input: ImageInput) {
  const { data, width, height, channels } = await readPicture("image", input);
  expect(channels).toBe(3);
  expect(data).toHaveLength(3 * width * height);
  const colours = new Set<string>();
  for (let i = 0; i < data.length; i += 3) colours.add([...data.subarray(i, i + 3)].join());
  return { width, height, colours: [...colours] };
}

const SAME = { width: WIDTH, height: HEIGHT, colours: [COLOUR.join()] };

describe("a picture may be", () => {
  it("a path, a file: URL, a data: URL, a Buffer, an ArrayBuffer", async () => {
    const png = await plain().png().toBuffer();
    const path = join(await temporaryFolder(), "picture.png");
    await writeFile(path, png);
    const arrayBuffer = Uint8Array.from(png).buffer;
    const url = `data:image/png;base64,${png.toString("base64")}`;
    for (const input of [
      path,
      pathToFileURL(path),
      String(pathToFileURL(path)),
      url,
      new URL(url),
      png,
      arrayBuffer,
    ]) {
      expect(await seen(input)).toEqual(SAME);
    }
    const text =
      '<svg xmlns="http://www.w3.org/2000/svg" width="40" height="20"><rect width="40" height="20" fill="#c86432"/></svg>';
    expect(await seen(`data:image/svg+xml,${encodeURIComponent(text)}`)).toEqual(SAME);
  });

  it("raw pixels of 1 to 4 channels, a FluxImage, a canvas' ImageData", async () => {
    const raw = (bytes: number[]) => ({ width: 1, height: 1, data: Uint8Array.from(bytes) });
    expect((await seen(raw([7]))).colours).toEqual(["7,7,7"]);
    expect((await seen(raw([7, 255]))).colours).toEqual(["7,7,7"]);
    expect((await seen(raw([1, 2, 3]))).colours).toEqual(["1,2,3"]);
    expect((await seen(raw([1, 2, 3, 255]))).colours).toEqual(["1,2,3"]);
    expect(await seen(new FluxImage(WIDTH, HEIGHT, pixels))).toEqual(SAME);
    const data = Uint8ClampedArray.from([200, 100, 50, 255]);
    expect(await seen({ data, width: 1, height: 1 })).toEqual({ ...SAME, width: 1, height: 1 });
  });

  it("raw pixels that are changed right after the call", async () => {
    const data = Uint8Array.from([1, 2, 3]);
    const reading = seen({ data, width: 1, height: 1 });
    data.fill(9);
    expect((await reading).colours).toEqual(["1,2,3"]);
  });
});

describe("of every kind", () => {
  it("palette, 16 bits, grey, grey of 16 bits", async () => {
    expect(await seen(await plain().png({ palette: true }).toBuffer())).toEqual(SAME);
    const deep = await plain().toColourspace("rgb16").png().toBuffer();
    expect((await sharp(deep).metadata()).depth).toBe("ushort");
    expect(await seen(deep)).toEqual(SAME);
    const grey = await plain().toColourspace("b-w").png().toBuffer();
    expect((await sharp(grey).metadata()).channels).toBe(1);
    const { colours } = await seen(grey);
    const [level] = colours[0]!.split(",");
    expect(colours).toEqual([[level, level, level].join()]);
    const deepGrey = await plain().toColourspace("grey16").png().toBuffer();
    expect((await sharp(deepGrey).metadata()).depth).toBe("ushort");
    expect((await seen(deepGrey)).colours).toEqual(colours);
  });

  it("a CMYK JPEG, in colours near its own", async () => {
    const cmyk = await plain().toColourspace("cmyk").jpeg({ quality: 100 }).toBuffer();
    expect((await sharp(cmyk).metadata()).space).toBe("cmyk");
    const { width, height, colours } = await seen(cmyk);
    expect([width, height]).toEqual([WIDTH, HEIGHT]);
    const found = colours[0]!.split(",").map(Number);
    // sRGB to CMYK and back through lcms' profiles moves a saturated colour a little.
    for (const [i, level] of found.entries()) expect(Math.abs(level - COLOUR[i]!)).toBeLessThan(40);
  });

  it("turned as EXIF says", async () => {
    const turned = await plain().withMetadata({ orientation: 6 }).jpeg().toBuffer();
    expect(await seen(turned)).toMatchObject({ width: HEIGHT, height: WIDTH });
  });

  it("transparent: over white", async () => {
    const half = { r: 200, g: 100, b: 50, alpha: 0.5 };
    const png = sharp({ create: { width: 2, height: 2, channels: 4, background: half } }).png();
    const [colour] = (await seen(await png.toBuffer())).colours;
    const expected = COLOUR.map((level) => (level + 255) / 2);
    for (const [i, level] of colour!.split(",").map(Number).entries()) {
      expect(Math.abs(level - expected[i]!)).toBeLessThanOrEqual(1);
    }
  });

  it("animated: the first frame", async () => {
    const frame = (background: string) =>
      sharp({ create: { width: 8, height: 8, channels: 3, background } })
        .png()
        .toBuffer();
    const frames = [await frame("#ff0000"), await frame("#0000ff")];
    const gif = await sharp(frames, { join: { animated: true } })
      .gif()
      .toBuffer();
    expect((await sharp(gif, { pages: -1 }).metadata()).pages).toBe(2);
    expect(await seen(gif)).toEqual({ width: 8, height: 8, colours: ["255,0,0"] });
  });

  it("one pixel, and 8000×50 pixels", async () => {
    const create = (width: number, height: number) =>
      sharp({ create: { width, height, channels: 3, background: "#c86432" } })
        .png()
        .toBuffer();
    expect(await seen(await create(1, 1))).toEqual({ ...SAME, width: 1, height: 1 });
    expect(await seen(await create(8000, 50))).toEqual({ ...SAME, width: 8000, height: 50 });
  });
});

describe("a mask", () => {
  it("is grey by Pillow's luma, and black where it is transparent", async () => {
    const data = Uint8Array.from([255, 255, 255, 255, 255, 255, 255, 0, 255, 0, 0, 255, 0, 0, 0, 255]);
    const mask = await readMask("maskImage", { data, width: 4, height: 1 });
    // L = (19595 R + 38470 G + 7471 B) / 65536
    expect(mask).toEqual({ data: Uint8Array.of(255, 0, 76, 0), width: 4, height: 1, channels: 1 });
  });
});

describe("what cannot be read is refused with what to do", () => {
  const noisy = () =>
    sharp({
      create: {
        width: 400,
        height: 200,
        channels: 3,
        background: "red",
        noise: { type: "gaussian", mean: 128, sigma: 30 },
      },
    });

  it("a truncated file, another kind of file, an empty one", async () => {
    const bad = (says: RegExp) => ({
      name: "FluxError",
      code: "ERR_FLUX_BAD_ARGUMENT",
      message: expect.stringMatching(says),
    });
    for (const bytes of [
      await noisy().jpeg().toBuffer(),
      await noisy().png().toBuffer(),
      await noisy().webp().toBuffer(),
    ]) {
      const half = bytes.subarray(0, bytes.length / 2);
      await expect(readPicture("image", half)).rejects.toMatchObject(
        bad(/^image cannot be decoded: .*damaged, incomplete.*save it again/s),
      );
    }
    await expect(readPicture("image", Buffer.from("hello"))).rejects.toMatchObject(
      bad(/image cannot be decoded/),
    );
    await expect(readPicture("maskImage", new Uint8Array(0))).rejects.toMatchObject(
      bad(/^maskImage is empty/),
    );
  });

  it("a picture of more pixels than sharp decodes", async () => {
    const svg = '<svg xmlns="http://www.w3.org/2000/svg" width="20000" height="20000"/>';
    await expect(readPicture("image", Buffer.from(svg))).rejects.toMatchObject({
      code: "ERR_FLUX_BAD_ARGUMENT",
      message: expect.stringMatching(/exceeds pixel limit\. Make it smaller\./),
    });
  });

  it.each<[string, unknown, RegExp]>([
    ["a missing file", "/nowhere/cat.png", /\/nowhere\/cat\.png is not there/],
    ["a folder", "/", /is a folder/],
    ["a web address", "https://example.org/cat.png", /downloads nothing; fetch it and pass Buffer/],
    ["a data: URL without data", "data:image/png;base64", /no complete data: URL/],
    ["an empty path", "", /is a path, a data: URL, a Buffer/],
    ["a number", 7, /is a path, a data: URL, a Buffer/],
    ["null", null, /is a path, a data: URL, a Buffer/],
    ["raw pixels without data", { width: 2, height: 2 }, /has no raw pixels/],
    ["raw pixels that are too few", { width: 2, height: 2, data: new Uint8Array(7) }, /has no raw pixels/],
    ["raw pixels of a size of 0", { width: 0, height: 2, data: new Uint8Array(0) }, /has no raw pixels/],
    [
      "raw pixels of other channels",
      { width: 2, height: 2, channels: 3, data: new Uint8Array(16) },
      /16 bytes for 2×2 pixels of 3 channels; it takes 12/,
    ],
  ])("%s", async (_, input, says) => {
    await expect(readPicture("image", input as ImageInput)).rejects.toMatchObject({
      name: "FluxError",
      code: "ERR_FLUX_BAD_ARGUMENT",
      message: expect.stringMatching(says),
    });
  });
});
