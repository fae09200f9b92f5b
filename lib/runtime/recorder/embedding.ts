import type { Value } from "../value.js";
import { ConvolutionOps } from "./convolution.js";
import { type Tensor, valueOf } from "./tensor.js";

/** Tokens, times and positions as vectors. */
export class EmbeddingOps extends ConvolutionOps {
  /** Rows of `table` [V, D] by `ids` [B, T] i32, plus row t of `positions`. → [B, T, D]. */
  embedding(ids: Tensor, table: Tensor, positions?: Tensor): Value {
    const y = this.empty([...valueOf(ids).shape, valueOf(table).shape[1]!]);
    return this.emit("embedding", { inputs: { ids, table, positions }, outputs: { y } });
  }

  /** Sinusoids of scale·t: cosines, then sines. t [N] → [N, width]. */
  timestepEmbedding(t: Tensor, width: number, scale = 1000): Value {
    const y = this.empty([valueOf(t).shape[0]!, width]);
    return this.emit("timestepEmbedding", {
      inputs: { t },
      outputs: { y },
      attributes: { scale, maxPeriod: 10000 },
    });
  }

  /** cos and sin of the rotary angles. ids [T, A] → [T, Σ axes / 2, 2], angles id·θ^(−2i/axis) axis after axis. */
  ropeTable(ids: Tensor, axes: readonly number[], theta: number): Value {
    const pairs = axes.reduce((sum, width) => sum + width, 0) / 2;
    const y = this.empty([valueOf(ids).shape[0]!, pairs, 2], "f32");
    const attributes: Record<string, number> = { theta };
    axes.forEach((width, axis) => {
      attributes[`dim${axis}`] = width;
    });
    return this.emit("ropeTable", { inputs: { ids }, outputs: { y }, attributes });
  }

  /** T5's relative position bias: table [buckets, H] → [H, tokens, tokens]. */
  t5Bias(table: Tensor, tokens: number, maxDistance: number): Value {
    const y = this.empty([valueOf(table).shape[1]!, tokens, tokens], "f32");
    return this.emit("t5Bias", { inputs: { table }, outputs: { y }, attributes: { maxDistance } });
  }
}
