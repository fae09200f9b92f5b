// Slots: Buffers beside the linears of a model, into which adapters are written.

import type { Linear } from "../nn/linear.js";
import type { Buffer } from "../runtime/buffer.js";
import type { Device } from "../runtime/device.js";
import { clear, type HostMemory, type Transfer, transfer } from "../runtime/host-memory.js";
import type { Plan } from "../runtime/plan.js";
import { type Adapter, type AdapterPiece, memoryOf } from "./adapter.js";
import type { FusedWeight } from "./fuse.js";
import { startsOf } from "./sites.js";

/** An adapter that is in effect, and how strongly. */
export interface Applied {
  readonly adapter: Adapter;
  readonly weight: number;
}

/** Ranks are a multiple of this: what a tensor core multiplies at once. */
const RANK_MULTIPLE = 16;

export function paddedRank(rank: number): number {
  return Math.ceil(rank / RANK_MULTIPLE) * RANK_MULTIPLE;
}

/** Of one Linear: room for `rank` ranks in each of its P parts. */
interface Slot {
  readonly rank: number;
  /** [P·rank, K]. */
  readonly down: Buffer;
  /** [N, rank]. */
  readonly up: Buffer;
  /** Where its P·rank factors begin among all slots' factors. */
  readonly firstScale: number;
  readonly starts: readonly number[];
  /** What the linear's results can reach with the branch, where the weight's own are bounded. */
  readonly bounds: Buffer | undefined;
}

/** Weights that are about to take the place of the model's. */
export type NextWeights = ReadonlyMap<Linear, FusedWeight>;

/**
 * The slots of a set of linears. Adapters lie in them one after another along the rank, in the order in which they are
 * applied, so that the same list of adapters always gives the same sums. Rank r of part p of a linear's branch is
 * (x · down row) · factor · (up column): a factor is the adapter's weight times its alpha / rank, or 0 where nothing is.
 * On a GPU the slot of a quantised weight has up divided by the weight's scales (see `LowRankWeights`).
 */
export class Slots {
  readonly #slots = new Map<Linear, Slot>();
  readonly #scales: Buffer<"f32">;
  /** What the matrices hold, in order: what is beyond is stale, and its factors are 0. */
  #written: readonly Adapter[] = [];
  /** Measures the bounds of linears with branches, for weights whose scales and bounds are these. */
  #measure: { readonly plan: Plan; readonly of: readonly (Buffer | undefined)[] } | undefined;

