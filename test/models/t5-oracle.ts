// The T5 encoder once more, written from the paper's formulas in f64 with plain loops: the oracle for shapes that the golden
// data does not have.

import type { T5Config } from "../../lib/loaders/config.js";

type Weights = Readonly<Record<string, { shape: readonly number[]; data: Float32Array }>>;
type Rows = Float64Array[];

/** One prompt's ids → its hidden states, row-major [tokens, dModel]. */
export function t5Oracle(config: T5Config, weights: Weights, ids: readonly number[]): number[] {
  const table = weights["shared.weight"].data;
  let x: Rows = ids.map((id) => Float64Array.from(table.slice(id * config.dModel, (id + 1) * config.dModel)));
  for (let index = 0; index < config.numLayers; index++) x = block(config, weights, x, index);
  const normed = rmsNorm(x, weights["encoder.final_layer_norm.weight"].data, config.layerNormEpsilon);
  return normed.flatMap((row) => [...row]);
}

function block(config: T5Config, weights: Weights, x: Rows, index: number): Rows {
  const at = (name: string) => weights[`encoder.block.${index}.layer.${name}.weight`];
  const h = rmsNorm(x, at("0.layer_norm").data, config.layerNormEpsilon);
  const [q, k, v] = ["q", "k", "v"].map((name) => project(h, at(`0.SelfAttention.${name}`)));
  const attended = x.map((_, i) => attend(config, weights, { q, k, v }, i));
  const y = sum(x, project(attended, at("0.SelfAttention.o")));
  const h2 = rmsNorm(y, at("1.layer_norm").data, config.layerNormEpsilon);
  const gate = project(h2, at("1.DenseReluDense.wi_0"));
  const up = project(h2, at("1.DenseReluDense.wi_1"));
  const inner = gate.map((row, i) => row.map((value, d) => geluTanh(value) * up[i][d]));
  return sum(y, project(inner, at("1.DenseReluDense.wo")));
}

function attend(config: T5Config, weights: Weights, { q, k, v }: Record<"q" | "k" | "v", Rows>, i: number) {
  const bias = weights["encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"].data;
  const { numHeads, dKv } = config;
  const out = new Float64Array(numHeads * dKv);
  for (let head = 0; head < numHeads; head++) {
    const scores = k.map((key, j) => {
      let score = bias[bucket(config, j - i) * numHeads + head];
      for (let d = head * dKv; d < (head + 1) * dKv; d++) score += q[i][d] * key[d];
      return score;
    });
    const largest = Math.max(...scores);
    const exps = scores.map((score) => Math.exp(score - largest));
    const total = exps.reduce((a, b) => a + b);
    for (let d = head * dKv; d < (head + 1) * dKv; d++) {
      out[d] = exps.reduce((acc, weight, j) => acc + (weight / total) * v[j][d], 0);
    }
  }
  return out;
}

/** Bidirectional buckets: half for each direction; of each half, half exact and half logarithmic up to the largest distance. */
function bucket(config: T5Config, relative: number): number {
  const half = config.relativeAttentionNumBuckets / 2;
  const exact = half / 2;
  const distance = Math.abs(relative);
  const span = Math.log(distance / exact) / Math.log(config.relativeAttentionMaxDistance / exact);
  const near = distance < exact ? distance : Math.min(half - 1, exact + Math.floor(span * (half - exact)));
  return (relative > 0 ? half : 0) + near;
}

function project(x: Rows, weight: { shape: readonly number[]; data: Float32Array }): Rows {
  const [rows, columns] = weight.shape;
  return x.map((row) =>
    Float64Array.from({ length: rows }, (_, n) => {
      let total = 0;
      for (let d = 0; d < columns; d++) total += row[d] * weight.data[n * columns + d];
      return total;
    }),
  );
}

function rmsNorm(x: Rows, weight: Float32Array, eps: number): Rows {
  return x.map((row) => {
    const meanSquare = row.reduce((acc, value) => acc + value * value, 0) / row.length;
    return row.map((value, d) => (value / Math.sqrt(meanSquare + eps)) * weight[d]);
  });
}

function sum(a: Rows, b: Rows): Rows {
  return a.map((row, i) => row.map((value, d) => value + b[i][d]));
}

function geluTanh(x: number): number {
  return 0.5 * x * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3)));
}
