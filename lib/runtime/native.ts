import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { FluxError } from "../errors.js";

/** The addon's classes, as csrc/napi defines them. Everything that touches a device's thread gives a promise. */
export interface NativeAddon {
  readonly Device: new (options: { backend: "cpu" | "cuda"; threads: number; index: number }) => NativeDevice;
  readonly Mapping: new (path: string) => NativeMapping;
  readonly Generator: new (seed: bigint) => NativeGenerator;
  setErrorClass(constructor: new (code: never, message: string) => Error): void;
  cpuInfo(): { simd: string; cores: number };
  cudaInfo(): CudaInfo;
}

export interface CudaInfo {
  /** This build holds CUDA kernels. */
  built: boolean;
  /** Why no GPU can be used; absent when one can. */
  reason?: string;
  /** The newest CUDA version that the driver supports, as 1000·major + 10·minor. */
  driver?: number;
  devices: {
    index: number;
    name: string;
    computeCapability: string;
    multiprocessors: number;
    memoryBytes: number;
    l2Bytes: number;
  }[];
}

export interface NativeDevice {
  allocate(bytes: number): NativeMemory;
  compile(program: NativeProgram): NativePlan;
  load(request: NativeLoadRequest): Promise<number>;
  normal(generator: NativeGenerator, count: number): Promise<Float32Array>;
  hostMemory(bytes: number): NativeHostMemory;
  /** All values of the matrices, one after another. */
  valuesOf(matrices: readonly NativeMatrix[]): Promise<Float32Array>;
  /** Of each request the number of values that are not finite. */
  gather(requests: readonly NativeGather[]): Promise<Float64Array>;
  /** For each band of rows, which ends before row `ends[i]`, a byte for each column: 1 where it holds anything but zeros. */
  columnsInUse(request: { from: NativeMatrix; ends: Int32Array }): Promise<Uint8Array>;
  transfer(transfers: readonly NativeTransfer[]): Promise<void>;
  drain(): Promise<void>;
  memoryUsage(): { allocated: number; peak: number; host: number };
  /** Bytes that the arena could have; 0 where only the operating system knows. */
  availableMemory(): number;
  /** Memory that was freed goes back to the machine, behind what is queued. */
  trim(): void;
  /** How often a plan was bound. */
  bindings(): number;
  dispose(): void;
}

export interface NativeMemory {
  write(bytes: Uint8Array, offset: number): Promise<void>;
  read(offset: number, length: number): Promise<ArrayBuffer>;
  /** Takes all bytes of another Memory over, from byte `offset` on. */
  copyFrom(source: NativeMemory, offset: number): Promise<void>;
  /** Writes all bytes into an open file, beside other jobs; on the CPU only. */
  save(descriptor: number, position: number): Promise<void>;
  dispose(): void;
}

export interface NativeHostMemory {
  /** Copies at once. */
  write(bytes: Uint8Array, offset: number): void;
  dispose(): void;
}

/** A matrix in a file or in host memory. */
export interface NativeMatrix {
  source: NativeMapping | NativeHostMemory;
  /** Bytes. */
  begin: number;
  dtype: string;
  rows: number;
  columns: number;
}

/** A matrix on its way into host memory. */
export interface NativeGather {
  from: NativeMatrix;
  /** Those that are wanted, in order; all when absent. */
  rows?: Int32Array;
  columns?: Int32Array;
  /** What every value is multiplied by. */
  factor?: number;
  target: NativeHostMemory;
  /** Bytes. */
  targetOffset: number;
  to: "f32" | "bf16";
  /** Kept column by column. */
  transposed?: boolean;
}

/** Rows of host memory on their way into a Buffer; zeros without a source. All in bytes. */
export interface NativeTransfer {
  source?: NativeHostMemory;
  sourceOffset?: number;
  target: NativeMemory;
  targetOffset: number;
  rows: number;
  rowBytes: number;
  /** From row to row in the target. */
  targetStride: number;
  /** On a GPU: rows of bf16, each divided by its f32 number from there on … */
  divisor?: NativeMemory;
  /** … or quantised to e4m3, with the row's scale written there. */
  codeScales?: NativeMemory;
  scalesOffset?: number;
}

export interface NativePlan {
  run(): Promise<void>;
  runRevocably(): Promise<void>;
  revoke(): void;
  profile(): Promise<Float64Array>;
  dispose(): void;
}

export interface NativeMapping {
  readonly size: number;
  close(): void;
}

export type NativeGenerator = object;

export interface NativeOperand {
  name: string;
  /** Index into `NativeProgram.memories`, or −1 for the arena. */
  memory: number;
  /** Bytes. */
  offset: number;
  dtype: string;
  shape: readonly number[];
  /** Elements. */
  stride: readonly number[];
}

export interface NativeOp {
  kind: string;
  operands: NativeOperand[];
  attributes: Readonly<Record<string, number>>;
  body?: NativeOp[];
}

export interface NativeProgram {
  ops: NativeOp[];
  memories: NativeMemory[];
  arenaBytes: number;
}

/** How a weight is kept: see csrc/runtime/load.h. */
export type WeightLayout = "stored" | "channelsLast" | "upsamplePhases";

/** Bytes of a file and what their values are to be multiplied by (a number, or an f32 a row), or bf16 numbers to be drawn. */
export type NativeLoadOrigin =
  | {
      file: NativeMapping;
      /** Absolute byte offset in the file. */
      begin: number;
      factor?: number;
      factors?: NativeMapping;
      factorsBegin?: number;
    }
  | { random: { key: bigint; mean: number; deviation: number } };

export type NativeLoadRequest = NativeLoadOrigin & {
  from: string;
  to: string;
  /** As stored in the file. */
  shape: readonly number[];
  layout: WeightLayout;
  target: NativeMemory;
  targetOffset: number;
  scale?: NativeMemory;
  scaleOffset?: number;
};

let addon: NativeAddon | undefined;

/**
 * The native addon: `build/Release` of a checkout, or `prebuilds/` of an installed package.
 * @throws FluxError `ERR_FLUX_UNSUPPORTED` when there is none for this platform, or it cannot be loaded.
 */
export function native(): NativeAddon {
  if (addon === undefined) {
    const root = join(dirname(fileURLToPath(import.meta.url)), "..", "..");
    const require = createRequire(import.meta.url);
    let loaded: NativeAddon;
    try {
      const load = require("node-gyp-build") as (folder: string) => NativeAddon;
      loaded = load(root);
    } catch (cause) {
      throw new FluxError(
        "ERR_FLUX_UNSUPPORTED",
        `the native addon of fluxwarp could not be loaded for ${process.platform}-${process.arch}: ` +
          `${cause instanceof Error ? cause.message.split("\n")[0] : String(cause)}. ` +
          `Run "npm rebuild fluxwarp" (it needs a C++ compiler and CMake), or "npm run build:native" in a checkout.`,
        { cause },
      );
    }
    loaded.setErrorClass(FluxError as unknown as new (code: never, message: string) => Error);
    addon = loaded;
  }
  return addon;
}
