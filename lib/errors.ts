/**
 * Stable codes of the errors that fluxwarp throws. A program may branch on them; messages are for people and may change.
 *
 * | code | meaning |
 * |---|---|
 * | `ERR_FLUX_NO_DEVICE` | the device asked for is not there, or its driver cannot be used |
 * | `ERR_FLUX_OUT_OF_MEMORY` | device or host memory does not suffice |
 * | `ERR_FLUX_BAD_WEIGHTS` | a checkpoint is damaged, incomplete, or does not fit its config |
 * | `ERR_FLUX_BAD_ARGUMENT` | an argument of a call is wrong |
 * | `ERR_FLUX_UNSUPPORTED` | valid, but not something that this version can do |
 * | `ERR_FLUX_DISPOSED` | the object was disposed before or during the call |
 * | `ERR_FLUX_CUDA` | a CUDA call or kernel failed; the device may be lost |
 * | `ERR_FLUX_IO` | the file system refused: no space, no permission, no such folder |
 */
export const FLUX_ERROR_CODES = [
  "ERR_FLUX_NO_DEVICE",
  "ERR_FLUX_OUT_OF_MEMORY",
  "ERR_FLUX_BAD_WEIGHTS",
  "ERR_FLUX_BAD_ARGUMENT",
  "ERR_FLUX_UNSUPPORTED",
  "ERR_FLUX_DISPOSED",
  "ERR_FLUX_CUDA",
  "ERR_FLUX_IO",
] as const;

export type FluxErrorCode = (typeof FLUX_ERROR_CODES)[number];

/**
 * Every error that fluxwarp raises by itself. The message says what is wrong and what to do about it; `code` is stable.
 *
 * An aborted call is not a FluxError: it rejects with its signal's `reason`, by default a DOMException named "AbortError".
 */
export class FluxError extends Error {
  readonly code: FluxErrorCode;

  constructor(code: FluxErrorCode, message: string, options?: { cause?: unknown }) {
    super(message, options);
    this.name = "FluxError";
    this.code = code;
  }

  /** True for a FluxError, also one from another copy of this module (a second worker's, a bundled one), or of one given code. */
  static is(error: unknown, code?: FluxErrorCode): error is FluxError {
    if (!(error instanceof Error)) return false;
    const actual: unknown = (error as { code?: unknown }).code;
    const known = (FLUX_ERROR_CODES as readonly unknown[]).includes(actual);
    return known && (code === undefined || actual === code);
  }
}

/** The FluxError for a wrong argument of a call. */
export function badArgument(message: string): FluxError {
  return new FluxError("ERR_FLUX_BAD_ARGUMENT", message);
}
