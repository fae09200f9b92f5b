import type { Value } from "../value.js";
import { EmbeddingOps } from "./embedding.js";
import { check, type Tensor, valueOf } from "./tensor.js";

/** Where a tile takes over from the one before it along one axis: after `edge` pixels, over `length`. */
export interface TileRamp {
  readonly edge: number;
  readonly length: number;
}

/** Steps over latents, their packing, and pictures. */
export class SamplerOps extends EmbeddingOps {
  /** 8 bits to [−1, 1]: x/255·2 − 1. */
  fromImage(x: Tensor): Value {
    return this.emit("fromImage", { inputs: { x }, outputs: { y: this.empty(valueOf(x).shape) } });
  }

  /** A sample of the VAE's posterior: mean + exp(½·logvar)·noise; the mean without noise. moments [B, h, w, 2C]. */
  sampleLatents(moments: Tensor, noise?: Tensor): Value {
    const shape = valueOf(moments).shape;
    const y = this.empty(shape.with(-1, shape.at(-1)! / 2));
    return this.emit("sampleLatents", { inputs: { moments, noise }, outputs: { y } });
  }

  /** [B, h, w, C] (or [B, C, h, w]) → [B, (h/2)(w/2), 4C] in FLUX's patch order; (x − shift)·scale on the way. */
  packLatents(
    x: Tensor,
    options: { scale?: number; shift?: number; channelsFirst?: boolean; into?: Value } = {},
  ): Value {
    const { scale = 1, shift = 0, channelsFirst = false } = options;
    const [batch, ...axes] = valueOf(x).shape as [number, number, number, number];
    const [height, width, channels] = channelsFirst ? [axes[1], axes[2], axes[0]] : axes;
    const y = options.into ?? this.empty([batch, (height / 2) * (width / 2), channels * 4]);
    const attributes = { scale, shift, channelsFirst: channelsFirst ? 1 : 0 };
    return this.emit("packLatents", { inputs: { x }, outputs: { y }, attributes });
  }

  /** σ[step]·noise + (1 − σ[step])·x. */
  scaleNoise(x: Tensor, noise: Tensor, sigmas: Tensor, step: Tensor): Value {
    return this.pointwise("scaleNoise", { x, noise, sigmas, step }, {}, 4);
  }

  /** True classifier-free guidance: uncond + scale·(cond − uncond). */
  guide(uncond: Tensor, cond: Tensor, scale: number): Value {
    return this.pointwise("guide", { uncond, cond }, { scale }, 3);
  }

  /** latents += (σ[step + 1] − σ[step])·velocity, in place. sigmas [S + 1], step [1] i32. */
  eulerStep(latents: Tensor, velocity: Tensor, sigmas: Tensor, step: Tensor): void {
    this.emit("eulerStep", {
      inputs: { latents, velocity, sigmas, step },
      outputs: { y: valueOf(latents) },
    });
  }

  /** [B, (h/2)(w/2), 4C] → [B, h, w, C]; x/scale + shift on the way. */
  unpackLatents(x: Tensor, height: number, width: number, options: { scale: number; shift: number }): Value {
    const [batch, tokens, packed] = valueOf(x).shape as [number, number, number];
    check(tokens * 4 === height * width, () => `unpackLatents: ${tokens} tokens for ${height}×${width}`);
    const y = this.empty([batch, height, width, packed / 4]);
    return this.emit("unpackLatents", { inputs: { x }, outputs: { y }, attributes: { ...options } });
  }

  /**
   * Lays x [B, h, w, C] over `into`, a part of an image: the first `edge` rows stay as they are, over the next `length` x comes in
   * by a linear ramp, and below it is x alone; columns likewise from the left.
   */
  blendTile(x: Tensor, into: Value, { top, left }: { top: TileRamp; left: TileRamp }): void {
    const keeps = [top, left].some((ramp) => ramp.edge + ramp.length > 0);
    this.emit("blendTile", {
      inputs: keeps ? { x, y: into } : { x },
      outputs: { y: into },
      attributes: { top: top.edge, topRamp: top.length, left: left.edge, leftRamp: left.length },
      flops: 3 * into.elements,
    });
  }

  /** [−1, 1] to [0, 1], clamped, written into `into`: as f32, or as u8 with 255·u rounded half to even. */
  toImage(x: Tensor, into: Tensor): void {
    this.emit("toImage", { inputs: { x }, outputs: { y: valueOf(into) } });
  }
}
