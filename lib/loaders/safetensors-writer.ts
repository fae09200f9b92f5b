// Writes safetensors files tensor by tensor, so that none need fit into memory with the others.

import { type FileHandle, open } from "node:fs/promises";
import { FluxError } from "../errors.js";
import type { Buffer } from "../runtime/buffer.js";
import { elementsOf } from "../runtime/dtype.js";
import { DTYPE_BITS, type SafetensorsDtype } from "./dtype.js";

/** A tensor that a file is to have. */
export interface PlannedTensor {
  readonly name: string;
  readonly dtype: SafetensorsDtype;
  readonly shape: readonly number[];
}

/** Bytes of its data. */
export function plannedBytes({ dtype, shape }: PlannedTensor): number {
  return (elementsOf(shape) * DTYPE_BITS[dtype]) / 8;
}

export class SafetensorsWriter {
  readonly #offsets: ReadonlyMap<string, readonly [begin: number, end: number]>;

  private constructor(
    readonly path: string,
    readonly file: FileHandle,
    offsets: Map<string, readonly [number, number]>,
  ) {
    this.#offsets = offsets;
  }

  /**
   * Creates the file with its header; every tensor is then to be written once. Dtypes of more bytes lie first, so that each is aligned.
   * @throws FluxError `ERR_FLUX_IO`, naming the file.
   */
  static async create(
    path: string,
    tensors: readonly PlannedTensor[],
    metadata: Readonly<Record<string, string>> = {},
  ): Promise<SafetensorsWriter> {
    const header: Record<string, unknown> = { __metadata__: { format: "pt", ...metadata } };
    let end = 0;
    for (const tensor of tensors.toSorted((a, b) => DTYPE_BITS[b.dtype] - DTYPE_BITS[a.dtype])) {
      const begin = end;
      end += plannedBytes(tensor);
      header[tensor.name] = { dtype: tensor.dtype, shape: tensor.shape, data_offsets: [begin, end] };
    }
    const json = new TextEncoder().encode(JSON.stringify(header));
    const padded = Math.ceil(json.length / 8) * 8;
    const bytes = new Uint8Array(8 + padded).fill(0x20);
    new DataView(bytes.buffer).setBigUint64(0, BigInt(padded), true);
    bytes.set(json, 8);
    const offsets = new Map<string, readonly [number, number]>();
    for (const { name } of tensors) {
      const [begin, last] = (header[name] as { data_offsets: [number, number] }).data_offsets;
      offsets.set(name, [bytes.length + begin, bytes.length + last]);
    }
    const file = await writing(path, () => open(path, "w"));
    const writer = new SafetensorsWriter(path, file, offsets);
    try {
      await writing(path, () => writeAll(file, bytes, 0));
    } catch (error) {
      await file.close();
      throw error;
    }
    return writer;
  }

  /** The data of one tensor, as it is to lie in the file, out of a Buffer of the CPU. */
  async write(name: string, data: Buffer): Promise<void> {
    const [begin, end] = this.#offsets.get(name)!;
    if (data.bytes !== end - begin)
      throw new RangeError(`${name} has ${data.bytes} bytes, not ${end - begin}`);
    await writing(this.path, () => data.save(this.file.fd, begin));
  }

  async close(): Promise<void> {
    await writing(this.path, () => this.file.close());
  }
}

async function writeAll(file: FileHandle, bytes: Uint8Array, position: number): Promise<void> {
  for (let done = 0; done < bytes.length; ) {
    const { bytesWritten } = await file.write(bytes, done, bytes.length - done, position + done);
    if (bytesWritten === 0) throw new Error("the file system takes no more");
    done += bytesWritten;
  }
}

async function writing<T>(path: string, action: () => Promise<T>): Promise<T> {
  try {
    return await action();
  } catch (cause) {
    throw new FluxError(
      "ERR_FLUX_IO",
      `${path} cannot be written: ${(cause as Error).message}. Check the folder, its permissions and the space on the disk.`,
      { cause },
    );
  }
}
