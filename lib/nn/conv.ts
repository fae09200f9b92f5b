import type { ConvWeights, Recorder, Tensor } from "../runtime/recorder.js";
import type { Value } from "../runtime/value.js";
import type { Parameter } from "./parameter.js";
import type { Scope } from "./scope.js";

type ConvOptions = Parameters<Recorder["conv2d"]>[2];

/** A square channels-last convolution; padding keeps the size unless the call says otherwise. */
export class Conv2d implements ConvWeights {
  readonly #weight: Parameter;
  readonly #bias: Parameter;
  readonly #size: number;

  constructor(scope: Scope, name: string, channels: number, out: number, size: 1 | 3) {
    this.#weight = scope.kernel(`${name}.weight`, out, channels, size);
    this.#bias = scope.vector(`${name}.bias`, out);
    this.#size = size;
  }

  get weight() {
    return this.#weight.buffer;
  }

  get bias() {
    return this.#bias.buffer;
  }

  forward(g: Recorder, x: Tensor, options: ConvOptions = {}): Value {
    const edge = (this.#size - 1) / 2;
    return g.conv2d(x, this, { padding: [edge, edge, edge, edge], ...options });
  }
}
