import { Linear } from "../../nn/linear.js";
import { RMSNorm } from "../../nn/norm.js";
import type { Scope } from "../../nn/scope.js";
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

  forward(g: Recorder, hidden: Value, { modulation, row, rope, attention }: BlockContext): void {
    const [batch, tokens, width] = hidden.shape as [number, number, number];
    const { shift, scale, gate } = modulation.branch(row, this.#layer);
    const x = g.layerNorm(hidden, { shift, scale, eps: EPS, for: this.#projections });
    const qkv = g.heads([batch, tokens, this.heads], attention);
    const joined = g.joined([batch, tokens, 5 * width], qkv, { from: this.#projections, next: this.#out });
    g.qkvLinear(x, this.#projections, {
      qkv,
      mlp: joined.slice(2, width, 4 * width),
      mlpScale: joined.rowScale,
      activation: "gelu",
      normQ: this.#normQ.weight,
      normK: this.#normK.weight,
      rope,
      eps: EPS,
    });
    g.attend(qkv, {
      scale: 1 / Math.sqrt(128),
      into: joined.slice(2, 0, width).split(2, [this.heads, 128]),
      intoScale: joined.rowScale,
    });
    this.#out.forward(g, joined, { gate, residual: hidden, into: hidden });
  }
}
