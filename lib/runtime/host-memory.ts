import { FluxError } from "../errors.js";
import type { Buffer } from "./buffer.js";
import type { Device } from "./device.js";
import { sizeOf } from "./dtype.js";
import type { NativeHostMemory, NativeMapping, NativeTransfer } from "./native.js";

/** Memory of the host that the device copies from at full speed: pinned, for a GPU. */
export class HostMemory {
  readonly #native: NativeHostMemory;
  #disposed = false;

  /** @throws FluxError `ERR_FLUX_OUT_OF_MEMORY`. */
  constructor(
    readonly device: Device,
    readonly bytes: number,
  ) {
    this.#native = device.native.hostMemory(bytes);
  }

  get native(): NativeHostMemory {
    if (this.#disposed) throw new FluxError("ERR_FLUX_DISPOSED", "this host memory is disposed");
    return this.#native;
  }

  /** Jobs that are queued still find it. */
  dispose(): void {
    this.#disposed = true;
    this.#native.dispose();
  }
}

/** A matrix of a file, or of host memory. Row-major. */
export interface StoredMatrix {
  readonly source: NativeMapping | HostMemory;
  /** Bytes. */
  readonly begin: number;
  readonly dtype: "f32" | "bf16" | "f16" | "f8e4m3" | "f8e5m2";
  readonly rows: number;
  readonly columns: number;
}

/** A matrix, or some of its rows and columns, on the way into host memory. */
export interface Gather {
  readonly from: StoredMatrix;
  /** Those that are wanted, in order; all when absent. */
  readonly rows?: Int32Array | undefined;
  readonly columns?: Int32Array | undefined;
  readonly factor?: number;
  readonly target: HostMemory;
  /** Bytes. */
  readonly targetOffset: number;
  readonly to: "f32" | "bf16";
  readonly transposed?: boolean;
}

/**
 * Reads and converts matrices beside the device's thread.
 * @returns Of each the number of values that are NaN or infinite.
 */
export function gather(device: Device, requests: readonly Gather[]): Promise<Float64Array> {
  return device.native.gather(
    requests.map(({ from, rows, columns, target, ...request }) => ({
      ...request,
      from: nativeMatrix(from),
      ...(rows !== undefined && { rows }),
      ...(columns !== undefined && { columns }),
      target: target.native,
    })),
  );
}

/** All values of the matrices, one after another: for few and small ones. */
export function valuesOf(device: Device, matrices: readonly StoredMatrix[]): Promise<Float32Array> {
  return device.native.valuesOf(matrices.map(nativeMatrix));
}

/**
 * Which columns hold anything but zeros, for each band of rows.
 * @param ends One past the last row of each band; the first band begins at row 0.
 * @returns For each band the columns' indices.
 */
export async function columnsInUse(
  device: Device,
  from: StoredMatrix,
  ends: readonly number[],
): Promise<Int32Array[]> {
  const request = { from: nativeMatrix(from), ends: Int32Array.from(ends) };
  const used = await device.native.columnsInUse(request);
  return ends.map((_, band) => {
    const columns = Array.from({ length: from.columns }, (_, column) => column);
    return Int32Array.from(columns.filter((column) => used[band * from.columns + column] === 1));
  });
}

/** A matrix of host memory on its way into a Buffer of two axes. */
export interface Transfer {
  readonly source: HostMemory;
  /** Bytes. */
  readonly sourceOffset: number;
  readonly target: Buffer;
  /** Where it begins in the Buffer. */
  readonly row: number;
  readonly column: number;
  readonly rows: number;
  readonly columns: number;
  /** On a GPU: rows of bf16 are divided by these, from `scalesFrom` on … */
  readonly divisor?: Buffer | undefined;
  /** … or quantised, into a Buffer of codes, and their scales are written here from `scalesFrom` on. */
  readonly codeScales?: Buffer | undefined;
  readonly scalesFrom?: number;
}

/** Copies matrices into Buffers, all in one job of the device's queue. The host memory must stay until it is done. */
export function transfer(device: Device, transfers: readonly Transfer[]): Promise<void> {
  return device.native.transfer(
    transfers.map((entry): NativeTransfer => {
      const { source, sourceOffset, target, row, column, rows, columns } = entry;
      const { divisor, codeScales, scalesFrom = 0 } = entry;
      const size = sizeOf(target.dtype);
      const width = target.shape[1]!;
      const place = {
        target: target.native,
        targetOffset: (row * width + column) * size,
      };
      const treated = divisor !== undefined || codeScales !== undefined;
      // Whole rows follow each other on both sides.
      const layout =
        columns === width && !treated
          ? { rows: 1, rowBytes: rows * columns * size, targetStride: rows * columns * size }
          : { rows, rowBytes: columns * (treated ? 2 : size), targetStride: width * size };
      const treatment = {
        ...(divisor && { divisor: divisor.native }),
        ...(codeScales && { codeScales: codeScales.native }),
        ...(treated && { scalesOffset: scalesFrom * 4 }),
      };
      return { source: source.native, sourceOffset, ...place, ...layout, ...treatment };
    }),
  );
}

/** Fills Buffers with zeros. */
export function clear(device: Device, buffers: readonly Buffer[]): Promise<void> {
  return device.native.transfer(
    buffers.map((buffer) => ({
      target: buffer.native,
      targetOffset: 0,
      rows: 1,
      rowBytes: buffer.bytes,
      targetStride: buffer.bytes,
    })),
  );
}

function nativeMatrix({ source, ...matrix }: StoredMatrix) {
  return { ...matrix, source: source instanceof HostMemory ? source.native : source };
}
