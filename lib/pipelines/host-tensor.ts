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
  if (!tensor.data.every(Number.isFinite)) {
    throw badArgument(`${name} holds NaN or infinite values`);
  }
}

/** Tensors of one shape along a new first axis. */
export function stack(tensors: readonly HostTensor[]): HostTensor {
  const { data: first, shape } = tensors[0]!;
  const data = new Float32Array(tensors.length * first.length);
  tensors.forEach((tensor, index) => {
    data.set(tensor.data, index * first.length);
  });
  return { data, shape: [tensors.length, ...shape] };
}

/** Each entry of the first axis `copies` times in a row. */
export function repeatRows({ data, shape }: HostTensor, copies: number): HostTensor {
  const rows = shape[0]! * copies;
  const length = data.length / shape[0]!;
  const out = new Float32Array(rows * length);
  for (let row = 0; row < rows; row++) {
    const from = Math.floor(row / copies) * length;
    out.set(data.subarray(from, from + length), row * length);
  }
  return { data: out, shape: shape.with(0, rows) };
}
