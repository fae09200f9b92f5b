import { Linear } from "../../nn/linear.js";
import { RMSNorm } from "../../nn/norm.js";
import type { Scope } from "../../nn/scope.js";
import type { TokenRange } from "../../runtime/heads.js";
import type { Recorder } from "../../runtime/recorder.js";
import type { Value } from "../../runtime/value.js";
import { type BlockContext, EPS } from "./double-block.js";

/**
 * A single block: one set of weights for the whole joint sequence, attention and MLP side by side. Attention's output and
 * the MLP's are columns of one value, so the output projection reads them without a copy.
 */
export class FluxSingleBlock {
  readonly #projections: Linear;
  readonly #normQ: RMSNorm;
  readonly #normK: RMSNorm;
  readonly #out: Linear;
  readonly #layer: string;

  constructor(
    scope: Scope,
    index: number,
    readonly heads: number,
  ) {
    const width = heads * 128;
    const block = scope.at("single_transformer_blocks").at(index);
    this.#layer = `single_transformer_blocks.${index}.norm`;
    this.#projections = new Linear(
      block,
      ["attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp"],
      width,
      [width, width, width, 4 * width],
      { quantised: true, bounded: true },
    );
    this.#normQ = new RMSNorm(block, "attn.norm_q", 128, EPS);
    this.#normK = new RMSNorm(block, "attn.norm_k", 128, EPS);
    this.#out = new Linear(block, "proj_out", 5 * width, width, { quantised: true });
  }

  /**
   * In place on the joint residual stream [B, T, D]. `wanted` are the tokens whose results are read, all by default: of the others
   * only what attention reads is computed, and what they hold afterwards has no meaning.
   */
  forward(
    g: Recorder,
    hidden: Value,
    { modulation, row, rope, attention, keyOffset }: BlockContext,
    wanted?: TokenRange,
  ): void {
    const [batch, tokens, width] = hidden.shape as [number, number, number];
    const { shift, scale, gate } = modulation.branch(row, this.#layer);
    const qkv = g.heads([batch, tokens, this.heads], attention, { keyOffset });
    const asking = qkv.around(wanted ?? { start: 0, length: tokens });
    const joined = g.joined([batch, asking.length, 5 * width], qkv, {
      from: this.#projections,
      next: this.#out,
    });
    g.together([asking, ...besides(asking, tokens)], (part) => {
      const { start, length } = part;
      const x = g.layerNorm(hidden.slice(1, start, length), {
        shift,
        scale,
        eps: EPS,
        for: this.#projections,
      });
      const mlp = { mlp: joined.slice(2, width, 4 * width), mlpScale: joined.rowScale };
      g.qkvLinear(x, this.#projections, {
        qkv: qkv.slice(start, length),
        ...(part === asking && mlp),
        activation: "gelu",
        normQ: this.#normQ.weight,
        normK: this.#normK.weight,
        rope: rope.slice(start, length),
        eps: EPS,
      });
    });
    g.attend(qkv, {
      queries: asking,
      scale: 1 / Math.sqrt(128),
      into: joined.slice(2, 0, width).split(2, [this.heads, 128]),
      intoScale: joined.rowScale,
    });
    const residual = hidden.slice(1, asking.start, asking.length);
    this.#out.forward(g, joined, { gate, residual, into: residual });
  }
}

/** The tokens before and behind a range, as far as there are any. */
function besides({ start, length }: TokenRange, tokens: number): TokenRange[] {
  const end = start + length;
  const sides = [
    { start: 0, length: start },
    { start: end, length: tokens - end },
  ];
  return sides.filter((side) => side.length > 0);
}
