// What generate() does with pictures and the options that go with them. The images themselves are tested against diffusers in
// image-tasks.test.ts and image-tasks-diffusers.test.ts.

import { rmSync } from "node:fs";
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import sharp from "sharp";
import { afterAll, beforeAll, describe, expect, it, onTestFinished } from "vitest";
import { Device, type FluxImage, FluxPipeline, type GenerateOptions, type Variant } from "../../lib/index.js";
import { temporaryFolder } from "../support/fixture-folder.js";
import { TINY, wideCheckpoint } from "../support/wide-checkpoint.js";

const SMALL = { prompt: "a red circle", numInferenceSteps: 4, seed: 5, maxSequenceLength: 32 } as const;

/** A grey picture or mask of any size. */
function flat(width: number, height: number, level = 128) {
  return { width, height, data: new Uint8Array(3 * width * height).fill(level) };
}
/** White where `isWhite`. */
function maskOf(width: number, height: number, isWhite: (x: number, y: number) => boolean) {
  const white = (i: number) => isWhite(i % width, Math.floor(i / width));
  return { width, height, data: Uint8Array.from({ length: width * height }, (_, i) => (white(i) ? 255 : 0)) };
}
const PICTURE = flat(64, 48);
const MASK = flat(64, 48, 255);

const pipes = new Map<Variant, FluxPipeline>();
const folders = { fill: wideCheckpoint(384), control: wideCheckpoint(128) };
beforeAll(async () => {
  const cpu = { device: "cpu" } as const;
  pipes.set("dev", await FluxPipeline.fromPretrained(TINY, cpu));
  pipes.set("kontext", await FluxPipeline.fromPretrained(TINY, { ...cpu, variant: "kontext" }));
  pipes.set("fill", await FluxPipeline.fromPretrained(folders.fill, cpu));
  pipes.set("control", await FluxPipeline.fromPretrained(folders.control, cpu));
});
afterAll(() => {
  for (const pipe of pipes.values()) pipe.dispose();
  for (const folder of Object.values(folders)) rmSync(folder, { recursive: true });
});

const draw = async (variant: Variant, options: GenerateOptions): Promise<FluxImage> =>
  (await pipes.get(variant)!.generate({ ...SMALL, ...options })).images[0]!;
const sizeOf = ({ width, height }: FluxImage) => [width, height];

it("a pipeline says what its checkpoint is", () => {
  for (const [variant, pipe] of pipes) expect(pipe.variant).toBe(variant);
});

