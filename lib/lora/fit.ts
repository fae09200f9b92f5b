// Which layers of this model the pairs of a file belong to.

import { FluxError } from "../errors.js";
import { quoted } from "../loaders/safetensors-header.js";
import type { ScaledPair } from "./description.js";
import type { UnusedKey } from "./pairs.js";
import type { Site, Sites } from "./sites.js";

/** A pair and the layers whose rows its up matrix has, one after another. */
export interface FittedPair extends ScaledPair {
  readonly sites: readonly Site[];
}

/**
 * @throws FluxError `ERR_FLUX_BAD_WEIGHTS` that names a tensor whose shape is not this model's; `ERR_FLUX_UNSUPPORTED` for a
 *   control adapter in a model without a control input.
 */
export function fitPairs(
  pairs: readonly ScaledPair[],
  models: Sites,
  location: string,
): { fitted: FittedPair[]; unused: UnusedKey[] } {
  const fitted: FittedPair[] = [];
  const unused: UnusedKey[] = [];
  for (const pair of pairs) {
    const sites = pair.names.map((name) => models[pair.component].get(name));
    const absent = pair.names.find((_, i) => sites[i] === undefined);
    if (absent === undefined) {
      checkShapes(pair, sites as Site[], location);
      fitted.push({ ...pair, sites: sites as Site[] });
      continue;
    }
    for (const entry of [pair.down, pair.up, pair.alpha]) {
      if (entry !== undefined) unused.push({ key: entry.name, reason: `this model has no ${absent}` });
    }
  }
  return { fitted, unused };
}

function checkShapes(pair: ScaledPair, sites: readonly Site[], location: string): void {
  const { linear } = sites[0]!;
  const rows = sites.reduce((sum, site) => sum + site.linear.rows[site.part]!, 0);
  if (pair.names[0] === "x_embedder" && pair.columns === 2 * linear.columns) {
    throw new FluxError(
      "ERR_FLUX_UNSUPPORTED",
      `${location} is a control adapter: ${quoted(pair.down.name)} reads ${pair.columns} channels, the image's and a control ` +
        "image's. Load it into a model with a control input (FLUX.1-Canny-dev, -Depth-dev), or use another adapter.",
    );
  }
  const wrong = (tensor: ScaledPair["down"], expected: string) =>
    new FluxError(
      "ERR_FLUX_BAD_WEIGHTS",
      `${location}: ${quoted(tensor.name)} has shape [${tensor.shape.join(", ")}], but ${pair.names.join(", ")} of this model ` +
        `need ${expected}. Use an adapter that was made for this model.`,
    );
  if (pair.columns !== linear.columns) throw wrong(pair.down, `${linear.columns} columns`);
  if (pair.rows !== rows) throw wrong(pair.up, `${rows} rows`);
}
