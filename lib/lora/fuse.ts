// Adapters as a part of the weights: W + Σ weight · scale · up · down.

import type { TensorSource } from "../loaders/tensor-source.js";
import type { Linear } from "../nn/linear.js";
import { loadParameters } from "../nn/load.js";
import { Parameter } from "../nn/parameter.js";
import type { Buffer } from "../runtime/buffer.js";
import type { Device } from "../runtime/device.js";
import { sizeOf } from "../runtime/dtype.js";
import { clear, gather, HostMemory, transfer } from "../runtime/host-memory.js";
import { type AdapterPiece, memoryOf } from "./adapter.js";
import { startsOf } from "./sites.js";
import { type Applied, paddedRank } from "./slots.js";

/** Where the original weights of a linear are. */
export type Originals = (linear: Linear) => Promise<TensorSource>;

/** A linear's weight that is not yet in the model. */
export interface FusedWeight {
  readonly parameter: Parameter;
  /** See `Linear.measureBounds`. */
  bounds: Buffer | undefined;
}

/** Gives weights back that the model did not take. */
export function releaseFused(weights: ReadonlyMap<Linear, FusedWeight>): void {
  for (const { parameter, bounds } of weights.values()) {
    parameter.release();
    bounds?.dispose();
  }
}

/**
 * The weights of linears with adapters in them, made anew from the checkpoint, so that nothing of an earlier fusion is left.
 * The model itself is not changed. With f32 activations they are f32, whatever the file has: a bf16 weight would lose most of
 * a small difference.
 * @param applied Their memory is there. None: the original weights, byte for byte as they were loaded.
 * @throws FluxError as loading does; nothing stays allocated.
 */
export async function fusedWeights(
  device: Device,
  linears: Iterable<Linear>,
  applied: readonly Applied[],
  originals: Originals,
): Promise<Map<Linear, FusedWeight>> {
  const fused = new Map<Linear, FusedWeight>();
  try {
    for (const linear of linears) {
      const source = await originals(linear);
      const pieces = piecesIn(linear, applied);
      const { spec } = linear.parameter;
      const parameter = new Parameter(pieces.length === 0 ? spec : { ...spec, storing: "stored" });
      const weight: FusedWeight = { parameter, bounds: undefined };
      fused.set(linear, weight);
      await loadParameters(device, [parameter], source);
      if (pieces.length > 0) await addTo(device, linear, parameter, pieces);
      weight.bounds = await linear.measureBounds(device, parameter);
    }
    return fused;
  } catch (error) {
    releaseFused(fused);
    throw error;
  }
}

interface WeightedPiece extends AdapterPiece {
  readonly factor: number;
  readonly memory: HostMemory;
}

function piecesIn(linear: Linear, applied: readonly Applied[]): WeightedPiece[] {
  return applied.flatMap(({ adapter, weight }) =>
    adapter.pieces
      .filter((piece) => piece.linear === linear)
      .map((piece) => ({ ...piece, factor: weight * piece.scale, memory: memoryOf(adapter) })),
  );
}

/** Adds the pieces' products to a weight, and quantises the sum if the model wants it so. */
async function addTo(
  device: Device,
  linear: Linear,
  parameter: Parameter,
  pieces: readonly WeightedPiece[],
): Promise<void> {
  const { shape } = parameter.buffer;
  const owned: Buffer[] = [];
  const buffer = (dtype: "f32" | "bf16", size: readonly number[]) => {
    const made = device.buffer(dtype, size);
    owned.push(made);
    return made;
  };
  try {
    const sum = buffer(device.dtype, shape);
    const factors = pieces.map((piece) => {
      const rank = paddedRank(piece.rank);
      const rows = linear.rows[piece.part]!;
      return {
        piece,
        rows,
        up: buffer(device.dtype, [rows, rank]),
        turned: buffer(device.dtype, [linear.columns, rank]),
      };
    });
    const starts = startsOf(linear);
    using plan = device.record("fuse", (g) => {
      g.copy(parameter.buffer, sum);
      for (const { piece, rows, up, turned } of factors) {
        const part = sum.value.slice(0, starts[piece.part]!, rows);
        g.linear(up, { weight: turned }, { residual: part, into: part });
      }
    });
    await clear(device, owned);
    for (const { piece, up, turned } of factors) await fillFactors(device, linear, piece, up, turned);
    await plan.run();
    if (linear.parameter.spec.storing === "f8e4m3") await quantise(device, sum, parameter);
    else parameter.fill(owned.shift()!); // the sum
  } finally {
    for (const made of owned) made.dispose();
  }
}

/** up as it is, and down turned over and scaled: [K, r], as a linear wants its weight. */
async function fillFactors(
  device: Device,
  { columns, rows }: Linear,
  { rank, part, factor, memory, down, up }: WeightedPiece,
  into: Buffer,
  turned: Buffer,
): Promise<void> {
  const { dtype } = device;
  const host = new HostMemory(device, rank * columns * sizeOf(dtype));
  try {
    const from = { source: memory, begin: down, dtype, rows: rank, columns };
    await gather(device, [{ from, factor, transposed: true, target: host, targetOffset: 0, to: dtype }]);
    await transfer(device, [
      { source: memory, sourceOffset: up, target: into, row: 0, column: 0, rows: rows[part]!, columns: rank },
      { source: host, sourceOffset: 0, target: turned, row: 0, column: 0, rows: columns, columns: rank },
    ]);
  } finally {
    host.dispose();
  }
}

async function quantise(device: Device, sum: Buffer, parameter: Parameter): Promise<void> {
  parameter.fill(device.buffer("f8e4m3", sum.shape));
  parameter.fillScale(device.buffer("f32", [sum.shape[0]!]));
  using plan = device.record("quantise", (g) => {
    g.quantizeRows(sum, { codes: parameter.buffer, scale: parameter.scale! });
  });
  await plan.run();
}
