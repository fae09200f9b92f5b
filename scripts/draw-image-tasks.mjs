// Draws the pictures of README's section on pictures with the shipped model: node scripts/draw-image-tasks.mjs
// Above: a picture, and image-to-image from it with growing strength. Below: a mask, and three seeds of inpainting with it.
import { fileURLToPath } from "node:url";
import sharp from "sharp";
import { FluxPipeline } from "../dist/index.js";

const SIDE = 256;
const GAP = 4;
const path = (relative) => fileURLToPath(new URL(relative, import.meta.url));

const pipe = await FluxPipeline.fromPretrained(path("../models/tiny"), { device: "cpu" });
const draw = async (options) =>
  (await pipe.generate({ numInferenceSteps: 20, seed: 2, ...options })).images[0];

const image = await draw({ prompt: "a red circle above a blue square on a grey background", seed: 1 });
const other = "a yellow star above a green triangle on a grey background";
const above = [image];
for (const strength of [0.4, 0.6, 0.8]) above.push(await draw({ prompt: other, image, strength }));

const mask = { width: SIDE, height: SIDE, data: new Uint8Array(SIDE * SIDE).fill(255, SIDE * 134) };
const below = [mask];
const prompt = "a red circle above a yellow star on a grey background";
for (const seed of [1, 2, 3]) below.push(await draw({ prompt, image, maskImage: mask, strength: 0.9, seed }));
pipe.dispose();

const tiles = [above, below].flatMap((row, y) =>
  row.map(({ data, width, height }, x) => ({
    input: Buffer.from(data),
    raw: { width, height, channels: data.length / (width * height) },
    left: x * (SIDE + GAP),
    top: y * (SIDE + GAP),
  })),
);
const sides = { width: 4 * (SIDE + GAP) - GAP, height: 2 * (SIDE + GAP) - GAP };
await sharp({ create: { ...sides, channels: 3, background: "white" } })
  .composite(tiles)
  .webp({ quality: 90 })
  .toFile(path("../examples/pictures.webp"));