describe("a wrong combination names the right one", () => {
  const cases: [Variant, string, GenerateOptions, RegExp][] = [
    [
      "dev",
      "a control image",
      { controlImage: PICTURE },
      /controlImage is for FLUX\.1-Canny-dev and FLUX\.1-Depth-dev, and this is FLUX\.1-dev/,
    ],
    ["dev", "a mask without a picture", { maskImage: MASK }, /give image, too/],
    ["dev", "strength without a picture", { strength: 0.5 }, /give image, too/],
    [
      "dev",
      "strength 0",
      { image: PICTURE, strength: 0 },
      /above 0 and at most 1, not 0\. 0 would run no step/,
    ],
    ["dev", "strength over 1", { image: PICTURE, strength: 1.01 }, /above 0 and at most 1, not 1\.01/],
    ["dev", "strength NaN", { image: PICTURE, strength: Number.NaN }, /not NaN/],
    ["dev", "a crop without a mask", { image: PICTURE, paddingMaskCrop: 8 }, /goes with maskImage/],
    [
      "dev",
      "a crop of half a pixel",
      { image: PICTURE, maskImage: MASK, paddingMaskCrop: 0.5 },
      /whole number of pixels/,
    ],
    [
      "dev",
      "a crop of raw output",
      { image: PICTURE, maskImage: MASK, paddingMaskCrop: 8, outputType: "raw" },
      /outputType is "image"/,
    ],
    [
      "dev",
      "a crop around nothing",
      { image: PICTURE, maskImage: flat(64, 48, 0), paddingMaskCrop: 8 },
      /maskImage is black/,
    ],
    [
      "dev",
      "a mask of other proportions",
      { image: PICTURE, maskImage: flat(48, 64) },
      /maskImage has 48×64 pixels and image 64×48; make the mask as large/,
    ],
    [
      "dev",
      "as many pictures as nobody asked for",
      { prompt: ["a", "b", "c"], image: [PICTURE, PICTURE] },
      /image has 2 pictures for 3 prompts/,
    ],
    ["dev", "no picture in the list", { image: [] }, /image is an empty list/],
    [
      "dev",
      "a broken picture in a list",
      { image: [PICTURE, Buffer.from("x")] },
      /^image\[1\] cannot be decoded/,
    ],
    [
      "dev",
      "a picture that is too small to follow",
      { image: flat(1, 1) },
      /1×1 pixels.*give height and width/,
    ],
    [
      "dev",
      "autoResize",
      { image: PICTURE, autoResize: false },
      /autoResize is for reference images of FLUX\.1-Kontext-dev/,
    ],
    [
      "dev",
      "an area of nothing",
      { image: PICTURE, maxArea: 10 },
      /maxArea is a number of pixels of at least 256/,
    ],
    ["dev", "diffusers' spelling", { mask_image: MASK } as GenerateOptions, /did you mean maskImage/],
    [
      "kontext",
      "a mask",
      { image: PICTURE, maskImage: MASK },
      /FLUX\.1-Kontext-dev edits a picture by its prompt and takes no maskImage; .*FLUX\.1-Fill-dev or FLUX\.1-dev/,
    ],
    [
      "kontext",
      "strength",
      { image: PICTURE, strength: 0.5 },
      /takes no strength; for image-to-image load FLUX\.1-dev/,
    ],
    [
      "kontext",
      "a control image",
      { controlImage: PICTURE },
      /this is FLUX\.1-Kontext-dev; load one of those/,
    ],
    ["fill", "text alone", {}, /give image and maskImage, or load FLUX\.1-dev/],
    ["fill", "a picture alone", { image: PICTURE }, /give image and maskImage/],
    ["control", "text alone", {}, /give controlImage, or load FLUX\.1-dev/],
    [
      "control",
      "a crop",
      { controlImage: PICTURE, image: PICTURE, maskImage: MASK, paddingMaskCrop: 4 },
      /does not go with controlImage/,
    ],
  ];

  it.each(cases)("%s: %s", async (variant, _, options, says) => {
    const drawing = pipes.get(variant)!.generate({ prompt: "a", ...options });
    await expect(drawing).rejects.toMatchObject({
      name: "FluxError",
      code: "ERR_FLUX_BAD_ARGUMENT",
      message: expect.stringMatching(says),
    });
  });

  it("and is told before the call's turn comes", async () => {
    const order: string[] = [];
    const first = draw("dev", { height: 64, width: 64 }).then(() => order.push("first"));
    const second = draw("dev", { image: "/nowhere.png" }).catch(() => order.push("second"));
    await Promise.all([first, second]);
    expect(order).toEqual(["second", "first"]);
  });
});

describe("strength", () => {
  it("is the share of the steps that run", async () => {
    for (const [strength, steps] of [
      [0.01, 1],
      [0.5, 5],
      [0.6, 6],
      [1, 10],
    ] as const) {
      let total = 0;
      await draw("dev", {
        image: PICTURE,
        strength,
        numInferenceSteps: 10,
        onStep: (event) => (total = event.total),
      });
      expect(total, `strength ${strength}`).toBe(steps);
    }
  });

  it("1 forgets the picture: the image is that of the text alone from the same noise", async () => {
    const data = Float32Array.from({ length: 12 * 64 }, (_, i) => Math.sin(i * 12.9898));
    const latents = { data, shape: [1, 12, 64] };
    const size = { height: 48, width: 64 };
    const text = await draw("dev", { latents, ...size });
    const picture = await draw("dev", { latents, ...size, image: PICTURE, strength: 1 });
    expect(Buffer.from(picture.data).equals(Buffer.from(text.data))).toBe(true);
    const near = await draw("dev", { latents, ...size, image: PICTURE, strength: 0.5 });
    expect(Buffer.from(near.data).equals(Buffer.from(text.data))).toBe(false);
  });

  it("a little changes little", async () => {
    const image = await draw("dev", { height: 64, width: 64, numInferenceSteps: 8 });
    const distance = async (strength: number) => {
      const { data } = await draw("dev", { image, prompt: "a blue square", strength, numInferenceSteps: 20 });
      return data.reduce((sum, level, i) => sum + Math.abs(level - image.data[i]!), 0) / data.length;
    };
    const [little, much] = [await distance(0.05), await distance(0.95)];
    expect(little).toBeLessThan(8);
    expect(much).toBeGreaterThan(3 * little);
  });
});

