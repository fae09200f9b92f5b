// Opens safetensors files by their headers. The weights themselves stay on disk: the device maps the file and takes the
// byte ranges given here.

import { type FileHandle, open } from "node:fs/promises";
import { FluxError } from "../errors.js";
import { decodeValues, type HostValues } from "./dtype.js";
import { fileError } from "./file-error.js";
import { damaged, parseHeader, parseHeaderLength, quoted, type TensorEntry } from "./safetensors-header.js";

export type { TensorEntry } from "./safetensors-header.js";

/** A safetensors file whose header was read and found right. */
export interface SafetensorsFile {
  readonly path: string;
  readonly fileBytes: number;
  /** Offset of the data section in the file. */
  readonly dataOffset: number;
  readonly metadata: ReadonlyMap<string, string>;
  /** By name, in the order of their data in the file; offsets are those of the file. */
  readonly tensors: ReadonlyMap<string, TensorEntry>;
}

/**
 * Reads and checks the header of a safetensors file; its data is not touched.
 *
 * @throws FluxError ERR_FLUX_BAD_WEIGHTS for a missing, truncated or malformed file, ERR_FLUX_IO when it cannot be read.
 */
export async function openSafetensors(path: string): Promise<SafetensorsFile> {
  return withFile(path, async (file) => {
    const stat = await file.stat();
    if (!stat.isFile()) {
      throw new FluxError(
        "ERR_FLUX_BAD_WEIGHTS",
        `${path} is not a file. Give the path of a .safetensors file.`,
      );
    }
    const prefix = await readAt(file, 0, Math.min(8, stat.size), path);
    const headerBytes = parseHeaderLength(prefix, stat.size, path);
    const json = await readAt(file, 8, headerBytes, path);
    const header = parseHeader(json, stat.size, path);
    return { path, fileBytes: stat.size, dataOffset: 8 + headerBytes, ...header };
  });
}

/**
 * The same of a file that is in memory.
 *
 * @param name For messages.
 * @throws FluxError ERR_FLUX_BAD_WEIGHTS.
 */
export function parseSafetensors(bytes: Uint8Array, name: string): SafetensorsFile {
  const headerBytes = parseHeaderLength(bytes.subarray(0, 8), bytes.length, name);
  const header = parseHeader(bytes.subarray(8, 8 + headerBytes), bytes.length, name);
  return { path: name, fileBytes: bytes.length, dataOffset: 8 + headerBytes, ...header };
}

/** Values of one tensor on the host, with the shape that they have in the file. */
export interface HostTensor {
  readonly shape: readonly number[];
  readonly data: HostValues;
}

/**
 * Reads one tensor into host memory: for small tensors, tools and tests. f16, bf16 and fp8 are widened to f32.
 *
 * @throws FluxError ERR_FLUX_BAD_WEIGHTS when the file lacks the tensor, ERR_FLUX_UNSUPPORTED for a dtype without a host form.
 */
export async function readTensor(file: SafetensorsFile, name: string): Promise<HostTensor> {
  const entry = file.tensors.get(name);
  if (entry === undefined) {
    throw new FluxError(
      "ERR_FLUX_BAD_WEIGHTS",
      `${file.path} has no tensor ${quoted(name)}. Use a complete checkpoint.`,
    );
  }
  const bytes = await withFile(file.path, (handle) =>
    readAt(handle, entry.begin, entry.end - entry.begin, file.path),
  );
  const data = decodeValues(entry.dtype, bytes);
  if (data === undefined) {
    throw new FluxError(
      "ERR_FLUX_UNSUPPORTED",
      `Tensor ${quoted(name)} of ${file.path} is ${entry.dtype}, which cannot be read on the host. Use a bf16, f16, f32 or fp8 file.`,
    );
  }
  return { shape: entry.shape, data };
}

async function withFile<T>(path: string, use: (file: FileHandle) => Promise<T>): Promise<T> {
  let file: FileHandle;
  try {
    file = await open(path, "r");
  } catch (error) {
    throw fileError(path, error, "ERR_FLUX_BAD_WEIGHTS");
  }
  try {
    return await use(file);
  } finally {
    await file.close();
  }
}

async function readAt(file: FileHandle, position: number, bytes: number, path: string): Promise<Uint8Array> {
  const buffer = new Uint8Array(bytes);
  let filled = 0;
  while (filled < bytes) {
    let bytesRead: number;
    try {
      ({ bytesRead } = await file.read(buffer, filled, bytes - filled, position + filled));
    } catch (error) {
      throw fileError(path, error, "ERR_FLUX_BAD_WEIGHTS");
    }
    if (bytesRead === 0) throw damaged(path, `it ended at byte ${position + filled} while it was being read`);
    filled += bytesRead;
  }
  return buffer;
}
