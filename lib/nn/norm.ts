import type { Activation, GroupNormWeights, Recorder, Tensor } from "../runtime/recorder.js";
import type { Value } from "../runtime/value.js";
import type { Parameter } from "./parameter.js";
import type { Scope } from "./scope.js";

/** LayerNorm with weight and bias over the last axis. */
export class LayerNorm {
  readonly #weight: Parameter;
  readonly #bias: Parameter;

  constructor(
    scope: Scope,
    name: string,
    width: number,
    readonly eps: number,
  ) {
    this.#weight = scope.vector(`${name}.weight`, width);
    this.#bias = scope.vector(`${name}.bias`, width);
  }

  forward(g: Recorder, x: Tensor): Value {
    return g.layerNorm(x, { weight: this.#weight.buffer, bias: this.#bias.buffer, eps: this.eps });
  }
}

/** RMSNorm with a weight over the last axis. */
export class RMSNorm {
  readonly #weight: Parameter;

  constructor(
    scope: Scope,
    name: string,
    width: number,
    readonly eps: number,
  ) {
    this.#weight = scope.vector(`${name}.weight`, width);
  }

  get weight() {
    return this.#weight.buffer;
  }

  forward(g: Recorder, x: Tensor): Value {
    return g.rmsNorm(x, this.weight, this.eps);
  }
}

/** GroupNorm over [B, H, W, C], with an activation on the way out. */
export class GroupNorm implements GroupNormWeights {
  readonly #weight: Parameter;
  readonly #bias: Parameter;

  constructor(
    scope: Scope,
    name: string,
    width: number,
    readonly groups: number,
    readonly eps: number,
  ) {
    this.#weight = scope.vector(`${name}.weight`, width);
    this.#bias = scope.vector(`${name}.bias`, width);
  }

  get weight() {
    return this.#weight.buffer;
  }

  get bias() {
    return this.#bias.buffer;
  }

  forward(g: Recorder, x: Tensor, activation: Activation = "none"): Value {
    const { weight, bias, groups, eps } = this;
    return g.groupNorm(x, { weight, bias, groups, eps, activation });
  }
}
