import { misuse, show, Value } from "./value.js";

/**
 * What attention multiplies in. `"bf16"`: in the activations' own type, which is f32 on the CPU. 8 bits: P·V in e4m3, and q·k in int8
 * (`"int8"`, the more exact) or in e4m3 (`"fp8"`).
 */
export type AttentionType = "bf16" | "fp8" | "int8";

/** Tokens that an 8-bit layout quantises together: where one layer's tokens end and the next one's begin, it can cut only here. */
export const HEAD_TOKENS = 64;

/** Tokens in a row. */
export interface TokenRange {
  readonly start: number;
  readonly length: number;
}

/**
 * 8-bit operands of attention over T tokens of B batches and H heads. kernels/attention/qkv_layout.cuh describes every byte.
 *
 * q, k [B, H, T, 128] i8 or f8e4m3; v [B, H, ⌈T/16⌉, 128, 16] f8e4m3; queryRows [B, H, 64⌈T/64⌉, 2] and keyBlocks
 * [B, H, 4⌈T/64⌉, 4] f32.
 */
export interface PackedHeads {
  readonly q: Value;
  readonly k: Value;
  readonly v: Value;
  readonly queryRows: Value;
  readonly keyBlocks: Value;
}

/** q, k and v of a sequence as attention wants them: rows [B, T, 3, H, 128] of activations, or packed in 8 bits. */
export class Heads {
  constructor(
    readonly type: AttentionType,
    readonly form: Value | PackedHeads,
    /** The batches, tokens and heads of the part that this stands for. */
    readonly shape: readonly [batch: number, tokens: number, heads: number],
    /** What k loses before it is packed in 8 bits: [B, H, 128] f32. */
    readonly keyOffset?: Value | undefined,
    /** Where the part begins in its sequence. */
    readonly firstToken = 0,
  ) {}

  /** The fewest tokens around a range that `slice` can take. */
  around({ start, length }: TokenRange): TokenRange {
    if (this.form instanceof Value) return { start, length };
    const first = HEAD_TOKENS * Math.floor(start / HEAD_TOKENS);
    const end = Math.min(HEAD_TOKENS * Math.ceil((start + length) / HEAD_TOKENS), this.shape[1]);
    return { start: first, length: end - first };
  }

  /** `length` tokens from `start`, for a layer that makes these alone. */
  slice(start: number, length: number): Heads {
    const { form, type, keyOffset, firstToken } = this;
    const [batch, tokens, heads] = this.shape;
    const shape = [batch, length, heads] as const;
    if (form instanceof Value)
      return new Heads(type, form.slice(1, start, length), shape, keyOffset, firstToken + start);
    const end = start + length;
    if (start % HEAD_TOKENS !== 0 || (end % HEAD_TOKENS !== 0 && end !== tokens)) {
      throw misuse(
        `tokens ${start} to ${end} of ${show(form.q)} do not begin and end at multiples of ${HEAD_TOKENS}`,
      );
    }
    const blocks = Math.ceil(length / 16);
    const part = {
      q: form.q.slice(2, start, length),
      k: form.k.slice(2, start, length),
      v: form.v.slice(2, start / 16, blocks),
      queryRows: form.queryRows.slice(2, start, length),
      keyBlocks: form.keyBlocks.slice(2, start / 16, 4 * Math.ceil(length / HEAD_TOKENS)),
    };
    return new Heads(type, part, shape, keyOffset, firstToken + start);
  }
}