  private constructor(
    readonly device: Device,
    ranks: ReadonlyMap<Linear, number>,
    owned: Buffer[],
  ) {
    const buffer = <D extends "f32" | "bf16">(dtype: D, shape: readonly number[]) => {
      const made = device.buffer(dtype, shape);
      owned.push(made);
      return made;
    };
    let scales = 0;
    for (const [linear, rank] of ranks) {
      const parts = linear.rows.length;
      const starts = startsOf(linear);
      this.#slots.set(linear, {
        rank,
        down: buffer(device.dtype, [parts * rank, linear.columns]),
        up: buffer(device.dtype, [linear.rows.reduce((sum, rows) => sum + rows, 0), rank]),
        firstScale: scales,
        starts,
        bounds: linear.bounds && buffer("f32", [2]),
      });
      scales += parts * rank;
    }
    this.#scales = buffer("f32", [scales]);
  }

  /**
   * Allocates slots, all zero. They do nothing until they are attached.
   * @param ranks Of every linear that is to have a slot; see `paddedRank`.
   * @throws FluxError `ERR_FLUX_OUT_OF_MEMORY`; nothing stays allocated.
   */
  static async allocate(device: Device, ranks: ReadonlyMap<Linear, number>): Promise<Slots> {
    const owned: Buffer[] = [];
    try {
      const slots = new Slots(device, ranks, owned);
      await clear(device, owned);
      return slots;
    } catch (error) {
      for (const buffer of owned) buffer.dispose();
      throw error;
    }
  }

  /** The rank of a linear's slot; 0 without one. */
  rankOf(linear: Linear): number {
    return this.#slots.get(linear)?.rank ?? 0;
  }

  get linears(): IterableIterator<Linear> {
    return this.#slots.keys();
  }

  /** Those of a list of adapters whose matrices would have to be written. */
  missing(adapters: readonly Adapter[]): readonly Adapter[] {
    return adapters.slice(this.#keptOf(adapters));
  }

  /** Bytes on the device. */
  get bytes(): number {
    let bytes = this.#scales.bytes;
    for (const { down, up, bounds } of this.#slots.values())
      bytes += down.bytes + up.bytes + (bounds?.bytes ?? 0);
    return bytes;
  }

  /** Linears that are recorded from now on have the low-rank branch. */
  attach(): void {
    for (const [linear, slot] of this.#slots) linear.lowRank = this.#branchOf(slot);
  }

  #branchOf({ rank, down, up, firstScale, starts, bounds }: Slot) {
    const scale = this.#scales.value.slice(0, firstScale, starts.length * rank);
    return { down, up, scale, starts, bounds };
  }

  /** Whether what lies in the slots depends on weights of these linears. */
  dependsOn(weights: NextWeights): boolean {
    return [...weights.keys()].some(
      (linear) => this.#slots.has(linear) && this.#divisorOf(linear) !== undefined,
    );
  }

  /** What a linear's up is divided by. */
  #divisorOf(linear: Linear, next?: NextWeights): Buffer | undefined {
    if (this.device.kind === "cpu") return undefined;
    return (next?.get(linear)?.parameter ?? linear.parameter).scale;
  }

  /** Other slots that are attached to the same linears stay so. */
  detach(): void {
    for (const [linear, { down }] of this.#slots) {
      if (linear.lowRank?.down === down) linear.lowRank = undefined;
    }
  }

  /**
   * Puts these adapters into effect, and no others. They must fit, and be in host memory. Only what changes is copied: a
   * change of weights is one small write.
   * @param next Weights that the slots are to go with from now on, when they change with the adapters: all is copied anew.
   */
  async write(applied: readonly Applied[], next?: NextWeights): Promise<void> {
    const adapters = applied.map(({ adapter }) => adapter);
    if (next !== undefined) this.#written = [];
    const kept = this.#keptOf(adapters);
    const scales = new Float32Array(this.#scales.elements);
    const transfers: Transfer[] = [];
    const takePlace = placesByPart();
    applied.forEach(({ adapter, weight }, i) => {
      for (const piece of adapter.pieces) {
        const slot = this.#slots.get(piece.linear)!;
        const at = takePlace(piece);
        const row = piece.part * slot.rank + at;
        scales.fill(weight * piece.scale, slot.firstScale + row, slot.firstScale + row + piece.rank);
        if (i < kept) continue;
        const divisor = this.#divisorOf(piece.linear, next);
        transfers.push(...transfersOf(memoryOf(adapter), piece, slot, row, at, divisor));
      }
    });
    const before = this.#written;
    this.#written = before.slice(0, kept); // until the rest has arrived
    const jobs = [this.#scales.write(scales)];
    if (transfers.length > 0) jobs.push(transfer(this.device, transfers));
    const measure = this.#measurePlan(next);
    if (measure !== undefined) jobs.push(measure.run());
    await Promise.all(jobs);
    this.#written = kept === adapters.length ? before : adapters;
  }

  /** Undefined when no linear is bounded. */
  #measurePlan(next: NextWeights | undefined): Plan | undefined {
    const bounded = [...this.#slots].flatMap(([linear, slot]) => {
      if (slot.bounds === undefined) return [];
      const { scale } = next?.get(linear)?.parameter ?? linear.parameter;
      const bounds = next?.has(linear) ? next.get(linear)!.bounds : linear.bounds;
      return [{ linear, slot, scale, bounds, into: slot.bounds }];
    });
    if (bounded.length === 0) return undefined;
    const of = bounded.flatMap(({ scale, bounds }) => [scale, bounds]);
    if (this.#measure?.of.every((buffer, i) => buffer === of[i])) return this.#measure.plan;
    this.#measure?.plan.dispose();
    const plan = this.device.record("branch bounds", (g) => {
      for (const { linear, slot, scale, bounds, into } of bounded)
        g.branchBounds({ weight: linear.weight, scale, bounds }, this.#branchOf(slot), into);
    });
    this.#measure = { plan, of };
    return plan;
  }

  /** How many of these adapters are where they have to be. */
  #keptOf(adapters: readonly Adapter[]): number {
    const differs = adapters.findIndex((adapter, i) => adapter !== this.#written[i]);
    return differs === -1 ? adapters.length : differs;
  }

  dispose(): void {
    this.detach();
    this.#measure?.plan.dispose();
    for (const { down, up, bounds } of this.#slots.values()) {
      down.dispose();
      up.dispose();
      bounds?.dispose();
    }
    this.#scales.dispose();
  }
}

/** Gives each piece its first rank in its part of its linear, one after another. */
function placesByPart(): (piece: AdapterPiece) => number {
  const used = new Map<Linear, number[]>();
  return ({ linear, part, rank }) => {
    const parts = used.get(linear) ?? linear.rows.map(() => 0);
    used.set(linear, parts);
    const at = parts[part]!;
    parts[part] = at + rank;
    return at;
  };
}

function transfersOf(
  source: HostMemory,
  { linear, part, rank, down, up }: AdapterPiece,
  slot: Slot,
  row: number,
  column: number,
  divisor: Buffer | undefined,
): Transfer[] {
  const rows = linear.rows[part]!;
  return [
    { source, sourceOffset: down, target: slot.down, row, column: 0, rows: rank, columns: linear.columns },
    {
      source,
      sourceOffset: up,
      target: slot.up,
      row: slot.starts[part]!,
      column,
      rows,
      columns: rank,
      divisor,
    },
  ];
}