describe("inpainting", () => {
  it("changes what is kept by no more than the VAE does, and what is masked by much", async () => {
    const side = 192;
    const image = await draw("dev", {
      prompt: "a red circle above a blue square",
      height: side,
      width: side,
      numInferenceSteps: 8,
    });
    const repaint = (isWhite: (x: number, y: number) => boolean) =>
      draw("dev", {
        prompt: "a yellow star",
        image,
        maskImage: maskOf(side, side, isWhite),
        strength: 0.9,
        numInferenceSteps: 8,
      });
    // With nothing to repaint the result is the picture, encoded and decoded.
    const coded = await repaint(() => false);
    const painted = await repaint((x, y) => x >= 64 && x < 128 && y >= 96 && y < 176);
    const errors = (a: FluxImage, b: FluxImage, isIn: (x: number, y: number) => boolean) => {
      const found: number[] = [];
      a.data.forEach((level, i) => {
        const pixel = Math.floor(i / 3);
        if (isIn(pixel % side, Math.floor(pixel / side))) found.push(Math.abs(level - b.data[i]!));
      });
      return { worst: Math.max(...found), mean: found.reduce((sum, error) => sum + error, 0) / found.length };
    };
    // A latent, 8 pixels, beyond the mask's edge the decoder still sees what is new.
    const isKept = (x: number, y: number) => x < 56 || x >= 136 || y < 88 || y >= 184;
    const vae = errors(coded, image, isKept);
    const moved = errors(painted, coded, isKept);
    expect(moved.worst).toBeLessThanOrEqual(vae.worst);
    expect(moved.mean).toBeLessThanOrEqual(vae.mean);
    expect(errors(painted, image, (x, y) => !isKept(x, y)).mean).toBeGreaterThan(10 * vae.mean);
  });

  it("with paddingMaskCrop leaves every pixel that is black in the mask as it is, at the picture's own size", async () => {
    const image = {
      ...flat(101, 77),
      data: Uint8Array.from({ length: 3 * 101 * 77 }, (_, i) => (i * 7) % 256),
    };
    const isWhite = (x: number, y: number) => x >= 70 && x < 95 && y >= 10 && y < 40;
    const result = await draw("dev", {
      image,
      maskImage: maskOf(101, 77, isWhite),
      paddingMaskCrop: 4,
      height: 64,
      width: 64,
    });
    expect(sizeOf(result)).toEqual([101, 77]);
    let changed = 0;
    result.data.forEach((level, i) => {
      const pixel = Math.floor(i / 3);
      if (!isWhite(pixel % 101, Math.floor(pixel / 101))) expect(level).toBe(image.data[i]);
      else if (level !== image.data[i]) changed++;
    });
    expect(changed).toBeGreaterThan(1000);
  });

  it("takes a mask of another size, scaled", async () => {
    const maskImage = flat(32, 24, 255);
    const half = await draw("dev", { image: PICTURE, maskImage });
    const whole = await draw("dev", { image: PICTURE, maskImage: MASK });
    expect(Buffer.from(half.data).equals(Buffer.from(whole.data))).toBe(true);
    const cropped = await draw("dev", { image: PICTURE, maskImage, paddingMaskCrop: 2 });
    expect(sizeOf(cropped)).toEqual([64, 48]);
  });
});

