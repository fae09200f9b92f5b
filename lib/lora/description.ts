// What an adapter file holds: its format, its pairs with their scales, and the tensors that do nothing. No weights are read.

import { FluxError } from "../errors.js";
import { quoted } from "../loaders/safetensors-header.js";
import type { Device } from "../runtime/device.js";
import { valuesOf } from "../runtime/host-memory.js";
import type { LoraData, LoraFile } from "./file.js";
import { formatOf, type LoraFormat } from "./format.js";
import { collectPairs, type LoraPair, type UnusedKey } from "./pairs.js";
import { peftScales, scaleOf } from "./scale.js";

/** A pair whose product is multiplied by `scale`. */
export interface ScaledPair extends LoraPair {
  readonly alphaValue: number | undefined;
  readonly scale: number;
}

export interface LoraDescription {
  readonly format: LoraFormat;
  readonly pairs: readonly ScaledPair[];
  readonly unused: readonly UnusedKey[];
}

/** @throws FluxError `ERR_FLUX_BAD_WEIGHTS` that names the tensor that is wrong. */
export async function describeLora(device: Device, file: LoraFile, data: LoraData): Promise<LoraDescription> {
  const { location, header, adapterConfig } = file;
  const { pairs, unused } = collectPairs(header.tensors.values(), location);
  const scales = peftScales(header.metadata, adapterConfig, location);
  const alphas = pairs.flatMap(({ alpha }) => (alpha === undefined ? [] : [alpha]));
  const values = await valuesOf(
    device,
    alphas.map((alpha) => data.matrix(alpha)),
  );
  const alphaOf = new Map(alphas.map((alpha, i) => [alpha, values[i]!]));
  for (const [{ name }, value] of alphaOf) {
    if (Number.isFinite(value)) continue;
    throw new FluxError(
      "ERR_FLUX_BAD_WEIGHTS",
      `${location}: ${quoted(name)} is ${value}. Download or export the adapter again.`,
    );
  }
  return {
    format: formatOf([...header.tensors.keys()]),
    pairs: pairs.map((pair) => {
      const { alpha: alphaValue, scale } = scaleOf(pair, pair.alpha && alphaOf.get(pair.alpha), scales);
      return { ...pair, alphaValue, scale };
    }),
    unused,
  };
}
