import type { Linear } from "../nn/linear.js";
import type { Model } from "../nn/model.js";

/** A layer that adapters can change: one of the stacked parts of a Linear. */
export interface Site {
  readonly linear: Linear;
  readonly part: number;
}

/** The networks that adapters can change, and their layers by name. */
export type Sites = Readonly<Record<"transformer" | "text_encoder", ReadonlyMap<string, Site>>>;

export function sitesOf(transformer: Model, clip: Model): Sites {
  const layers = (model: Model) =>
    new Map(
      model.linears.flatMap((linear) =>
        linear.names.map((name, part): [string, Site] => [name, { linear, part }]),
      ),
    );
  return { transformer: layers(transformer), text_encoder: layers(clip) };
}

/** The first row of each part of a Linear. */
export function startsOf({ rows }: Linear): number[] {
  const starts: number[] = [];
  let start = 0;
  for (const width of rows) {
    starts.push(start);
    start += width;
  }
  return starts;
}
