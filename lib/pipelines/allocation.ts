import type { Buffer } from "../runtime/buffer.js";
import type { Device } from "../runtime/device.js";
import type { DType } from "../runtime/dtype.js";
import type { Plan } from "../runtime/plan.js";
import type { Recorder } from "../runtime/recorder.js";

/** Buffers and plans that belong together. They are given back together, also when one of them cannot be had. */
export class Allocation {
  readonly #owned: { dispose(): void }[] = [];
  #bytes = 0;

  constructor(readonly device: Device) {}

  /** Of the Buffers. */
  get bytes(): number {
    return this.#bytes;
  }

  /** As `device.buffer`. */
  buffer<D extends DType>(dtype: D, shape: readonly number[]): Buffer<D> {
    const buffer = this.#own(() => this.device.buffer(dtype, shape));
    this.#bytes += buffer.bytes;
    return buffer;
  }

  /** As `device.record`. */
  record(name: string, build: (g: Recorder) => void): Plan {
    return this.#own(() => this.device.record(name, build));
  }

  dispose(): void {
    for (const owned of this.#owned.splice(0).reverse()) owned.dispose();
  }

  #own<T extends { dispose(): void }>(make: () => T): T {
    try {
      const made = make();
      this.#owned.push(made);
      return made;
    } catch (error) {
      this.dispose();
      throw error;
    }
  }
}
