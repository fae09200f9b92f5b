import type { TileOptions } from "../models/vae/autoencoder.js";
import type { Device } from "../runtime/device.js";
import type { Recorder } from "../runtime/recorder.js";

/** Sides of tiles, in pixels, the fastest first. */
const SIDES = [1024, 768, 512, 384, 256];
/** Of the memory that is free now; the rest is for what else a request allocates. */
const SHARE = 0.9;

/**
 * How the VAE takes an image: as `wanted` says; else whole where its plan's forecast fits into the memory that is free, or in the
 * largest tiles of which that is true.
 */
export function chooseTiles(
  device: Device,
  wanted: number | undefined,
  record: (g: Recorder, options: TileOptions) => void,
): TileOptions {
  if (wanted !== undefined) return { tileSize: wanted };
  const free = SHARE * device.availableMemory();
  const fits = (options: TileOptions) => device.forecast((g) => record(g, options)) <= free;
  if (fits({})) return {};
  const tileSize = SIDES.find((side) => fits({ tileSize: side })) ?? SIDES.at(-1)!;
  return { tileSize };
}
