import type { Value } from "./value.js";

/** Tokens that a row of `Rope.pairs` stands for. */
const PAIRED_TOKENS = 16;

/** cos and sin of the rotary angles of T tokens, made by `Recorder.rope` once for all layers that read them. */
export class Rope {
  constructor(
    /** [T, 64, 2] f32. */
    readonly table: Value,
    /** On a GPU the same in the order of kernels/attention/rope_pairs.cuh: [⌈T/16⌉, 8, 32, 8] f16. */
    readonly pairs: Value | undefined,
  ) {}

  /** `length` tokens from `start`; without pairs where they cannot be cut, for `qkvLinear` to make them anew. */
  slice(start: number, length: number): Rope {
    const blocks = Math.ceil(length / PAIRED_TOKENS);
    const pairs =
      start % PAIRED_TOKENS === 0 ? this.pairs?.slice(0, start / PAIRED_TOKENS, blocks) : undefined;
    return new Rope(this.table.slice(0, start, length), pairs);
  }
}
