import { Linear } from "../../nn/linear.js";
import { RMSNorm } from "../../nn/norm.js";
import type { Scope } from "../../nn/scope.js";
import type { AttentionType } from "../../runtime/heads.js";
import type { Recorder } from "../../runtime/recorder.js";
import type { Rope } from "../../runtime/rope.js";
import type { Value } from "../../runtime/value.js";
import type { Modulation } from "./modulation.js";

/** LayerNorm and RMSNorm epsilon throughout the transformer. */
export const EPS = 1e-6;

/** What every block sees besides the residual stream. */
export interface BlockContext {
  readonly modulation: Modulation;
  /** This step's row of the modulation table, [B, columns]. */
  readonly row: Value;
  readonly rope: Rope;
  /** Text tokens come first in the joint sequence. */
  readonly textTokens: number;
  readonly attention: AttentionType;
  /** What this block's k lose in 8-bit attention: [B, heads, 128]. See `Recorder.heads`. */
  readonly keyOffset?: Value | undefined;
}

/** One stream's weights: image and text have the same layers under different names. */
class Stream {
  readonly qkv: Linear;
  readonly normQ: RMSNorm;
  readonly normK: RMSNorm;
  readonly out: Linear;
  readonly up: Linear;
  readonly down: Linear;

  constructor(
    scope: Scope,
    width: number,
    /** Its modulation layer's full name. */
    readonly layer: string,
    names: { qkv: string[]; normQ: string; normK: string; out: string; mlp: string },
  ) {
    const quantised = true;
    const attn = scope.at("attn");
    this.qkv = new Linear(attn, names.qkv, width, [width, width, width], { quantised });
    this.normQ = new RMSNorm(attn, names.normQ, 128, EPS);
    this.normK = new RMSNorm(attn, names.normK, 128, EPS);
    this.out = new Linear(attn, names.out, width, width, { quantised });
    this.up = new Linear(scope.at(names.mlp), "net.0.proj", width, 4 * width, { quantised, bounded: true });
    this.down = new Linear(scope.at(names.mlp), "net.2", 4 * width, width, { quantised });
  }
}

/**
 * A double block: text and image have their own weights, run side by side and meet in attention. It works in place on the
 * joint residual stream [B, text + image, D]; each stream is a slice of it.
 */
export class FluxDoubleBlock {
  readonly #text: Stream;
  readonly #image: Stream;

  constructor(
    scope: Scope,
    index: number,
    readonly heads: number,
  ) {
    const width = heads * 128;
    const block = scope.at("transformer_blocks").at(index);
    this.#text = new Stream(block, width, `transformer_blocks.${index}.norm1_context`, {
      qkv: ["add_q_proj", "add_k_proj", "add_v_proj"],
      normQ: "norm_added_q",
      normK: "norm_added_k",
      out: "to_add_out",
      mlp: "ff_context",
    });
    this.#image = new Stream(block, width, `transformer_blocks.${index}.norm1`, {
      qkv: ["to_q", "to_k", "to_v"],
      normQ: "norm_q",
      normK: "norm_k",
      out: "to_out.0",
      mlp: "ff",
    });
  }

  forward(g: Recorder, hidden: Value, context: BlockContext): void {
    const { modulation, row, rope, textTokens, attention, keyOffset } = context;
    const [batch, tokens] = hidden.shape as [number, number, number];
    const streams = [
      { weights: this.#text, start: 0, length: textTokens },
      { weights: this.#image, start: textTokens, length: tokens - textTokens },
    ].map((stream) => ({ ...stream, angles: g.rope(rope.slice(stream.start, stream.length)) }));
    const qkv = g.heads([batch, tokens, this.heads], attention, { starts: [0, textTokens], keyOffset });
    g.together(streams, ({ weights, start, length, angles }) => {
      const { shift, scale } = modulation.branch(row, weights.layer, 0);
      const x = g.layerNorm(hidden.slice(1, start, length), { shift, scale, eps: EPS, for: weights.qkv });
      g.qkvLinear(x, weights.qkv, {
        qkv: qkv.slice(start, length),
        normQ: weights.normQ.weight,
        normK: weights.normK.weight,
        rope: angles,
        eps: EPS,
      });
    });
    const attended = g.attendRows(qkv, { scale: 1 / Math.sqrt(128), next: this.#image.out });
    g.together(streams, ({ weights, start, length }) => {
      const residual = hidden.slice(1, start, length);
      const { gate } = modulation.branch(row, weights.layer, 0);
      weights.out.forward(g, attended.slice(1, start, length), {
        gate,
        residual,
        into: residual,
      });
      const mlp = modulation.branch(row, weights.layer, 1);
      const x = g.layerNorm(residual, { shift: mlp.shift, scale: mlp.scale, eps: EPS, for: weights.up });
      const up = weights.up.forward(g, x, { activation: "gelu", for: weights.down });
      weights.down.forward(g, up, { gate: mlp.gate, residual, into: residual });
    });
  }
}
