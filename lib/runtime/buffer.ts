import { FluxError } from "../errors.js";
import type { Device } from "./device.js";
import { type DType, elementsOf, sizeOf } from "./dtype.js";
import type { NativeMemory } from "./native.js";
import { contiguousStride, Storage, Value } from "./value.js";

/** The typed array in which `read()` gives a dtype. 16-bit floats come as their bits, f8e4m3 as its codes. */
export interface TypedArrays {
  f32: Float32Array;
  bf16: Uint16Array;
  f16: Uint16Array;
  f8e4m3: Uint8Array;
  i32: Int32Array;
  i8: Int8Array;
  u8: Uint8Array;
}

const ARRAYS = {
  f32: Float32Array,
  bf16: Uint16Array,
  f16: Uint16Array,
  f8e4m3: Uint8Array,
  i32: Int32Array,
  i8: Int8Array,
  u8: Uint8Array,
} as const;

/**
 * Typed device memory that outlives a run: weights, inputs, outputs. Its contents may change between runs without a new
 * recording. Contiguous, row-major.
 */
export class Buffer<D extends DType = DType> {
  readonly #native: NativeMemory;
  #disposed = false;
  /** The Buffer as an operand of a recording. */
  readonly value: Value;

  /** Use `device.buffer(dtype, shape)`. */
  constructor(
    readonly device: Device,
    readonly dtype: D,
    readonly shape: readonly number[],
    native: NativeMemory,
  ) {
    this.#native = native;
    this.value = new Value(new Storage(this.bytes, this), dtype, shape, contiguousStride(shape), 0);
  }

  get elements(): number {
    return elementsOf(this.shape);
  }

  get bytes(): number {
    return this.elements * sizeOf(this.dtype);
  }

  get disposed(): boolean {
    return this.#disposed;
  }

  /** @internal */
  get native(): NativeMemory {
    if (this.#disposed) throw new FluxError("ERR_FLUX_DISPOSED", "this Buffer is disposed; create another");
    return this.#native;
  }

  /**
   * Writes elements from element `offset` on, in the order of the device's queue. The data is copied at the call, so the
   * caller may change it at once.
   */
  async write(data: TypedArrays[D], offset = 0): Promise<void> {
    if (!(data instanceof ARRAYS[this.dtype])) {
      throw new FluxError(
        "ERR_FLUX_BAD_ARGUMENT",
        `a Buffer of ${this.dtype} takes a ${ARRAYS[this.dtype].name}`,
      );
    }
    if (!Number.isInteger(offset) || offset < 0 || offset + data.length > this.elements) {
      throw new FluxError(
        "ERR_FLUX_BAD_ARGUMENT",
        `${data.length} elements at ${offset} do not fit a Buffer of shape [${this.shape.join(", ")}]`,
      );
    }
    const bytes = new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
    await this.native.write(bytes, offset * sizeOf(this.dtype));
  }

  /** Writes all elements of another Buffer of the device from element `offset` on, in the order of the device's queue. */
  async copyFrom(source: Buffer<D>, offset = 0): Promise<void> {
    const fits = Number.isInteger(offset) && offset >= 0 && offset + source.elements <= this.elements;
    if (source.device !== this.device || source.dtype !== this.dtype || !fits) {
      throw new FluxError(
        "ERR_FLUX_BAD_ARGUMENT",
        `a Buffer of ${source.dtype} [${source.shape.join(", ")}] on ${source.device.name} cannot be copied to ${offset} of one of ` +
          `${this.dtype} [${this.shape.join(", ")}] on ${this.device.name}`,
      );
    }
    await this.native.copyFrom(source.native, offset * sizeOf(this.dtype));
  }

  /** All elements, after everything that was queued before. */
  async read(): Promise<TypedArrays[D]> {
    const bytes = await this.native.read(0, this.bytes);
    return new ARRAYS[this.dtype](bytes) as TypedArrays[D];
  }

  /**
   * Writes the bytes into an open file, from its byte `position` on, beside what the device runs meanwhile: for a CPU's Buffer that nothing
   * writes until then.
   * @throws FluxError `ERR_FLUX_IO`.
   * @internal
   */
  async save(descriptor: number, position: number): Promise<void> {
    if (this.device.kind !== "cpu")
      throw new FluxError("ERR_FLUX_UNSUPPORTED", "only Buffers of the CPU are saved; read it instead");
    await this.native.save(descriptor, position);
  }

  /** Gives the memory back once the work that was queued before is done. Later uses throw `ERR_FLUX_DISPOSED`. */
  dispose(): void {
    if (this.#disposed) return;
    this.#disposed = true;
    this.#native.dispose();
  }

  [Symbol.dispose](): void {
    this.dispose();
  }
}
