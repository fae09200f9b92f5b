// Latents as the transformer sees them: an image of height × width has latents [16, height/8, width/8], packed in 2×2 patches
// into (height/16)·(width/16) tokens of 64 channels; each token has an id (index, row, column) for RoPE.

import { shown } from "../arguments.js";
import { badArgument } from "../errors.js";

/** Pixels per latent, along each side. */
export const VAE_SCALE = 8;
/** Latents per token, along each side. */
export const PATCH = 2;
/** Image sides are multiples of this. */
export const SIZE_MULTIPLE = VAE_SCALE * PATCH;

export interface LatentSize {
  /** Pixels. */
  readonly height: number;
  readonly width: number;
  /** height/8 and width/8. */
  readonly latentHeight: number;
  readonly latentWidth: number;
  /** Rows and columns of tokens: height/16 and width/16. */
  readonly rows: number;
  readonly columns: number;
  /** rows · columns. */
  readonly tokens: number;
}

/**
 * The sizes that follow from an image's.
 *
 * @param height Pixels, a multiple of 16.
 * @param width Pixels, a multiple of 16.
 * @throws FluxError ERR_FLUX_BAD_ARGUMENT for any other size, naming the nearest that would do.
 */
export function latentSize(height: number, width: number): LatentSize {
  checkSide("height", height);
  checkSide("width", width);
  const rows = height / SIZE_MULTIPLE;
  const columns = width / SIZE_MULTIPLE;
  return {
    height,
    width,
    latentHeight: height / VAE_SCALE,
    latentWidth: width / VAE_SCALE,
    rows,
    columns,
    tokens: rows * columns,
  };
}

/**
 * Ids of an image's tokens for RoPE.
 *
 * @param index First axis: 0 for the image that is made, 1 for Kontext's reference.
 * @returns [rows · columns, 3], row-major: (index, row, column).
 */
export function imageIds({ rows, columns }: Pick<LatentSize, "rows" | "columns">, index = 0): Float32Array {
  const ids = new Float32Array(rows * columns * 3);
  let at = 0;
  for (let row = 0; row < rows; row++) {
    for (let column = 0; column < columns; column++) {
      ids[at++] = index;
      ids[at++] = row;
      ids[at++] = column;
    }
  }
  return ids;
}

/** Ids of text tokens, all zero: [tokens, 3]. */
export function textIds(tokens: number): Float32Array {
  return new Float32Array(tokens * 3);
}

function checkSide(name: "height" | "width", side: number): void {
  if (Number.isSafeInteger(side) && side >= SIZE_MULTIPLE && side % SIZE_MULTIPLE === 0) return;
  const nearest = Math.max(1, Math.round(side / SIZE_MULTIPLE)) * SIZE_MULTIPLE;
  const advice = Number.isSafeInteger(nearest) ? ` Use ${nearest}.` : "";
  throw badArgument(
    `${name} must be a multiple of ${SIZE_MULTIPLE} pixels, but it is ${shown(side)}.${advice}`,
  );
}
