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
  /** [P·rank, K]: codes, where the weight is. */
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
 * On a GPU the slot of a quantised weight has down quantised as well, a scale a row that goes into the factor, and up divided
 * by the weight's scales (see `LowRankWeights`).
 */
export class Slots {
  readonly #slots = new Map<Linear, Slot>();
  /** Factors as they are written. */
  readonly #scales: Buffer<"f32">;
  /** Where there are codes: the scales of the rows of down, 1 where these are none; and their products with the factors. */
  readonly #coded: { readonly scales: Buffer<"f32">; readonly products: Buffer<"f32"> } | undefined;
  /** What the matrices hold, in order: what is beyond is stale, and its factors are 0. */
  #written: readonly Adapter[] = [];
  /** What follows each write on the device, for weights whose scales and bounds are these. */
  #settling: { readonly plan: Plan; readonly of: readonly (Buffer | undefined)[] } | undefined;

  private constructor(
    readonly device: Device,
    ranks: ReadonlyMap<Linear, number>,
    owned: Buffer[],
  ) {
    const buffer = <D extends "f32" | "bf16" | "f8e4m3">(dtype: D, shape: readonly number[]) => {
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
        down: buffer(this.#isCoded(linear) ? "f8e4m3" : device.dtype, [parts * rank, linear.columns]),
        up: buffer(device.dtype, [linear.rows.reduce((sum, rows) => sum + rows, 0), rank]),
        firstScale: scales,
        starts,
        bounds: linear.bounds && buffer("f32", [2]),
      });
      scales += parts * rank;
    }
    this.#scales = buffer("f32", [scales]);
    if ([...this.#slots.keys()].some((linear) => this.#isCoded(linear)))
      this.#coded = { scales: buffer("f32", [scales]), products: buffer("f32", [scales]) };
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
      const scales = slots.#coded?.scales;
      await scales?.write(new Float32Array(scales.elements).fill(1));
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
    let bytes = this.#scales.bytes * (this.#coded === undefined ? 1 : 3);
    for (const { down, up, bounds } of this.#slots.values())
      bytes += down.bytes + up.bytes + (bounds?.bytes ?? 0);
    return bytes;
  }

  /** Linears that are recorded from now on have the low-rank branch. */
  attach(): void {
    for (const [linear, slot] of this.#slots) linear.lowRank = this.#branchOf(slot);
  }

  #branchOf({ rank, down, up, firstScale, starts, bounds }: Slot) {
    const scales = this.#coded?.products ?? this.#scales;
    const scale = scales.value.slice(0, firstScale, starts.length * rank);
    return { down, up, scale, starts, bounds };
  }

  /** Whether what lies in the slots depends on weights of these linears. */
  dependsOn(weights: NextWeights): boolean {
    return [...weights.keys()].some((linear) => this.#slots.has(linear) && this.#isCoded(linear));
  }

  /** Whether a linear's branch multiplies codes. */
  #isCoded(linear: Linear): boolean {
    return this.device.kind === "cuda" && linear.scale !== undefined;
  }

  /** How a piece's matrices are treated on their way. */
  #treatmentOf({ linear }: AdapterPiece, next: NextWeights | undefined): Treatment | undefined {
    if (!this.#isCoded(linear)) return undefined;
    const divisor = (next?.get(linear)?.parameter ?? linear.parameter).scale!;
    return { divisor, codeScales: this.#coded!.scales };
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
        const treatment = this.#treatmentOf(piece, next);
        transfers.push(...transfersOf(memoryOf(adapter), piece, slot, row, at, treatment));
      }
    });
    const before = this.#written;
    this.#written = before.slice(0, kept); // until the rest has arrived
    const settling = this.#settlingPlan(next); // before anything is written: it may find no memory
    const jobs = [this.#scales.write(scales)];
    if (transfers.length > 0) jobs.push(transfer(this.device, transfers));
    if (settling !== undefined) jobs.push(settling.run());
    await Promise.all(jobs);
    this.#written = kept === adapters.length ? before : adapters;
  }

  /** Multiplies factors with the scales of codes, and measures what linears can reach with their branches. */
  #settlingPlan(next: NextWeights | undefined): Plan | undefined {
    const bounded = [...this.#slots].flatMap(([linear, slot]) => {
      if (slot.bounds === undefined) return [];
      const { scale } = next?.get(linear)?.parameter ?? linear.parameter;
      const bounds = next?.has(linear) ? next.get(linear)!.bounds : linear.bounds;
      return [{ linear, slot, scale, bounds, into: slot.bounds }];
    });
    const coded = this.#coded;
    if (coded === undefined) return undefined;
    const of = bounded.flatMap(({ scale, bounds }) => [scale, bounds]);
    if (this.#settling?.of.every((buffer, i) => buffer === of[i])) return this.#settling.plan;
    const plan = this.device.record("settle adapters", (g) => {
      g.copy(g.multiply(this.#scales, coded.scales), coded.products);
      for (const { linear, slot, scale, bounds, into } of bounded)
        g.branchBounds({ weight: linear.weight, scale, bounds }, this.#branchOf(slot), into);
    });
    this.#settling?.plan.dispose();
    this.#settling = { plan, of };
    return plan;
  }

  /** How many of these adapters are where they have to be. */
  #keptOf(adapters: readonly Adapter[]): number {
    const differs = adapters.findIndex((adapter, i) => adapter !== this.#written[i]);
    return differs === -1 ? adapters.length : differs;
  }

  dispose(): void {
    this.detach();
    this.#settling?.plan.dispose();
    for (const { down, up, bounds } of this.#slots.values()) {
      down.dispose();
      up.dispose();
      bounds?.dispose();
    }
    this.#scales.dispose();
    this.#coded?.scales.dispose();
    this.#coded?.products.dispose();
  }
}

/** Of codes: what up is divided by, and where the scales of down go. */
interface Treatment {
  readonly divisor: Buffer;
  readonly codeScales: Buffer;
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
  treatment: Treatment | undefined,
): Transfer[] {
  const rows = linear.rows[part]!;
  const start = slot.starts[part]!;
  const ofDown = {
    source,
    sourceOffset: down,
    target: slot.down,
    row,
    column: 0,
    rows: rank,
    columns: linear.columns,
  };
  const ofUp = { source, sourceOffset: up, target: slot.up, row: start, column, rows, columns: rank };
  if (treatment === undefined) return [ofDown, ofUp];
  const { divisor, codeScales } = treatment;
  return [
    { ...ofDown, codeScales, scalesFrom: slot.firstScale + row },
    { ...ofUp, divisor, scalesFrom: start },
  ];
}
