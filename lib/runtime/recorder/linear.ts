import type { Buffer } from "../buffer.js";
import { type DType, elementsOf } from "../dtype.js";
import { misuse, show, Value } from "../value.js";
import { ACTIVATIONS, type Activation } from "./activation.js";
import { ElementwiseOps } from "./elementwise.js";
import { check, sameShape, type Tensor, valueOf } from "./tensor.js";

/** A linear layer's parameters on the device: weight [N, K]; scale [N] f32 with f8e4m3 weights; bias [N] f32. */
export interface LinearWeights {
  readonly weight: Tensor;
  readonly scale?: Tensor | undefined;
  readonly bias?: Tensor | undefined;
  readonly lowRank?: LowRankWeights | undefined;
  /** What its results can reach, from `weightBounds`: [2] f32. With it they can be quantised as they are written. */
  readonly bounds?: Buffer | undefined;
}

/**
 * A low-rank branch beside a weight: it adds ((x·downᵀ)·scale)·upᵀ to x·Wᵀ. The projections that are stacked in the weight
 * (q, k and v, say) have a branch each, its rank rows one after another in `down`. On a GPU the branch of an f8e4m3 weight has
 * codes in `down`, their scales in `scale`, and each row of `up` divided by the weight's scale, since both products are summed
 * before scales.
 */
export interface LowRankWeights {
  /** [P·r, K]. */
  readonly down: Tensor;
  /** Of every row of `down`: [P·r] f32. */
  readonly scale: Tensor;
  /** [N, r]. */
  readonly up: Tensor;
  /** The row of the weight with which each of the P parts begins; the first is 0. */
  readonly starts: readonly number[];
  /** What the weight's results can reach with the branch, from `branchBounds`. */
  readonly bounds?: Buffer | undefined;
}

/** Linear layers, their low-rank branches, and how activations are quantised for them. */
export class LinearOps extends ElementwiseOps {
  /**
   * y = residual + gate · act(x·Wᵀ + bias). x [.., K] → [.., N]; gate [B, N] f32 with B the first axis of x; with `residual`
   * and no `into`, y may take the residual's memory. `dtype` is the result's; the activations' by default. With `for`, the
   * result is quantised on the way out if those weights want it so and these have bounds.
   */
  linear(
    x: Tensor,
    weights: LinearWeights,
    options: {
      activation?: Activation;
      residual?: Tensor;
      gate?: Tensor;
      into?: Value;
      dtype?: DType;
      for?: LinearWeights | undefined;
    } = {},
  ): Value {
    const { weight, scale, bias } = weights;
    const input = valueOf(x);
    const [n, k] = matrix(weight);
    check(input.shape.at(-1) === k, () => `linear: ${show(input)} times a weight of [${n}, ${k}]`);
    const shape = input.shape.with(-1, n);
    const yScale = this.bounded(weights, options.for)
      ? this.empty([elementsOf(shape) / n], "f32")
      : undefined;
    const y = yScale ? this.quantised(shape, yScale) : (options.into ?? this.empty(shape, options.dtype));
    check(sameShape(y.shape, shape), () => `linear: ${show(y)} cannot hold the result`);
    const factor = this.factor(input, weight);
    const low = weights.lowRank && this.lowRank(factor.x, weights.lowRank);
    return this.emit("linear", {
      inputs: {
        ...factor,
        weight,
        weightScale: scale,
        bias,
        ...low?.inputs,
        residual: options.residual,
        gate: options.gate,
        bounds: yScale && boundsOf(weights),
      },
      outputs: { y, yScale },
      attributes: { activation: ACTIVATIONS[options.activation ?? "none"], ...low?.attributes },
      inPlace: [["y", "residual"]],
      flops: 2 * (input.elements / k) * n * (k + (low?.rank ?? 0)),
    });
  }

  /** Per-row e4m3: codes like x, carrying their scale [rows] f32 = max|x|/448. */
  quantizeRows(x: Tensor, into?: { codes: Tensor; scale: Tensor }): Value {
    const { shape } = valueOf(x);
    if (into !== undefined) {
      const outputs = { codes: valueOf(into.codes), scale: valueOf(into.scale) };
      return this.emit("quantizeRows", { inputs: { x }, outputs });
    }
    const scale = this.empty([elementsOf(shape.slice(0, -1))], "f32");
    const codes = this.quantised(shape, scale);
    return this.emit("quantizeRows", { inputs: { x }, outputs: { codes, scale } });
  }

