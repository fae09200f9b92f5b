// Pictures as the VAE and the transformer take them: diffusers' VaeImageProcessor.

import type { LatentSize } from "../../models/latents.js";
import { PATCH, VAE_SCALE } from "../../models/latents.js";
import type { Picture } from "./picture.js";

const UNIT = Float32Array.from({ length: 256 }, (_, level) => Math.fround(level / 255) * 2 - 1);

/** RGB bytes to [−1, 1]: [H, W, 3]. */
export function normalise({ data }: Picture): Float32Array {
  const pixels = new Float32Array(data.length);
  for (let i = 0; i < data.length; i++) pixels[i] = UNIT[data[i]];
  return pixels;
}

/** A grey mask to 1 (repaint) where it is at least half white, else 0 (keep): [H, W]. */
export function binarise({ data }: Picture): Float32Array {
  const mask = new Float32Array(data.length);
  for (let i = 0; i < data.length; i++) mask[i] = data[i] >= 128 ? 1 : 0;
  return mask;
}

/** The picture [H, W, 3] with 0, mid-grey, where the mask is 1. */
export function withoutMasked(pixels: Float32Array, mask: Float32Array): Float32Array {
  const kept = pixels.slice();
  for (let i = 0; i < mask.length; i++) {
    if (mask[i] === 1) kept.fill(0, 3 * i, 3 * i + 3);
  }
  return kept;
}

/** A mask for packed latents, [tokens, 64]: each latent takes the mask's pixel at the top left of its 8 × 8, in all channels. */
export function maskOfLatents(mask: Float32Array, size: LatentSize, channels: number): Float32Array {
  const packed = new Float32Array(size.tokens * PATCH * PATCH * channels);
  forEachLatent(size, (token, corner, y, x) => {
    const value = mask[y * VAE_SCALE * size.width + x * VAE_SCALE];
    const at = token * PATCH * PATCH * channels + corner;
    for (let c = 0; c < channels; c++) packed[at + c * PATCH * PATCH] = value;
  });
  return packed;
}

/** A mask as Fill reads it, [tokens, 256]: the 8 × 8 pixels of each latent as 64 channels, packed like latents. */
export function maskAsChannels(mask: Float32Array, size: LatentSize): Float32Array {
  const channels = VAE_SCALE * VAE_SCALE;
  const packed = new Float32Array(size.tokens * PATCH * PATCH * channels);
  forEachLatent(size, (token, corner, y, x) => {
    const at = token * PATCH * PATCH * channels + corner;
    for (let c = 0; c < channels; c++) {
      const row = y * VAE_SCALE + Math.floor(c / VAE_SCALE);
      packed[at + c * PATCH * PATCH] = mask[row * size.width + x * VAE_SCALE + (c % VAE_SCALE)];
    }
  });
  return packed;
}

/** Every latent with its token and its place in the token's 2 × 2. */
function forEachLatent(
  { latentHeight, latentWidth, columns }: LatentSize,
  visit: (token: number, corner: number, y: number, x: number) => void,
): void {
  for (let y = 0; y < latentHeight; y++) {
    for (let x = 0; x < latentWidth; x++) {
      const token = Math.floor(y / PATCH) * columns + Math.floor(x / PATCH);
      visit(token, (y % PATCH) * PATCH + (x % PATCH), y, x);
    }
  }
}
