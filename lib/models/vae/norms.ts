// How the norms of resnets come by what they have to know of x: from x itself, or, where x is one tile of an image, from all tiles.

import type { GroupNorm } from "../../nn/norm.js";
import type { GroupNormSums, Recorder } from "../../runtime/recorder.js";
import type { Value } from "../../runtime/value.js";

/** Gives a convolution the norm of its input: `norm` by x's own statistics, or `affine`, already computed. */
export type NormOf = (g: Recorder, norm: GroupNorm, x: Value) => { norm: GroupNorm } | { affine: Value };

/** Each norm by the statistics of its own x. */
export const ownNorms: NormOf = (_, norm) => ({ norm });

/**
 * GroupNorm's statistics are those of the whole image, which no tile sees. So tiles are run twice: once to take the statistics
 * of every norm over all tiles, each tile going on by its own, and once for the result, by what was taken.
 */
export class TileNorms {
  readonly #sums = new Map<GroupNorm, GroupNormSums[]>();
  readonly #affines = new Map<GroupNorm, Value>();

  /** The first time: by the tile's own statistics, which are kept. */
  readonly measuring: NormOf = (g, norm, x) => {
    const sums = g.groupNormSums(x);
    this.#sums.set(norm, [...(this.#sums.get(norm) ?? []), sums]);
    return { affine: g.groupNormAffine([sums], norm) };
  };

  /** The second time: by those of all tiles. */
  readonly measured: NormOf = (g, norm) => {
    const affine = this.#affines.get(norm) ?? g.groupNormAffine(this.#sums.get(norm)!, norm);
    this.#affines.set(norm, affine);
    return { affine };
  };
}
