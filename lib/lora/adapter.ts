// An adapter in host memory: every layer's matrices in the form in which slots take them.

import { FluxError } from "../errors.js";
import { quoted } from "../loaders/safetensors-header.js";
import type { Linear } from "../nn/linear.js";
import type { Device } from "../runtime/device.js";
import { elementsOf, sizeOf } from "../runtime/dtype.js";
import { columnsInUse, type Gather, gather, HostMemory } from "../runtime/host-memory.js";
import { describeLora, type LoraDescription } from "./description.js";
import { LoraData, type LoraFile } from "./file.js";
import { type FittedPair, fitPairs } from "./fit.js";
import type { UnusedKey } from "./pairs.js";
import type { Site, Sites } from "./sites.js";

/** One layer's pair: W·x becomes W·x + scale·up·down·x. */
export interface AdapterPiece extends Site {
  readonly rank: number;
  readonly scale: number;
  /** Where down [rank, K] and up [rows, rank] begin in the adapter's memory, in bytes. */
  readonly down: number;
  readonly up: number;
}

/** A file that was read. Its memory may be given back and filled again. */
export interface Adapter {
  readonly location: string;
  /** Of a file on disk; see LoraFile. */
  readonly identity: string | undefined;
  readonly description: LoraDescription;
  /** Tensors that do nothing in this model. */
  readonly unused: readonly UnusedKey[];
  readonly pieces: readonly AdapterPiece[];
  readonly bytes: number;
  memory: HostMemory | undefined;
}

/** Matrices begin at multiples of this: the width of a vector, and of what DMA likes. */
const ALIGNMENT = 64;

/**
 * Reads a file for a device's models; the weights are read and converted beside the device's thread and the event loop.
 * @throws FluxError `ERR_FLUX_BAD_WEIGHTS` that names the tensor: see `collectPairs` and `fitPairs`; or values that are not
 *   finite, or nothing in the file that this model has.
 */
export async function readAdapter(device: Device, sites: Sites, file: LoraFile): Promise<Adapter> {
  const data = new LoraData(device, file);
  try {
    const description = await describeLora(device, file, data);
    const { fitted, unused } = fitPairs(description.pairs, sites, file.location);
    const allUnused = [...description.unused, ...unused];
    if (fitted.length === 0) throw nothingUsable(file, allUnused);
    const shares = (await Promise.all(fitted.map((pair) => sharesOf(device, pair, data)))).flat();
    const { pieces, bytes } = layOut(device, shares);
    const memory = new HostMemory(device, bytes);
    try {
      await fill(device, shares, pieces, memory, data, file);
    } catch (error) {
      memory.dispose();
      throw error;
    }
    const { location, identity } = file;
    return { location, identity, description, unused: allUnused, pieces, bytes, memory };
  } finally {
    data.close();
  }
}

/** What one layer takes of a pair. */
interface Share {
  readonly pair: FittedPair;
  readonly site: Site;
  /** Its rows of the up matrix. */
  readonly firstRow: number;
  readonly rows: number;
  /** The columns of the up matrix, and rows of the down matrix, that it needs; all when absent. */
  readonly ranks: Int32Array | undefined;
}

/**
 * The layers of a pair. Where one pair changes several (q, k and v), a layer takes only the ranks in which its rows of the up
 * matrix hold anything: adapters of separate layers that were written as one fused pair come apart again.
 */
async function sharesOf(device: Device, pair: FittedPair, data: LoraData): Promise<Share[]> {
  const { sites, rank } = pair;
  let firstRow = 0;
  const shares = sites.map((site): Share => {
    const rows = site.linear.rows[site.part]!;
    const share = { pair, site, firstRow, rows, ranks: undefined };
    firstRow += rows;
    return share;
  });
  if (shares.length === 1) return shares;
  const ends = shares.map((share) => share.firstRow + share.rows);
  const used = await columnsInUse(device, data.matrix(pair.up), ends);
  return shares
    .map((share, i) => (used[i]!.length === rank ? share : { ...share, ranks: used[i]! }))
    .filter(({ ranks }) => ranks?.length !== 0);
}

