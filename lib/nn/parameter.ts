import { FluxError } from "../errors.js";
import type { Buffer } from "../runtime/buffer.js";
import type { DType } from "../runtime/dtype.js";
import type { WeightLayout } from "../runtime/native.js";

/**
 * How a parameter is kept on the device.
 * - `"stored"`: bf16 when every part of it is bf16 in the file, or the device computes in bf16; else f32. For matrices.
 * - `"f32"`: for vectors: biases, norms.
 * - `"bf16"`: for what is on its way to a file.
 * - `"f8e4m3"`: with one scale per row (output channel).
 */
export type Storing = "stored" | "f32" | "bf16" | "f8e4m3";

/** What a module says of one parameter when it is built. */
export interface ParameterSpec {
  /** Tensor names in the checkpoint; several are stacked along the first axis, in order. */
  readonly names: readonly string[];
  /** Of each of them, as the checkpoint has it. */
  readonly shapes: readonly (readonly number[])[];
  readonly storing: Storing;
  /**
   * `"convolution"`: [Co, Ci, kh, kw] in the checkpoint, [Co, kh, kw, Ci] on the device. `"upsampling"`: a 3×3 one behind
   * nearest-neighbour doubling; a GPU keeps it as four 2×2 kernels, [Co, 4, 4, Ci] (see `WeightLayout`).
   */
  readonly kind: "matrix" | "convolution" | "upsampling";
}

/** One weight of a module: declared when the module is built, filled when the model loads. */
export class Parameter {
  #buffer: Buffer | undefined;
  #scale: Buffer | undefined;

  constructor(readonly spec: ParameterSpec) {}

  /** How it lies on a device with such activations. */
  layoutOn(activations: "f32" | "bf16"): WeightLayout {
    if (this.spec.kind === "matrix") return "stored";
    return this.spec.kind === "upsampling" && activations === "bf16" ? "upsamplePhases" : "channelsLast";
  }

  /** Its shape there: the parts stacked, convolutions channels-last. */
  shapeOn(activations: "f32" | "bf16"): readonly number[] {
    const [first] = this.spec.shapes;
    const rows = this.spec.shapes.reduce((sum, shape) => sum + shape[0]!, 0);
    const [, ...rest] = first!;
    const [channels, height, width] = rest;
    switch (this.layoutOn(activations)) {
      case "stored":
        return [rows, ...rest];
      case "channelsLast":
        return [rows, height!, width!, channels!];
      case "upsamplePhases":
        return [rows, 4, 4, channels!];
    }
  }

  /** Its Buffer. @throws FluxError before the model has loaded. */
  get buffer(): Buffer {
    if (this.#buffer === undefined) {
      throw new FluxError(
        "ERR_FLUX_DISPOSED",
        `the weights of ${this.spec.names[0]} are not loaded; load the model first`,
      );
    }
    return this.#buffer;
  }

  /** One f32 per row, for f8e4m3 parameters. */
  get scale(): Buffer | undefined {
    return this.#scale;
  }

  /** The dtype that it gets on a device with such activations, given the dtypes of its parts in the file. */
  deviceDtype(stored: readonly string[], activations: "f32" | "bf16"): DType {
    if (this.spec.storing !== "stored") return this.spec.storing;
    return activations === "bf16" || stored.every((dtype) => dtype === "BF16") ? "bf16" : "f32";
  }

  /** Takes the Buffer over; what it had before is given back. @internal */
  fill(buffer: Buffer): void {
    this.release();
    this.#buffer = buffer;
  }

  /** @internal */
  fillScale(scale: Buffer): void {
    this.#scale = scale;
  }

  /** Takes over what another parameter holds; what this one had is given back. @internal */
  take(other: Parameter): void {
    this.release();
    this.#buffer = other.#buffer;
    this.#scale = other.#scale;
    other.#buffer = undefined;
    other.#scale = undefined;
  }

  /** @internal */
  release(): void {
    this.#buffer?.dispose();
    this.#scale?.dispose();
    this.#buffer = undefined;
    this.#scale = undefined;
  }
}