describe("the size of the result", () => {
  it("is the picture's, rounded down to multiples of 16", async () => {
    expect(sizeOf(await draw("dev", { image: flat(70, 54) }))).toEqual([64, 48]);
    expect(sizeOf(await draw("control", { controlImage: flat(70, 54) }))).toEqual([64, 48]);
  });

  it("is what is asked for; the other side follows", async () => {
    expect(sizeOf(await draw("dev", { image: flat(1, 1), height: 32, width: 48 }))).toEqual([48, 32]);
    expect(sizeOf(await draw("dev", { image: flat(100, 50), width: 64 }))).toEqual([64, 32]);
    expect(sizeOf(await draw("dev", { image: flat(100, 50), height: 32 }))).toEqual([64, 32]);
  });

  it("is at most maxArea, in the picture's proportions", async () => {
    expect(sizeOf(await draw("dev", { image: flat(800, 200), maxArea: 64 * 64 }))).toEqual([128, 32]);
    expect(sizeOf(await draw("dev", { image: flat(8000, 50), maxArea: 64 * 64 }))).toEqual([800, 16]);
  });

  it("with Kontext has maxArea pixels in the proportions that are asked for, and says so", async () => {
    const warnings: string[] = [];
    const listen = (warning: Error & { code?: string }) => {
      if (warning.code === "FLUX_SIZE_ADJUSTED") warnings.push(warning.message);
    };
    process.on("warning", listen);
    onTestFinished(() => void process.off("warning", listen));
    const kontext = { maxArea: 64 * 64, autoResize: false };
    expect(sizeOf(await draw("kontext", { image: flat(200, 50), ...kontext }))).toEqual([128, 32]);
    expect(sizeOf(await draw("kontext", { ...kontext, autoResize: undefined }))).toEqual([64, 64]);
    await new Promise(setImmediate);
    expect(warnings).toEqual([]);
    expect(sizeOf(await draw("kontext", { image: flat(32, 32), height: 32, width: 32, ...kontext }))).toEqual(
      [64, 64],
    );
    await new Promise(setImmediate);
    expect(warnings).toEqual([expect.stringMatching(/draws 64×64.*instead of 32×32; set maxArea/)]);
  });
});

describe("Kontext", () => {
  const kontext = { maxArea: 64 * 64, autoResize: false };

  it("sees its reference, every one of several, and where each lies", async () => {
    const bytes = async (image?: GenerateOptions["image"]) =>
      Buffer.from(
        (await draw("kontext", { ...kontext, height: 64, width: 64, ...(image && { image }) })).data,
      ).toString("base64");
    const one = flat(48, 32, 30);
    const two = flat(32, 48, 220);
    const results = [
      await bytes(),
      await bytes(one),
      await bytes(two),
      await bytes([one, two]),
      await bytes([two, one]),
    ];
    expect(new Set(results).size).toBe(5);
    expect(await bytes([one, two])).toBe(results[3]);
  });

  it("keeps the step's length to the image that is made", async () => {
    const plan = await pipes.get("kontext")!.profile({ ...SMALL, ...kontext, image: flat(48, 32) });
    // The velocity is taken at the 12 tokens of 64×48, not at the reference's 6.
    const last = plan
      .describe()
      .ops.filter((op) => op.kind === "linear")
      .at(-1)!;
    expect(Object.values(last.outputs)).toEqual(["f32[1, 12, 64]"]);
  });
});

describe("a plan", () => {
  it("of Fill and Canny/Depth is there without pictures, and can be timed", async () => {
    for (const [variant, width] of [
      ["fill", 384],
      ["control", 128],
    ] as const) {
      const pipe = pipes.get(variant)!;
      expect(pipe.plan({ height: 64, width: 64 }).toString()).toContain(`f32[1, 16, ${width}]`);
      const timed = await pipe.profile({ height: 64, width: 64 });
      expect(timed.describe().ops.some(({ ms }) => ms !== undefined)).toBe(true);
    }
  });

  it("reads no pictures", () => {
    expect(() => pipes.get("dev")!.plan({ image: PICTURE })).toThrow(/reads no pictures.*profile\(\)/);
  });
});

describe("memory", () => {
  it("of encoders, decoders and loops is given back", async () => {
    const device = Device.open("cpu", { threads: 2 });
    onTestFinished(() => device.dispose());
    const pipe = await FluxPipeline.fromPretrained(TINY, { device, variant: "kontext" });
    for (const side of [32, 48, 64, 80, 96, 112]) {
      await pipe.generate({ ...SMALL, image: flat(side, side), autoResize: false, maxArea: 64 * 64 });
    }
    await pipe.generate({ ...SMALL, height: 32, width: 32, maxArea: 32 * 32 });
    pipe.dispose();
    await device.drain();
    expect(device.memoryUsage().allocated).toBe(0);
  });
});

it("files of any kind go in by their path, and results go in again", async () => {
  const path = join(await temporaryFolder(), "picture.webp");
  await writeFile(
    path,
    await sharp({ create: { width: 70, height: 54, channels: 3, background: "teal" } })
      .webp()
      .toBuffer(),
  );
  const first = await draw("dev", { image: path });
  const second = await draw("dev", { image: first, maskImage: maskOf(64, 48, (x) => x < 32) });
  expect(sizeOf(second)).toEqual([64, 48]);
});