function rankOf({ ranks, pair }: Share): number {
  return ranks?.length ?? pair.rank;
}

/** Where each share's matrices go in the adapter's memory. */
function layOut(device: Device, shares: readonly Share[]): { pieces: AdapterPiece[]; bytes: number } {
  let bytes = 0;
  const place = (shape: readonly number[]) => {
    const begin = bytes;
    bytes += Math.ceil((elementsOf(shape) * sizeOf(device.dtype)) / ALIGNMENT) * ALIGNMENT;
    return begin;
  };
  const pieces = shares.map((share): AdapterPiece => {
    const { site, pair, rows } = share;
    const rank = rankOf(share);
    const down = place([rank, pair.columns]);
    return { ...site, rank, scale: pair.scale, down, up: place([rows, rank]) };
  });
  // A file whose up matrices are all zeros takes no memory, but an allocation has at least a byte.
  return { pieces, bytes: Math.max(bytes, ALIGNMENT) };
}

async function fill(
  device: Device,
  shares: readonly Share[],
  pieces: readonly AdapterPiece[],
  memory: HostMemory,
  data: LoraData,
  { location }: LoraFile,
): Promise<void> {
  const names: string[] = [];
  const requests = shares.flatMap((share, i): Gather[] => {
    const { pair, ranks } = share;
    names.push(pair.down.name, pair.up.name);
    const to = { target: memory, to: device.dtype };
    const down = { from: data.matrix(pair.down), rows: ranks, ...to, targetOffset: pieces[i]!.down };
    const band = data.matrix(pair.up, share.firstRow, share.rows);
    const up = { from: band, rows: swapOf(share), columns: ranks, ...to };
    return [down, { ...up, targetOffset: pieces[i]!.up }];
  });
  const bad = await gather(device, requests);
  const damaged = new Set(names.filter((_, i) => bad[i]! > 0));
  if (damaged.size === 0) return;
  throw new FluxError(
    "ERR_FLUX_BAD_WEIGHTS",
    `${location}: these tensors hold NaN or infinite values: ${[...damaged].map(quoted).join(", ")}. ` +
      "Download or export the adapter again.",
  );
}

/** The order of its rows, where it is not the file's. */
function swapOf({ pair, rows }: Share): Int32Array | undefined {
  if (!pair.swapped) return undefined;
  return Int32Array.from({ length: rows }, (_, row) => (row + rows / 2) % rows);
}

function nothingUsable({ location, header }: LoraFile, unused: readonly UnusedKey[]): FluxError {
  const first = unused.slice(0, 3).map(({ key, reason }) => `${quoted(key)} (${reason})`);
  const what =
    header.tensors.size === 0
      ? "it holds no tensors"
      : `none of its ${header.tensors.size} tensors changes this model, such as ${first.join(", ")}`;
  return new FluxError(
    "ERR_FLUX_BAD_WEIGHTS",
    `${location} is not an adapter that can be used here: ${what}. Use a LoRA for FLUX.1.`,
  );
}

/** @throws FluxError `ERR_FLUX_DISPOSED` when it was given back, with the pipeline that it belonged to. */
export function memoryOf({ memory, location }: Adapter): HostMemory {
  if (memory !== undefined) return memory;
  throw new FluxError("ERR_FLUX_DISPOSED", `${location} is no longer in memory; load the pipeline again`);
}

/** The rank that an adapter needs in each part of each Linear. */
export function ranksOf({ pieces }: Adapter): Map<Linear, number[]> {
  const ranks = new Map<Linear, number[]>();
  for (const { linear, part, rank } of pieces) {
    const parts = ranks.get(linear) ?? linear.rows.map(() => 0);
    parts[part]! += rank;
    ranks.set(linear, parts);
  }
  return ranks;
}
