import { flatten, type Op } from "./op.js";
import { misuse, type Storage, show, type Value } from "./value.js";

/** Where each storage of a recording lies in the arena. */
export interface Placement {
  /** Byte offset by storage; Buffers are not in it. */
  readonly offsets: ReadonlyMap<Storage, number>;
  /** What the arena must hold. */
  readonly arenaBytes: number;
  /** The largest sum of the bytes that are live at one op: no placement can need less. */
  readonly liveBytes: number;
}

/** First write and last use of a stretch of memory, as positions in the flattened list of ops. */
interface Lifetime {
  storages: Storage[];
  bytes: number;
  first: number;
  last: number;
}

/** Every storage starts on such a boundary: what vector loads and tensor maps want. */
const ALIGNMENT = 256;

/**
 * Places all values of a recording in one arena so that what lives at the same time never overlaps: in-place where an op
 * allows it, then largest first into the lowest gap (greedy by size, as in Pisarchyk and Lee, "Efficient memory management
 * for deep neural net inference", 2020).
 */
export function place(ops: readonly Op[]): Placement {
  const flat = [...flatten(ops)];
  const lifetimes = measureLifetimes(flat);
  shareInPlace(flat, lifetimes);
  const blocks = [...new Set(lifetimes.values())];
  const offsets = new Map<Storage, number>();
  const placed: { block: Lifetime; offset: number }[] = [];
  let arenaBytes = 0;
  for (const block of blocks.sort((a, b) => b.bytes - a.bytes || a.first - b.first)) {
    const offset = lowestGap(block, placed);
    placed.push({ block, offset });
    for (const storage of block.storages) offsets.set(storage, offset);
    arenaBytes = Math.max(arenaBytes, offset + aligned(block.bytes));
  }
  return { offsets, arenaBytes, liveBytes: peakOf(blocks, flat.length) };
}

function measureLifetimes(flat: readonly Op[]): Map<Storage, Lifetime> {
  const lifetimes = new Map<Storage, Lifetime>();
  const touch = (value: Value, at: number, write: boolean, op: Op) => {
    if (value.storage.buffer !== undefined) return;
    const known = lifetimes.get(value.storage);
    if (known !== undefined) {
      known.last = at;
    } else if (write) {
      lifetimes.set(value.storage, {
        storages: [value.storage],
        bytes: value.storage.bytes,
        first: at,
        last: at,
      });
    } else {
      throw misuse(`op ${op.kind} at ${at} reads ${show(value)} before anything wrote it`);
    }
  };
  flat.forEach((op, at) => {
    for (const value of Object.values(op.inputs)) touch(value, at, false, op);
    for (const value of Object.values(op.outputs)) touch(value, at, true, op);
  });
  return lifetimes;
}

/** Joins an output with the input whose memory it may take: both whole, of one size, the input read here for the last time. */
function shareInPlace(flat: readonly Op[], lifetimes: Map<Storage, Lifetime>): void {
  flat.forEach((op, at) => {
    for (const [outputName, inputName] of op.inPlace) {
      const output = op.outputs[outputName];
      const input = op.inputs[inputName];
      if (output === undefined || input === undefined || output.storage === input.storage) continue;
      const target = lifetimes.get(output.storage);
      const source = lifetimes.get(input.storage);
      if (target === undefined || source === undefined || target === source) continue;
      const others = Object.entries(op.inputs).filter(([name]) => name !== inputName);
      const readElsewhere = others.some(([, value]) => lifetimes.get(value.storage) === source);
      const exact = output.whole && input.whole && output.bytes === input.bytes;
      if (!exact || readElsewhere || source.last !== at || target.first !== at) continue;
      source.storages.push(...target.storages);
      source.last = target.last;
      for (const storage of target.storages) lifetimes.set(storage, source);
    }
  });
}

function lowestGap(block: Lifetime, placed: readonly { block: Lifetime; offset: number }[]): number {
  const rivals = placed
    .filter(({ block: other }) => other.first <= block.last && block.first <= other.last)
    .sort((a, b) => a.offset - b.offset);
  let offset = 0;
  for (const rival of rivals) {
    if (offset + aligned(block.bytes) <= rival.offset) break;
    offset = Math.max(offset, rival.offset + aligned(rival.block.bytes));
  }
  return offset;
}

function peakOf(blocks: readonly Lifetime[], length: number): number {
  const change = new Float64Array(length + 1);
  for (const block of blocks) {
    change[block.first]! += block.bytes;
    change[block.last + 1]! -= block.bytes;
  }
  let live = 0;
  let peak = 0;
  for (const step of change) {
    live += step;
    peak = Math.max(peak, live);
  }
  return peak;
}

function aligned(bytes: number): number {
  return Math.ceil(bytes / ALIGNMENT) * ALIGNMENT;
}
