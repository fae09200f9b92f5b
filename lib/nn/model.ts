import type { Device } from "../runtime/device.js";
import { type LoadOptions, loadParameters, type TensorSource } from "./load.js";
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

  /**
   * Fills all parameters.
   * @throws FluxError `ERR_FLUX_BAD_WEIGHTS` (see `loadParameters`); the model then holds no memory.
   */
  load(source: TensorSource, options?: LoadOptions): Promise<void> {
    return loadParameters(this.device, this.scope.parameters, source, options);
  }

  /** Gives the weights' memory back. Plans that were recorded with them can no longer run. */
  dispose(): void {
    for (const parameter of this.scope.parameters) parameter.release();
  }

  [Symbol.dispose](): void {
    this.dispose();
  }
}
