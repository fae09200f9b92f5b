import type { ConvWeights, Recorder, Tensor } from "../runtime/recorder.js";
import type { Value } from "../runtime/value.js";
import type { Parameter } from "./parameter.js";
import type { Scope } from "./scope.js";

type ConvOptions = Omit<Parameters<Recorder["conv2d"]>[2] & {}, "upsample">;

/** A square channels-last convolution; padding keeps the size unless the call says otherwise. */
export class Conv2d implements ConvWeights {
  readonly #weight: Parameter;
  readonly #bias: Parameter;
  readonly #size: number;
  readonly #upsampling: boolean;

  /** @param options.upsampling double the image by nearest neighbour first. */
  constructor(
    scope: Scope,
    name: string,
    channels: number,
    out: number,
    size: 1 | 3,
    options: { upsampling?: boolean } = {},
  ) {
    this.#upsampling = options.upsampling === true;
    const kind = this.#upsampling ? "upsampling" : "convolution";
    this.#weight = scope.kernel(`${name}.weight`, out, channels, size, kind);
    this.#bias = scope.vector(`${name}.bias`, out);
    this.#size = size;
  }

  get weight() {
    return this.#weight.buffer;
  }

  get bias() {
    return this.#bias.buffer;
  }

  get phases() {
    return this.#weight.layoutOn(this.weight.device.dtype) === "upsamplePhases";
  }

  forward(g: Recorder, x: Tensor, options: ConvOptions = {}): Value {
    const edge = (this.#size - 1) / 2;
    const upsample = this.#upsampling ? 2 : 1;
    return g.conv2d(x, this, { padding: [edge, edge, edge, edge], upsample, ...options });
  }
}
