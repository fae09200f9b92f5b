// What an adapter file holds, without a model: the shapes are compared with one when it is loaded.

import { FluxError } from "../errors.js";
import { describeLora } from "../lora/description.js";
import { LoraData, openLoraFile } from "../lora/file.js";
import type { LoraFormat } from "../lora/format.js";
import type { LoraPair, UnusedKey } from "../lora/pairs.js";
import { Device } from "../runtime/device.js";
import { alignColumns, formatBytes } from "./terminal.js";

/** A pair of matrices and the layers that it changes. */
export interface LoraPairReport {
  readonly component: LoraPair["component"];
  /** diffusers' names. */
  readonly layers: readonly string[];
  readonly rank: number;
  /** As the file says it; null where it does not. */
  readonly alpha: number | null;
  /** What the pair's product is multiplied by: alpha / rank, or 1. */
  readonly scale: number;
  readonly inputs: number;
  readonly outputs: number;
}

export interface LoraReport {
  readonly path: string;
  readonly format: LoraFormat;
  readonly bytes: number;
  /** Tensors by dtype. */
  readonly dtypes: Readonly<Record<string, number>>;
  /** Every rank that occurs, with the number of its pairs. */
  readonly ranks: Readonly<Record<string, number>>;
  readonly pairs: readonly LoraPairReport[];
  readonly unused: readonly UnusedKey[];
}

/** @throws FluxError `ERR_FLUX_BAD_WEIGHTS` for a file that is damaged, or of which nothing can be used. */
export async function inspectLora(path: string): Promise<LoraReport> {
  const file = await openLoraFile(path);
  // It reads the few numbers that pairs are scaled by.
  using device = Device.open("cpu", { threads: 1 });
  const data = new LoraData(device, file);
  try {
    const { format, pairs, unused } = await describeLora(device, file, data);
    if (pairs.length === 0) {
      throw new FluxError(
        "ERR_FLUX_BAD_WEIGHTS",
        `${file.location} holds no low-rank pair for a layer of FLUX.1. Use a LoRA for FLUX.1.`,
      );
    }
    return {
      path: file.location,
      format,
      bytes: file.header.fileBytes,
      dtypes: tally([...file.header.tensors.values()].map(({ dtype }) => dtype)),
      ranks: tally(pairs.map(({ rank }) => String(rank))),
      pairs: pairs.map(({ component, names, rank, alphaValue, scale, columns, rows }) => ({
        component,
        layers: names,
        rank,
        alpha: alphaValue ?? null,
        scale,
        inputs: columns,
        outputs: rows,
      })),
      unused,
    };
  } finally {
    data.close();
  }
}

function tally(values: readonly string[]): Record<string, number> {
  const counts: Record<string, number> = {};
  for (const value of values) counts[value] = (counts[value] ?? 0) + 1;
  return counts;
}

/** Pairs of the same layer in different blocks are one row. */
export function formatLoraReport({ path, format, bytes, dtypes, pairs, unused }: LoraReport): string {
  const groups = new Map<string, LoraPairReport[]>();
  for (const pair of pairs) {
    const [first, ...others] = pair.layers.map((layer) => layer.replace(/\.\d+\./, ".*."));
    const name = [first, ...others.map((layer) => layer.replace(/^.*\*\./, ""))].join(" + ");
    groups.set(name, [...(groups.get(name) ?? []), pair]);
  }
  const rows = [...groups].map(([name, group]) => [
    name,
    String(group.length),
    span(group.map(({ rank }) => rank)),
    span(group.map(({ alpha }) => alpha ?? "none")),
    span(group.map(({ scale }) => Number(scale.toPrecision(4)))),
  ]);
  const table = alignColumns([["layers", "blocks", "rank", "alpha", "scale"], ...rows], [1, 2, 3, 4]);
  const kinds = Object.keys(dtypes).join(", ");
  const left =
    unused.length === 0
      ? "every tensor is used"
      : `not used:\n${unused.map(({ key, reason }) => `  ${key}: ${reason}`).join("\n")}`;
  return `${path}\nformat ${format}, ${formatBytes(bytes)}, ${kinds}\n${table}\n${left}\n`;
}

/** The values that occur, each once. */
function span(values: readonly (number | string)[]): string {
  return [...new Set(values)].join(", ");
}
