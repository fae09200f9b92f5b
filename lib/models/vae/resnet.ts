import { Conv2d } from "../../nn/conv.js";
import { GroupNorm } from "../../nn/norm.js";
import type { Scope } from "../../nn/scope.js";
import type { Recorder } from "../../runtime/recorder.js";
import type { Value } from "../../runtime/value.js";
import { type NormOf, ownNorms } from "./norms.js";

/** Of every GroupNorm in the autoencoder. */
export const NORM_EPS = 1e-6;

/** x + conv(silu(norm(conv(silu(norm(x)))))), with a 1×1 convolution on x where the number of channels changes. */
export class ResnetBlock {
  readonly #norm1: GroupNorm;
  readonly #conv1: Conv2d;
  readonly #norm2: GroupNorm;
  readonly #conv2: Conv2d;
  readonly #shortcut: Conv2d | undefined;

  constructor(scope: Scope, channels: number, out: number, groups: number) {
    this.#norm1 = new GroupNorm(scope, "norm1", channels, groups, NORM_EPS);
    this.#conv1 = new Conv2d(scope, "conv1", channels, out, 3);
    this.#norm2 = new GroupNorm(scope, "norm2", out, groups, NORM_EPS);
    this.#conv2 = new Conv2d(scope, "conv2", out, out, 3);
    this.#shortcut = channels === out ? undefined : new Conv2d(scope, "conv_shortcut", channels, out, 1);
  }

  /** [B, H, W, channels] → [B, H, W, out]. */
  forward(g: Recorder, x: Value, normOf: NormOf = ownNorms): Value {
    const h = this.#conv1.forward(g, x, normOf(g, this.#norm1, x));
    const residual = this.#shortcut?.forward(g, x) ?? x;
    return this.#conv2.forward(g, h, { ...normOf(g, this.#norm2, h), residual });
  }
}
