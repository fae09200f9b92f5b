import { FluxError } from "../errors.js";

/** f32 numbers in host memory with their shape, row-major: embeddings and latents that a caller brings or gets. */
export interface HostTensor {
  readonly data: Float32Array;
  readonly shape: readonly number[];
}

/** @throws FluxError `ERR_FLUX_BAD_ARGUMENT` unless `tensor` has the given shape (−1: any length) and only finite values. */
export function checkTensor(name: string, tensor: HostTensor, shape: readonly number[]): void {
  const wanted = `[${shape.map((length) => (length === -1 ? "any" : length)).join(", ")}]`;
  if (!(tensor?.data instanceof Float32Array) || !Array.isArray(tensor.shape)) {
    throw new FluxError("ERR_FLUX_BAD_ARGUMENT", `${name} is { data: Float32Array, shape: ${wanted} }`);
  }
  const fits =
    tensor.shape.length === shape.length &&
    shape.every((length, axis) => length === -1 || length === tensor.shape[axis]);
  if (!fits) {
    throw new FluxError(
      "ERR_FLUX_BAD_ARGUMENT",
      `${name} has shape [${tensor.shape.join(", ")}], not ${wanted}`,
    );
  }
  if (tensor.data.length !== tensor.shape.reduce((product, length) => product * length, 1)) {
    throw new FluxError(
      "ERR_FLUX_BAD_ARGUMENT",
      `${name} has ${tensor.data.length} numbers for [${tensor.shape.join(", ")}]`,
    );
  }
  if (!tensor.data.every(Number.isFinite)) {
    throw new FluxError("ERR_FLUX_BAD_ARGUMENT", `${name} holds NaN or infinite values`);
  }
}
