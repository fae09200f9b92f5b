import type { Buffer } from "../buffer.js";
import { show, type Value } from "../value.js";
import { type GroupNormWeights, NormOps, sumsInPairs } from "./norm.js";
import { check, type Tensor, valueOf } from "./tensor.js";

/** A convolution's parameters: weight [Co, kh, kw, Ci], bias [Co] f32. */
export interface ConvWeights {
  readonly weight: Buffer;
  readonly bias?: Buffer | undefined;
  /** The weight is a 3×3 kernel for a doubled image, kept as four 2×2 ones: [Co, 4, 4, Ci], see `WeightLayout`. */
  readonly phases?: boolean;
}

/** Convolutions, which may take the norm before them along. */
export class ConvolutionOps extends NormOps {
  /**
   * Channels-last convolution. x [B, H, W, Ci] → [B, Ho, Wo, Co]. With `norm`, of the SiLU of the GroupNorm of x; `affine` is such
   * a norm by `groupNormAffine`. `upsample: 2` doubles x by nearest neighbour first.
   */
  conv2d(
    x: Tensor,
    weights: ConvWeights,
    options: {
      stride?: number;
      padding?: readonly [number, number, number, number];
      upsample?: 1 | 2;
      residual?: Tensor;
      norm?: GroupNormWeights;
      affine?: Tensor;
    } = {},
  ): Value {
    const { weight, bias, phases = false } = weights;
    const { norm, ...rest } = options;
    // Only what the kernel has to load once for all taps is worth normalising as it is loaded.
    const fuses = this.fusesNorms && (options.stride ?? 1) === 1 && !phases && weight.shape[1] === 3;
    if (norm !== undefined) {
      if (fuses && sumsInPairs(valueOf(x), norm.groups)) {
        const affine = this.groupNormAffine([this.groupNormSums(x)], norm);
        return this.conv2d(x, weights, { ...rest, affine });
      }
      const { weight, bias, groups, eps } = norm;
      const normalised = this.groupNorm(x, { weight, bias, groups, eps, activation: "silu" });
      return this.conv2d(normalised, weights, rest);
    }
    if (options.affine !== undefined && !fuses) {
      const { affine, ...plain } = rest;
      return this.conv2d(this.groupNormApply(x, affine!, "silu"), weights, plain);
    }
    const input = valueOf(x);
    const [out, kh, kw, channels] = weight.shape as [number, number, number, number];
    const [batch, height, width, last] = input.shape as [number, number, number, number];
    check(
      input.shape.length === 4 && last === channels,
      () => `conv2d: ${show(input)} with ${channels} input channels`,
    );
    const { stride = 1, upsample = 1, padding = [0, 0, 0, 0] } = options;
    const [padTop, padLeft, padBottom, padRight] = padding;
    check(
      !phases || (upsample === 2 && stride === 1 && padding.every((edge) => edge === 1)),
      () => "conv2d: weights by phases are for upsample 2, stride 1 and padding 1",
    );
    const size = phases ? [3, 3] : [kh, kw];
    const outHeight = Math.floor((height * upsample + padTop + padBottom - size[0]!) / stride) + 1;
    const outWidth = Math.floor((width * upsample + padLeft + padRight - size[1]!) / stride) + 1;
    const y = this.empty([batch, outHeight, outWidth, out]);
    return this.emit("conv2d", {
      inputs: {
        x: this.converted(input),
        weight,
        bias,
        residual: options.residual,
        affine: options.affine,
      },
      outputs: { y },
      attributes: { stride, upsample, padTop, padLeft, padBottom, padRight, phases: phases ? 1 : 0 },
      inPlace: [["y", "residual"]],
      flops: 2 * y.elements * (phases ? 4 : kh * kw) * channels,
    });
  }
}
