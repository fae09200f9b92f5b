// Slots: Buffers beside the linears of a model, into which adapters are written.

import type { Linear } from "../nn/linear.js";
import type { Buffer } from "../runtime/buffer.js";
import type { Device } from "../runtime/device.js";
import { clear, type HostMemory, type Transfer, transfer } from "../runtime/host-memory.js";
import { type Adapter, type AdapterPiece, memoryOf } from "./adapter.js";
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
}

/**
 * The slots of a set of linears. Adapters lie in them one after another along the rank, in the order in which they are
 * applied, so that the same list of adapters always gives the same sums. Rank r of part p of a linear's branch is
 * (x · down row) · factor · (up column): a factor is the adapter's weight times its alpha / rank, or 0 where nothing is.
 */
export class Slots {
  readonly #slots = new Map<Linear, Slot>();
  readonly #scales: Buffer<"f32">;
  /** What the matrices hold, in order: what is beyond is stale, and its factors are 0. */
  #written: readonly Adapter[] = [];

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
    for (const { down, up } of this.#slots.values()) bytes += down.bytes + up.bytes;
    return bytes;
  }

  /** Linears that are recorded from now on have the low-rank branch. */
  attach(): void {
    for (const [linear, { rank, down, up, firstScale, starts }] of this.#slots) {
      const scale = this.#scales.value.slice(0, firstScale, starts.length * rank);
      linear.lowRank = { down, up, scale, starts };
    }
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
   */
  async write(applied: readonly Applied[]): Promise<void> {
    const adapters = applied.map(({ adapter }) => adapter);
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
        if (i >= kept) transfers.push(...transfersOf(memoryOf(adapter), piece, slot, row, at));
      }
    });
    const before = this.#written;
    this.#written = before.slice(0, kept); // until the rest has arrived
    const jobs = [this.#scales.write(scales)];
    if (transfers.length > 0) jobs.push(transfer(this.device, transfers));
    await Promise.all(jobs);
    this.#written = kept === adapters.length ? before : adapters;
  }

  /** How many of these adapters are where they have to be. */
  #keptOf(adapters: readonly Adapter[]): number {
    const differs = adapters.findIndex((adapter, i) => adapter !== this.#written[i]);
    return differs === -1 ? adapters.length : differs;
  }

  dispose(): void {
    this.detach();
    for (const { down, up } of this.#slots.values()) {
      down.dispose();
      up.dispose();
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
): Transfer[] {
  const rows = linear.rows[part]!;
  return [
    { source, sourceOffset: down, target: slot.down, row, column: 0, rows: rank, columns: linear.columns },
    { source, sourceOffset: up, target: slot.up, row: slot.starts[part]!, column, rows, columns: rank },
  ];
}
