import type { TensorSource } from "../loaders/tensor-source.js";
import type { Device } from "../runtime/device.js";
import type { Linear } from "./linear.js";
import { checkParameters, type LoadOptions, loadParameters } from "./load.js";
import type { Storing } from "./parameter.js";
import { type Precision, Scope } from "./scope.js";

/** One tensor of a model, as a checkpoint has it. */
export interface TensorSpec {
  readonly name: string;
  readonly shape: readonly number[];
  readonly storing: Storing;
}

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
  async load(source: TensorSource, options?: LoadOptions): Promise<void> {
    await loadParameters(this.device, this.scope.parameters, this.named(source), options);
    try {
      for (const linear of this.linears) linear.bounds = await linear.measureBounds(this.device);
    } catch (error) {
      this.dispose();
      throw error;
    }
  }

  /** What `load` would find wrong with a checkpoint's headers: a sentence each; nothing is loaded. */
  check(source: TensorSource): string[] {
    return checkParameters(this.scope.parameters, this.named(source));
  }

  /** All tensors that a checkpoint of this model has. */
  tensors(): TensorSpec[] {
    return this.scope.parameters.flatMap(({ spec: { names, shapes, storing } }) =>
      names.map((name, part) => ({ name, shape: shapes[part]!, storing })),
    );
  }

  /** The view of a checkpoint under the names of this model's parameters; for a model whose tensors go by several names. */
  named(source: TensorSource): TensorSource {
    return source;
  }

  /** Gives the weights' memory back. Plans that were recorded with them can no longer run. */
  dispose(): void {
    for (const parameter of this.scope.parameters) parameter.release();
    for (const linear of this.linears) linear.release();
  }

  [Symbol.dispose](): void {
    this.dispose();
  }
}
