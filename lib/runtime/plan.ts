import { FluxError } from "../errors.js";
import type { Buffer } from "./buffer.js";
import type { Device } from "./device.js";
import { sizeOf } from "./dtype.js";
import type { NativeOp, NativeOperand, NativePlan, NativeProgram } from "./native.js";
import { bytesOf, flatten, type Op } from "./op.js";
import { type Placement, place } from "./planner.js";
import { show, type Value } from "./value.js";

/** What `plan.describe()` tells of one op. */
export interface OpDescription {
  kind: string;
  /** Nesting inside conditions and ops that run together. */
  depth: number;
  inputs: Record<string, string>;
  outputs: Record<string, string>;
  flops: number;
  /** Operands counted once each. */
  bytes: number;
  /** Milliseconds in the last profiled run; of top-level ops only. */
  ms?: number;
}

/** What `plan.describe()` tells of the whole. */
export interface PlanDescription {
  name: string;
  ops: OpDescription[];
  flops: number;
  bytes: number;
  /** Memory that the values of this plan take in the arena, after planning. */
  arenaBytes: number;
  /** The largest sum of values that live at one moment. */
  liveBytes: number;
  /** Memory of the Buffers that it uses: weights, inputs, outputs. */
  bufferBytes: number;
}

/**
 * A recorded, memory-planned list of ops. `run()` replays it on the device's thread; runs happen in the order of the calls.
 */
export class Plan {
  readonly #native: NativePlan;
  readonly #ops: readonly Op[];
  readonly #placement: Placement;
  readonly #buffers: readonly Buffer[];
  #times: Float64Array | undefined;
  #disposed = false;

  /** Use `device.record(name, build)`. */
  constructor(
    readonly device: Device,
    readonly name: string,
    ops: readonly Op[],
  ) {
    this.#ops = ops;
    this.#placement = place(ops);
    this.#buffers = buffersOf(ops);
    if (this.#buffers.some((buffer) => buffer.device !== device)) {
      throw new FluxError(
        "ERR_FLUX_BAD_ARGUMENT",
        `the plan "${name}" uses a Buffer of another Device; record it with Buffers of its own`,
      );
    }
    this.#native = device.compile(lower(ops, this.#placement, this.#buffers));
  }

  get arenaBytes(): number {
    return this.#placement.arenaBytes;
  }

  /**
   * Replays the plan once. A revocable run begins only when the device has done everything before it, which on a GPU leaves it idle for the
   * moment that a launch takes.
   */
  async run({ revocable = false }: { revocable?: boolean } = {}): Promise<void> {
    const plan = this.#alive();
    await (revocable ? plan.runRevocably() : plan.run());
  }

  /** Takes revocable runs back that were asked for and have not begun: their promises resolve, and nothing has happened. */
  revoke(): void {
    if (!this.#disposed) this.#native.revoke();
  }

  /** Runs once with a clock around every top-level op; `toString()` and `describe()` then show the times. */
  async profile(): Promise<void> {
    this.#times = await this.#alive().profile();
  }

  describe(): PlanDescription {
    const ops: OpDescription[] = [];
    const total = { flops: 0, bytes: 0 };
    const visit = (list: readonly Op[], depth: number) => {
      list.forEach((op, at) => {
        const ms = depth === 0 ? this.#times?.[at] : undefined;
        if (op.kind !== "together") {
          total.flops += op.flops;
          total.bytes += bytesOf(op);
        }
        ops.push({
          kind: op.kind,
          depth,
          inputs: shapesOf(op.inputs),
          outputs: shapesOf(op.outputs),
          flops: op.flops,
          bytes: bytesOf(op),
          ...(ms !== undefined && { ms }),
        });
        if (op.body !== undefined) visit(op.body, depth + 1);
      });
    };
    visit(this.#ops, 0);
    return {
      name: this.name,
      ops,
      ...total, // of what "together" joins, the ops themselves
      arenaBytes: this.#placement.arenaBytes,
      liveBytes: this.#placement.liveBytes,
      bufferBytes: this.#buffers.reduce((sum, buffer) => sum + buffer.bytes, 0),
    };
  }

  /** A table: an op a row with its shapes, GFLOP, MB and, after `profile()`, its time and rate. */
  toString(): string {
    const { ops, flops, bytes, arenaBytes, bufferBytes } = this.describe();
    const rows = ops.map((op, index) => {
      const shapes = `${Object.values(op.inputs).join(" ")} → ${Object.values(op.outputs).join(" ")}`;
      const time = op.ms === undefined ? "" : `${op.ms.toFixed(3).padStart(10)} ms`;
      const indent = "  ".repeat(op.depth);
      return [
        String(index).padStart(4),
        (indent + op.kind).padEnd(18),
        (op.flops / 1e9).toFixed(3).padStart(10),
        (op.bytes / 1e6).toFixed(2).padStart(9) + time,
        shapes,
      ].join("  ");
    });
    return [
      `plan ${this.name}: ${ops.length} ops, ${(flops / 1e9).toFixed(2)} GFLOP, ${(bytes / 1e6).toFixed(1)} MB moved, ` +
        `arena ${(arenaBytes / 1e6).toFixed(2)} MB, buffers ${(bufferBytes / 1e6).toFixed(2)} MB`,
      "   #  op                     GFLOP         MB  operands",
      ...rows,
    ].join("\n");
  }

  /** Gives back its share of the arena once queued runs are done. Buffers belong to others and stay. */
  dispose(): void {
    if (this.#disposed) return;
    this.#disposed = true;
    this.#native.dispose();
  }

  [Symbol.dispose](): void {
    this.dispose();
  }

  #alive(): NativePlan {
    if (this.#disposed)
      throw new FluxError("ERR_FLUX_DISPOSED", `the plan "${this.name}" is disposed; record it again`);
    return this.#native;
  }
}

function buffersOf(ops: readonly Op[]): Buffer[] {
  const buffers = new Set<Buffer>();
  for (const op of flatten(ops)) {
    for (const value of [...Object.values(op.inputs), ...Object.values(op.outputs)]) {
      if (value.storage.buffer !== undefined) buffers.add(value.storage.buffer);
    }
  }
  return [...buffers];
}

function shapesOf(values: Readonly<Record<string, Value>>): Record<string, string> {
  return Object.fromEntries(Object.entries(values).map(([name, value]) => [name, show(value)]));
}

/** The flat form that csrc/runtime/program.h executes: names, places, strides. */
function lower(ops: readonly Op[], placement: Placement, buffers: readonly Buffer[]): NativeProgram {
  const indices = new Map(buffers.map((buffer, index) => [buffer, index]));
  const operand = (name: string, value: Value): NativeOperand => {
    const { buffer } = value.storage;
    const base = buffer === undefined ? placement.offsets.get(value.storage)! : 0;
    return {
      name,
      memory: buffer === undefined ? -1 : indices.get(buffer)!,
      offset: base + value.offset * sizeOf(value.dtype),
      dtype: value.dtype,
      shape: value.shape,
      stride: value.stride,
    };
  };
  const lowerOp = (op: Op): NativeOp => ({
    kind: op.kind,
    operands: (op.kind === "together" // its members bring theirs
      ? []
      : [...Object.entries(op.inputs), ...Object.entries(op.outputs)]
    ).map(([name, value]) => operand(name, value)),
    attributes: op.attributes,
    ...(op.body !== undefined && { body: op.body.map(lowerOp) }),
  });
  return {
    ops: ops.map(lowerOp),
    memories: buffers.map((buffer) => buffer.native),
    arenaBytes: placement.arenaBytes,
  };
}
