// Sizes and positions of FLUX.1 Kontext (Black Forest Labs, 2025): the sizes of diffusers' FluxKontextPipeline, and several reference
// images on one plane as ComfyUI and stable-diffusion.cpp place them ("offset"); diffusers itself takes one.

import { imageIds, type LatentSize, SIZE_MULTIPLE } from "../../models/latents.js";

export interface PixelSize {
  readonly width: number;
  readonly height: number;
}

/** What FLUX.1's VAE was made for. */
const TRAINED_SIDE = 1024;
/** Width and height of the pictures that Kontext was trained with. */
const PREFERRED: readonly (readonly [number, number])[] = [
  [672, 1568],
  [688, 1504],
  [720, 1456],
  [752, 1392],
  [800, 1328],
  [832, 1248],
  [880, 1184],
  [944, 1104],
  [1024, 1024],
  [1104, 944],
  [1184, 880],
  [1248, 832],
  [1328, 800],
  [1392, 752],
  [1456, 720],
  [1504, 688],
  [1568, 672],
];

/** The largest multiple of 16 that is not larger, and at least 16. */
export function floorSide(side: number): number {
  return Math.max(1, Math.floor(side / SIZE_MULTIPLE)) * SIZE_MULTIPLE;
}

/** The size of about `maxArea` pixels with the same proportions. */
export function sizeOfArea({ width, height }: PixelSize, maxArea: number): PixelSize {
  const ratio = width / height;
  return {
    width: floorSide(Math.round(Math.sqrt(maxArea * ratio))),
    height: floorSide(Math.round(Math.sqrt(maxArea / ratio))),
  };
}

/**
 * What a reference image is resized to: the trained size of the nearest proportions, or without `autoResize` its own. The proportions
 * are the picture's, as in Black Forest Labs' code; diffusers rounds the sides down to multiples of 16 first, which seldom matters.
 *
 * @param sampleSize Side in pixels of the images that the VAE was made for; a smaller model's references are smaller.
 */
export function referenceSize(
  { width, height }: PixelSize,
  autoResize: boolean,
  sampleSize = TRAINED_SIDE,
): PixelSize {
  if (!autoResize) return { width: floorSide(width), height: floorSide(height) };
  const distance = ([w, h]: readonly [number, number]) => Math.abs(width / height - w / h);
  const [best] = PREFERRED.toSorted((a, b) => distance(a) - distance(b));
  const scale = sampleSize / TRAINED_SIDE;
  return { width: floorSide(best![0] * scale), height: floorSide(best![1] * scale) };
}

/**
 * Ids of reference images' tokens: index 1, side by side on one plane. Each is put where the plane grows least: to the right of
 * what is there when it is the taller way, else below.
 *
 * @returns [tokens of all, 3].
 */
export function referenceIds(references: readonly LatentSize[]): Float32Array {
  const tokens = references.reduce((sum, size) => sum + size.tokens, 0);
  const ids = new Float32Array(3 * tokens);
  let at = 0;
  let right = 0;
  let bottom = 0;
  for (const size of references) {
    const isBeside = size.rows + bottom > size.columns + right;
    const row = isBeside ? 0 : bottom;
    const column = isBeside ? right : 0;
    const own = imageIds(size, 1);
    for (let i = 0; i < own.length; i += 3) {
      ids[at++] = 1;
      ids[at++] = own[i + 1] + row;
      ids[at++] = own[i + 2] + column;
    }
    bottom = Math.max(bottom, row + size.rows);
    right = Math.max(right, column + size.columns);
  }
  return ids;
}
