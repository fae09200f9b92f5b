import { elementsOf } from "../dtype.js";
import type { Value } from "../value.js";
import { ACTIVATIONS, type Activation } from "./activation.js";
import { AttentionOps } from "./attention.js";
import type { LinearWeights } from "./linear.js";
import { type Tensor, valueOf } from "./tensor.js";

/** Into how many parts GroupNorm's sums are cut: kernels/norm/norm.h. */
const GROUP_NORM_SUM_PARTS = 160;

/** Of `groupNormSums`: the sums [B, parts, C / 2, 2] f32, and over how many pixels of each image. */
export interface GroupNormSums {
  readonly sums: Value;
  readonly pixels: number;
}

/** A GroupNorm's parameters over [B, H, W, C]: weight and bias [C] f32, C cut into `groups`. */
export interface GroupNormWeights {
  readonly weight: Tensor;
  readonly bias: Tensor;
  readonly groups: number;
  readonly eps: number;
}

/** Norms over the last axis, and over groups of an image's channels. */
export class NormOps extends AttentionOps {
  /**
   * x̂·weight + bias, or with modulation x̂·(1 + scale) + shift (shift, scale [B, D]). x [.., D]. With `for`, the result is
   * quantised on the way out if those weights want it so.
   */
  layerNorm(
    x: Tensor,
    options: {
      eps: number;
      weight?: Tensor;
      bias?: Tensor;
      shift?: Tensor;
      scale?: Tensor;
      for?: LinearWeights | undefined;
    },
  ): Value {
    const { eps, for: weights, ...inputs } = options;
    if (!this.quantises(weights?.weight)) return this.pointwise("layerNorm", { x, ...inputs }, { eps }, 8);
    const { shape, elements } = valueOf(x);
    const scale = this.empty([elementsOf(shape.slice(0, -1))], "f32");
    const y = this.quantised(shape, scale);
    const outputs = { y, yScale: scale };
    return this.emit("layerNorm", {
      inputs: { x, ...inputs },
      outputs,
      attributes: { eps },
      flops: 8 * elements,
    });
  }

  /** x / √(mean(x²) + eps) · weight. x [.., D], weight [D]. */
  rmsNorm(x: Tensor, weight: Tensor, eps: number): Value {
    return this.pointwise("rmsNorm", { x, weight }, { eps }, 4);
  }

  /** Over [B, H, W, C] with C cut into `groups`; then the activation. */
  groupNorm(x: Tensor, options: GroupNormWeights & { activation?: Activation }): Value {
    const { weight, bias, groups, eps, activation = "none" } = options;
    if (this.convolved.has(valueOf(x).storage) && sumsInPairs(valueOf(x), groups)) {
      return this.groupNormApply(x, this.groupNormAffine([this.groupNormSums(x)], options), activation);
    }
    return this.pointwise(
      "groupNorm",
      { x, weight, bias },
      { groups, eps, activation: ACTIVATIONS[activation] },
      8,
    );
  }

  /**
   * What GroupNorm has to know of x [B, H, W, C]: sums of x and of x² over each pair of channels, in `GROUP_NORM_SUM_PARTS` parts
   * of the pixels. → [B, parts, C / 2, 2]. On a GPU the convolution that writes x adds them up on the way.
   */
  groupNormSums(x: Tensor): GroupNormSums {
    const value = valueOf(x);
    const [batch, height, width, channels] = value.shape as [number, number, number, number];
    const outputs = this.convolved.get(value.storage);
    const pixels = height * width;
    if (outputs?.sums !== undefined) return { sums: outputs.sums, pixels };
    const sums = this.empty([batch, GROUP_NORM_SUM_PARTS, channels / 2, 2], "f32");
    if (outputs === undefined) {
      this.emit("groupNormSums", { inputs: { x }, outputs: { sums }, flops: 3 * value.elements });
    } else {
      outputs.sums = sums;
      this.scopes.set(sums.storage, this.scopes.get(value.storage)!);
    }
    return { sums, pixels };
  }

  /**
   * GroupNorm as a multiplier and an addend for each channel, [B, C, 2] f32, from the sums of an image, or of all the tiles of
   * one together.
   */
  groupNormAffine(of: readonly GroupNormSums[], weights: GroupNormWeights): Value {
    const { weight, bias, groups, eps } = weights;
    const [batch, , pairs] = of[0]!.sums.shape as [number, number, number];
    const pixels = of.reduce((total, part) => total + part.pixels, 0);
    let { sums } = of[0]!;
    if (of.length > 1) {
      sums = this.empty([batch, of.length * GROUP_NORM_SUM_PARTS, pairs, 2], "f32");
      of.forEach((part, at) => {
        this.copy(part.sums, sums.slice(1, at * GROUP_NORM_SUM_PARTS, GROUP_NORM_SUM_PARTS));
      });
    }
    return this.emit("groupNormAffine", {
      inputs: { sums, weight, bias },
      outputs: { y: this.empty([batch, 2 * pairs, 2], "f32") },
      attributes: { groups, eps, pixels },
    });
  }

  /** act(x·multiplier + addend) with `affine` from `groupNormAffine`. */
  groupNormApply(x: Tensor, affine: Tensor, activation: Activation): Value {
    return this.pointwise("groupNormApply", { x, affine }, { activation: ACTIVATIONS[activation] }, 3);
  }
}

/** Whether sums of pairs of channels tell groups apart, and a GPU's kernels read x as it lies. */
export function sumsInPairs(x: Value, groups: number): boolean {
  const channels = x.shape.at(-1)!;
  return channels % 8 === 0 && channels % (2 * groups) === 0 && x.whole;
}
