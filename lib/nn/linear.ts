import type { Buffer } from "../runtime/buffer.js";
import type { Device } from "../runtime/device.js";
import type { LinearWeights, LowRankWeights, Recorder, Tensor } from "../runtime/recorder.js";
import type { Value } from "../runtime/value.js";
import type { Parameter } from "./parameter.js";
import type { Scope } from "./scope.js";

type LinearOptions = Parameters<Recorder["linear"]>[2];

/**
 * y = x·Wᵀ + b. Several projections of one input (q, k and v, say) are one Linear with stacked rows.
 */
export class Linear implements LinearWeights {
  /** Of the weight. @internal */
  readonly parameter: Parameter;
  readonly #bias: Parameter | undefined;
  /** Full names of the stacked layers, in order. */
  readonly names: readonly string[];
  /** Output width of each. */
  readonly rows: readonly number[];
  /** Recordings have this branch beside the weight; set by those who attach adapters. */
  lowRank: LowRankWeights | undefined;
  /** Whether its results may be quantised as they are written. */
  readonly bounded: boolean;
  /** What its results can reach, from `measureBounds`; it is given back by `release`. */
  bounds: Buffer | undefined;

  /**
   * @param names one layer's name, or several whose rows are stacked
   * @param rows output width of each
   * @param options.quantised follow the model's precision; otherwise weights stay as stored
   * @param options.bounded what it gives goes to a quantised linear
   */
  constructor(
    scope: Scope,
    names: string | readonly string[],
    readonly columns: number,
    rows: number | readonly number[],
    options: { bias?: boolean; quantised?: boolean; bounded?: boolean } = {},
  ) {
    const layers = typeof names === "string" ? [names] : names;
    const widths = typeof rows === "number" ? [rows] : rows;
    this.bounded = options.bounded === true && scope.precision === "fp8";
    const storing = options.quantised === true && scope.precision === "fp8" ? "f8e4m3" : "stored";
    this.parameter = scope.stack(
      layers.map((name) => `${name}.weight`),
      widths.map((width) => [width, columns]),
      storing,
    );
    this.#bias =
      options.bias === false
        ? undefined
        : scope.stack(
            layers.map((name) => `${name}.bias`),
            widths.map((width) => [width]),
            "f32",
          );
    this.names = layers.map((name) => scope.prefix + name);
    this.rows = widths;
    scope.linears.push(this);
  }

  get weight() {
    return this.parameter.buffer;
  }

  get scale() {
    return this.parameter.scale;
  }

  get bias() {
    return this.#bias?.buffer;
  }

  /**
   * Measures what its results can reach, with its own weight or one that is to replace it: [2] f32, which is the caller's.
   * On the CPU, where nothing is quantised on the way, it gives undefined.
   */
  async measureBounds(device: Device, parameter = this.parameter): Promise<Buffer | undefined> {
    if (!this.bounded || device.kind !== "cuda") return undefined;
    const bounds = device.buffer("f32", [2]);
    try {
      const { buffer: weight, scale } = parameter;
      using plan = device.record("weight bounds", (g) =>
        g.weightBounds({ weight, scale, bias: this.bias }, bounds),
      );
      await plan.run();
      return bounds;
    } catch (error) {
      bounds.dispose();
      throw error;
    }
  }

  /** Gives its bounds back. */
  release(): void {
    this.bounds?.dispose();
    this.bounds = undefined;
  }

  forward(g: Recorder, x: Tensor, options?: LinearOptions): Value {
    return g.linear(x, this, options);
  }
}
