import { FluxError } from "../errors.js";
import type { Buffer } from "./buffer.js";
import { type DType, elementsOf, sizeOf } from "./dtype.js";

/**
 * What holds a Value's elements: a stretch of the arena, placed by the planner, or a Buffer. Views share their Storage.
 */
export class Storage {
  constructor(
    readonly bytes: number,
    readonly buffer: Buffer | undefined,
  ) {}
}

/** Row-major strides of a contiguous shape, in elements. */
export function contiguousStride(shape: readonly number[]): number[] {
  const stride = new Array<number>(shape.length);
  let step = 1;
  for (let axis = shape.length - 1; axis >= 0; axis--) {
    stride[axis] = step;
    step *= shape[axis]!;
  }
  return stride;
}

/**
 * A shape and dtype inside a recording: it has no memory of its own. Views (`slice`, `pick`, `split`, `reshape`) cost
 * nothing; writing through a view writes the Value that it was taken from.
 */
export class Value {
  constructor(
    readonly storage: Storage,
    readonly dtype: DType,
    readonly shape: readonly number[],
    /** In elements; the innermost is 1. */
    readonly stride: readonly number[],
    /** Of the first element, in elements. */
    readonly offset: number,
    /** Of a quantised Value: one f32 per row, [rows] or with the axes that rows have; it stands for codes × scale. */
    readonly rowScale?: Value,
  ) {}

  get elements(): number {
    return elementsOf(this.shape);
  }

  /** Bytes that its elements take, gaps not counted. */
  get bytes(): number {
    return this.elements * sizeOf(this.dtype);
  }

  get contiguous(): boolean {
    const dense = contiguousStride(this.shape);
    return this.shape.every((length, axis) => length === 1 || this.stride[axis] === dense[axis]);
  }

  /** True when it covers its storage from end to end. */
  get whole(): boolean {
    return this.offset === 0 && this.contiguous && this.bytes === this.storage.bytes;
  }

  /** `length` entries of `axis` from `start`. A negative axis counts from the end. */
  slice(axis: number, start: number, length: number): Value {
    const at = axis < 0 ? axis + this.shape.length : axis;
    const available = this.shape[at];
    if (available === undefined || start < 0 || length < 1 || start + length > available) {
      throw misuse(`cannot take ${length} entries from ${start} of axis ${axis} of ${show(this)}`);
    }
    const shape = this.shape.with(at, length);
    const offset = this.offset + start * this.stride[at]!;
    return new Value(this.storage, this.dtype, shape, this.stride, offset, this.#scaleOf(at, start, length));
  }

  /** Of a slice's rows, if scales have the axes that rows have. */
  #scaleOf(axis: number, start: number, length: number): Value | undefined {
    const rowAxes = this.shape.length - 1;
    if (this.rowScale?.shape.length !== rowAxes || axis === rowAxes) return undefined;
    return this.rowScale.slice(axis, start, length);
  }

  /** Entry `index` of `axis`, which goes away. Not for the innermost axis. */
  pick(axis: number, index: number): Value {
    const one = this.slice(axis, index, 1);
    if (axis === this.shape.length - 1) throw misuse(`cannot pick from the innermost axis of ${show(this)}`);
    return new Value(
      this.storage,
      this.dtype,
      one.shape.toSpliced(axis, 1),
      this.stride.toSpliced(axis, 1),
      one.offset,
    );
  }

  /** Splits `axis` into axes of the given lengths, outermost first. */
  split(axis: number, lengths: readonly number[]): Value {
    const at = axis < 0 ? axis + this.shape.length : axis;
    if (elementsOf(lengths) !== this.shape[at]) {
      throw misuse(`cannot split axis ${axis} of ${show(this)} into [${lengths.join(", ")}]`);
    }
    const inner = contiguousStride(lengths).map((step) => step * this.stride[at]!);
    return new Value(
      this.storage,
      this.dtype,
      this.shape.toSpliced(at, 1, ...lengths),
      this.stride.toSpliced(at, 1, ...inner),
      this.offset,
    );
  }

  /** A new outer axis at `axis` along which all entries are the same. For reading only. */
  repeat(axis: number, length: number): Value {
    const shape = this.shape.toSpliced(axis, 0, length);
    return new Value(this.storage, this.dtype, shape, this.stride.toSpliced(axis, 0, 0), this.offset);
  }

  /** The same elements in another shape; the Value must be contiguous. */
  reshape(shape: readonly number[]): Value {
    if (!this.contiguous || elementsOf(shape) !== this.elements) {
      throw misuse(`cannot reshape ${show(this)} to [${shape.join(", ")}]`);
    }
    return new Value(this.storage, this.dtype, shape, contiguousStride(shape), this.offset);
  }
}

/** For messages: `f32[2, 77, 768]`. */
export function show(value: Value): string {
  return `${value.dtype}[${value.shape.join(", ")}]`;
}

/** A recording that makes no sense: an error of model code, not of a user's input. */
export function misuse(message: string): FluxError {
  return new FluxError("ERR_FLUX_BAD_ARGUMENT", message);
}
