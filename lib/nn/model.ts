import type { TensorSource } from "../loaders/tensor-source.js";
import type { Device } from "../runtime/device.js";
import type { Linear } from "./linear.js";
import { checkParameters, type LoadOptions, loadParameters } from "./load.js";
import { type Precision, Scope } from "./scope.js";

/**
 * A network of modules on one device. Subclasses build their modules from `scope` in the constructor and record with them.
 */
export abstract class Model {
  protected readonly scope: Scope;

  constructor(
    readonly device: Device,
    precision: Precision = "f32",
  ) {
    this.scope = new Scope([], precision);
  }

  /** Every linear, in the order in which they were built. */
  get linears(): readonly Linear[] {
    return this.scope.linears;
  }

  /**
   * Fills all parameters.
   * @throws FluxError `ERR_FLUX_BAD_WEIGHTS` (see `loadParameters`); the model then holds no memory.
   */
  load(source: TensorSource, options?: LoadOptions): Promise<void> {
    return loadParameters(this.device, this.scope.parameters, this.named(source), options);
  }

  /** What `load` would find wrong with a checkpoint's headers: a sentence each; nothing is loaded. */
  check(source: TensorSource): string[] {
    return checkParameters(this.scope.parameters, this.named(source));
  }

  /** Names and shapes of all tensors that a checkpoint of this model has. */
  shapes(): Map<string, readonly number[]> {
    const { parameters } = this.scope;
    return new Map(
      parameters.flatMap(({ spec }) => spec.names.map((name, part) => [name, spec.shapes[part]!])),
    );
  }

  /** The view of a checkpoint under the names of this model's parameters; for a model whose tensors go by several names. */
  protected named(source: TensorSource): TensorSource {
    return source;
  }

  /** Gives the weights' memory back. Plans that were recorded with them can no longer run. */
  dispose(): void {
    for (const parameter of this.scope.parameters) parameter.release();
  }

  [Symbol.dispose](): void {
    this.dispose();
  }
}