  /** What results of a linear with f8e4m3 weights can reach: [2] f32, as `LinearWeights.bounds` wants it. */
  weightBounds({ weight, scale, bias }: LinearWeights, into: Buffer): void {
    this.emit("weightBounds", {
      inputs: { weight, weightScale: scale, bias },
      outputs: { y: into.value },
    });
  }

  /** What results of a linear can reach with its low-rank branch, from what they can reach without it: [2] f32. */
  branchBounds(
    { scale: weightScale, bounds }: LinearWeights,
    { down, scale, up, starts }: LowRankWeights,
    into: Buffer,
  ): void {
    this.emit("branchBounds", {
      inputs: { down, scale, up, weightScale, base: bounds },
      outputs: { y: into.value },
      attributes: partsOf(starts),
    });
  }

  /** Whether what is multiplied with `weight` has to be quantised by an op of its own. */
  protected quantises(weight: Tensor | undefined): boolean {
    return this.dtype === "bf16" && weight?.dtype === "f8e4m3";
  }

  /** Whether a result of `weights` can be quantised for `next` as it is written: by a bound. */
  protected bounded(weights: LinearWeights, next: LinearWeights | undefined): boolean {
    return boundsOf(weights) !== undefined && this.quantises(next?.weight);
  }

  /** x as the device multiplies it with `weight`. */
  protected factor(x: Value, weight: Tensor): { x: Value; xScale?: Value } {
    if (this.quantises(weight)) {
      const quantised = x.rowScale === undefined ? this.quantizeRows(x) : x;
      return { x: quantised, xScale: quantised.rowScale! };
    }
    return { x: this.converted(x) };
  }

  /** x in the activations' dtype. */
  protected converted(x: Value): Value {
    if (x.dtype === this.dtype) return x;
    const converted = this.empty(x.shape);
    this.copy(x, converted);
    return converted;
  }

  protected quantised(shape: readonly number[], scale: Value): Value {
    const { storage, dtype, stride, offset } = this.empty(shape, "f8e4m3");
    return new Value(storage, dtype, shape, stride, offset, scale);
  }

  /**
   * Records x·downᵀ·scale and gives what the linear takes of the branch. `x` is as the weight is multiplied with it: codes are taken
   * as numbers, and their scales come after both products.
   */
  protected lowRank(x: Value, { down, scale, up, starts }: LowRankWeights) {
    const rank = up.shape[1]!;
    check(
      down.shape[0] === starts.length * rank,
      () => `low rank: ${show(valueOf(down))} and ${show(valueOf(up))}`,
    );
    const low = this.empty(x.shape.with(-1, down.shape[0]!));
    this.emit("linear", {
      inputs: { x, weight: down, weightScale: scale },
      outputs: { y: low },
      attributes: { activation: ACTIVATIONS.none },
      flops: 2 * x.elements * down.shape[0]!,
    });
    return { rank, inputs: { low, lowUp: up }, attributes: partsOf(starts) };
  }
}

/** What a linear's results can reach, with the branch that it has. */
export function boundsOf({ lowRank, bounds }: LinearWeights): Buffer | undefined {
  return lowRank === undefined ? bounds : lowRank.bounds;
}

/** The first `count` rows of stacked projections, whole ones, with their branches. */
export function firstRows({ weight, scale, bias, lowRank }: LinearWeights, count: number): LinearWeights {
  const rows = (tensor: Tensor, length: number) => valueOf(tensor).slice(0, 0, length);
  const of = (tensor: Tensor | undefined) => tensor && rows(tensor, count);
  const first = { weight: rows(weight, count), scale: of(scale), bias: of(bias) };
  if (lowRank === undefined) return first;
  const { down, up } = lowRank;
  const starts = lowRank.starts.filter((start) => start < count);
  const ranks = starts.length * up.shape[1]!;
  const branch = { down: rows(down, ranks), scale: rows(lowRank.scale, ranks), up: rows(up, count), starts };
  return { ...first, lowRank: branch };
}

/** Where the parts of a branch begin, as attributes. */
function partsOf(starts: readonly number[]): Record<string, number> {
  return Object.fromEntries(starts.slice(1).map((start, i) => [`part${i + 1}`, start]));
}

export function matrix(weight: Tensor): [number, number] {
  const [n, k] = weight.shape;
  if (weight.shape.length !== 2)
    throw misuse(`a linear weight has two axes, not [${weight.shape.join(", ")}]`);
  return [n!, k!];
}
