import { badArgument } from "../errors.js";
import { elementsOf } from "../runtime/dtype.js";

/** f32 numbers in host memory with their shape, row-major: embeddings and latents that a caller brings or gets. */
export interface HostTensor {
  readonly data: Float32Array;
  readonly shape: readonly number[];
}

/** @throws FluxError `ERR_FLUX_BAD_ARGUMENT` unless `tensor` has the given shape (−1: any length) and only finite values. */
export function checkTensor(name: string, tensor: HostTensor, shape: readonly number[]): void {
  const wanted = `[${shape.map((length) => (length === -1 ? "any" : length)).join(", ")}]`;
  if (!(tensor?.data instanceof Float32Array) || !Array.isArray(tensor.shape)) {
    throw badArgument(`${name} is { data: Float32Array, shape: ${wanted} }`);
  }
  const isLength = (length: number) => Number.isSafeInteger(length) && length >= 1;
  const fits =
    tensor.shape.length === shape.length &&
    tensor.shape.every((length, axis) => isLength(length) && (shape[axis] === -1 || shape[axis] === length));
  if (!fits) {
    throw badArgument(`${name} has shape [${tensor.shape.join(", ")}], not ${wanted}`);
  }
  if (tensor.data.length !== elementsOf(tensor.shape)) {
    throw badArgument(`${name} has ${tensor.data.length} numbers for [${tensor.shape.join(", ")}]`);
  }
  if (!allFinite(tensor.data)) {
    throw badArgument(`${name} holds NaN or infinite values`);
  }
}

/** A loop, since a callback for each of millions of numbers takes milliseconds. */
export function allFinite(data: Float32Array): boolean {
  for (let i = 0; i < data.length; i++) if (!Number.isFinite(data[i]!)) return false;
  return true;
}

/** Tensors of one shape along a new first axis; a single one keeps its memory. */
export function stack(tensors: readonly HostTensor[]): HostTensor {
  const { data: first, shape } = tensors[0]!;
  if (tensors.length === 1) return { data: first, shape: [1, ...shape] };
  const data = new Float32Array(tensors.length * first.length);
  tensors.forEach((tensor, index) => {
    data.set(tensor.data, index * first.length);
  });
  return { data, shape: [tensors.length, ...shape] };
}

/** Each entry of the first axis `copies` times in a row; one copy keeps its memory. */
export function repeatRows({ data, shape }: HostTensor, copies: number): HostTensor {
  if (copies === 1) return { data, shape };
  const rows = shape[0]! * copies;
  const length = data.length / shape[0]!;
  const out = new Float32Array(rows * length);
  for (let row = 0; row < rows; row++) {
    const from = Math.floor(row / copies) * length;
    out.set(data.subarray(from, from + length), row * length);
  }
  return { data: out, shape: shape.with(0, rows) };
}
