import type { FluxTransformerConfig } from "../../loaders/config.js";
import { Linear } from "../../nn/linear.js";
import type { Scope } from "../../nn/scope.js";
import type { Recorder, Tensor } from "../../runtime/recorder.js";
import type { Value } from "../../runtime/value.js";

/** Shift, scale and gate of one residual branch, each [B, D]. */
export interface Branch {
  readonly shift: Value;
  readonly scale: Value;
  readonly gate: Value;
}

/**
 * The modulation layers of all blocks and of the final norm as one Linear with stacked rows: for all steps at once it is one
 * GEMM with M = steps × batch, and the weights are read once an image.
 */
export class Modulation {
  readonly #linear: Linear;
  readonly #width: number;
  /** First column of each modulation layer, in units of the width. */
  readonly #starts = new Map<string, number>();

  constructor(scope: Scope, config: FluxTransformerConfig) {
    this.#width = config.numAttentionHeads * config.attentionHeadDim;
    const names: string[] = [];
    const rows: number[] = [];
    let start = 0;
    const layer = (name: string, vectors: number) => {
      names.push(`${name}.linear`);
      rows.push(vectors * this.#width);
      this.#starts.set(name, start);
      start += vectors;
    };
    for (let i = 0; i < config.numLayers; i++) {
      layer(`transformer_blocks.${i}.norm1`, 6);
      layer(`transformer_blocks.${i}.norm1_context`, 6);
    }
    for (let i = 0; i < config.numSingleLayers; i++) layer(`single_transformer_blocks.${i}.norm`, 3);
    layer("norm_out", 2);
    this.#linear = new Linear(scope, names, this.#width, rows);
    this.columns = start * this.#width;
  }

  /** Width of a row of the table. */
  readonly columns: number;

  /** Every layer's vectors from SiLU(temb): temb [.., D] → [.., columns]. */
  forward(g: Recorder, temb: Tensor, into?: Value): Value {
    return this.#linear.forward(g, g.activation(temb, "silu"), into && { into });
  }

  /** Of one row [B, columns]: branch `index` (0 attention, 1 MLP) of a block's layer: shift, scale, gate in that order. */
  branch(row: Value, layer: string, index = 0): Branch {
    const at = 3 * index;
    return {
      shift: this.#vector(row, layer, at),
      scale: this.#vector(row, layer, at + 1),
      gate: this.#vector(row, layer, at + 2),
    };
  }

  /** Of one row: the final norm's vectors, which come as scale, shift. */
  final(row: Value): { scale: Value; shift: Value } {
    return { scale: this.#vector(row, "norm_out", 0), shift: this.#vector(row, "norm_out", 1) };
  }

  #vector(row: Value, layer: string, index: number): Value {
    return row.slice(1, (this.#starts.get(layer)! + index) * this.#width, this.#width);
  }
}
