import { availableParallelism, freemem } from "node:os";
import { checkOptions, type OptionNames, shown } from "../arguments.js";
import { badArgument, FluxError } from "../errors.js";
import { Buffer } from "./buffer.js";
import { type DType, elementsOf, sizeOf } from "./dtype.js";
import {
  type CudaInfo,
  type NativeDevice,
  type NativeLoadRequest,
  type NativePlan,
  type NativeProgram,
  native,
} from "./native.js";
import { Plan } from "./plan.js";
import { place } from "./planner.js";
import { Recorder } from "./recorder.js";

/** `"auto"` is the first GPU that can be used; without one the CPU, with a warning that names the reason. */
export type DeviceName = "auto" | "cpu" | "cuda" | `cuda:${number}`;

export interface DeviceOptions {
  /** CPU only: how many threads compute, 1 to 1024; the number of cores by default. Results do not depend on it. */
  threads?: number;
}

const NAMES: OptionNames<DeviceOptions> = { threads: true };

/** What this machine and this build can do. */
export interface DeviceInfo {
  cpu: { cores: number; simd: string };
  cuda: CudaInfo & { available: boolean };
}

/** What `fluxwarp inspect gpu` prints. */
export function deviceInfo(): DeviceInfo {
  const { simd } = native().cpuInfo();
  const cuda = native().cudaInfo();
  return {
    cpu: { cores: availableParallelism(), simd },
    cuda: { ...cuda, available: cuda.devices.length > 0 },
  };
}

let warned = false;

/** Says, once a process, why "auto" runs on the CPU. */
function warnOnce(reason: string): void {
  if (!warned) process.emitWarning(`running on the CPU: ${reason}`, { code: "FLUX_CPU_FALLBACK" });
  warned = true;
}

/**
 * A CUDA GPU or the CPU: one native thread that runs jobs in the order in which they were submitted, and one arena. Node's event loop never
 * waits for it.
 */
export class Device {
  readonly #native: NativeDevice;
  #disposed = false;

  private constructor(
    readonly kind: "cpu" | "cuda",
    /** Such as `cpu` or `cuda:0`. */
    readonly name: string,
    nativeDevice: NativeDevice,
  ) {
    this.#native = nativeDevice;
  }

  /**
   * @throws FluxError `ERR_FLUX_NO_DEVICE` when the device named is not there or cannot be used; `ERR_FLUX_BAD_ARGUMENT`
   *   for a name that is none.
   */
  static open(name: DeviceName = "auto", options: DeviceOptions = {}): Device {
    checkOptions("Device.open()", options, NAMES);
    const threads = options.threads ?? availableParallelism();
    if (!Number.isInteger(threads) || threads < 1 || threads > 1024) {
      throw badArgument(`threads is a whole number from 1 to 1024, not ${shown(threads)}`);
    }
    if (name !== "cpu" && name !== "auto" && !/^cuda(:\d+)?$/.test(name)) {
      throw badArgument(`device is "auto", "cpu" or "cuda:0" (a number), not ${shown(name)}`);
    }
    const { Device: Native } = native();
    const cpu = () => new Device("cpu", "cpu", new Native({ backend: "cpu", threads, index: 0 }));
    if (name === "cpu") return cpu();
    const { cuda } = deviceInfo();
    if (name === "auto") {
      const [first] = cuda.devices;
      if (first === undefined) {
        warnOnce(cuda.reason ?? "there is no GPU");
        return cpu();
      }
      return new Device(
        "cuda",
        `cuda:${first.index}`,
        new Native({ backend: "cuda", threads, index: first.index }),
      );
    }
    const index = Number(name.split(":")[1] ?? 0);
    if (!cuda.devices.some((device) => device.index === index)) {
      const reason =
        cuda.reason ?? `its GPUs are ${cuda.devices.map((device) => `cuda:${device.index}`).join(", ")}`;
      throw new FluxError(
        "ERR_FLUX_NO_DEVICE",
        `no ${name} on this machine: ${reason}; use device "cpu" or "auto"`,
      );
    }
    return new Device("cuda", `cuda:${index}`, new Native({ backend: "cuda", threads, index }));
  }

  /** Of activations: f32 on the CPU, bf16 on a GPU. */
  get dtype(): "f32" | "bf16" {
    return this.kind === "cuda" ? "bf16" : "f32";
  }

  get disposed(): boolean {
    return this.#disposed;
  }

  /**
   * Allocates a Buffer, its contents undefined.
   * @throws FluxError `ERR_FLUX_OUT_OF_MEMORY`.
   */
  buffer<D extends DType>(dtype: D, shape: readonly number[]): Buffer<D> {
    if (!shape.every((length) => Number.isInteger(length) && length >= 1)) {
      throw new FluxError(
        "ERR_FLUX_BAD_ARGUMENT",
        `a Buffer's shape has positive whole lengths, not [${shape.join(", ")}]`,
      );
    }
    return new Buffer(this, dtype, shape, this.#alive().allocate(elementsOf(shape) * sizeOf(dtype)));
  }

  /** Walks `build` once and yields the Plan of what it recorded. */
  record(name: string, build: (g: Recorder) => void): Plan {
    const recorder = new Recorder(this.dtype);
    build(recorder);
    return new Plan(this, name, recorder.ops);
  }

  /** Resolves when everything that was queued before is done. */
  async drain(): Promise<void> {
    await this.#alive().drain();
  }

  /**
   * Device memory that Buffers and the arena take now, the most that they ever took, and the host's memory that adapters wait
   * in, in bytes.
   */
  memoryUsage(): { allocated: number; peak: number; host: number } {
    return this.#native.memoryUsage();
  }

  /** Bytes that the values of a plan could take now: what is free, and the arena of the plans that there are. */
  availableMemory(): number {
    return this.#native.availableMemory() || freemem();
  }

  /** How often a plan was bound to its memory so far, which on a GPU captures it as a graph. */
  get captures(): number {
    return this.#native.bindings();
  }

  /** What the arena of a plan would take, in bytes, without making one. */
  forecast(build: (g: Recorder) => void): number {
    const recorder = new Recorder(this.dtype);
    build(recorder);
    return place(recorder.ops).arenaBytes;
  }

  /**
   * Gives memory that no Buffer and no Plan takes any more back to the GPU, behind everything that is queued; until then the Device keeps it
   * for the next ones. Happens by itself when the last one goes.
   */
  trim(): void {
    this.#native.trim();
  }

  /** Takes no new work; what is queued still finishes and its promises settle. Buffers and Plans become unusable. */
  dispose(): void {
    if (this.#disposed) return;
    this.#disposed = true;
    this.#native.dispose();
  }

  [Symbol.dispose](): void {
    this.dispose();
  }

  /** @internal */
  compile(program: NativeProgram): NativePlan {
    return this.#alive().compile(program);
  }

  /** Loads one tensor of a mapped file; resolves with the number of values that are not finite. @internal */
  load(request: NativeLoadRequest): Promise<number> {
    return this.#alive().load(request);
  }

  /** @internal */
  get native(): NativeDevice {
    return this.#alive();
  }

  #alive(): NativeDevice {
    if (this.#disposed) throw new FluxError("ERR_FLUX_DISPOSED", "this Device is disposed; open another");
    return this.#native;
  }
}
