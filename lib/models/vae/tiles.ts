// Cutting an image into tiles that overlap, and putting their results together again.

import { shown } from "../../arguments.js";
import { badArgument } from "../../errors.js";
import type { Recorder } from "../../runtime/recorder.js";
import type { Value } from "../../runtime/value.js";
import { VAE_SCALE } from "../latents.js";

/** A stretch of one axis. */
export interface Span {
  readonly start: number;
  readonly length: number;
  /** How much of it the span before covers, too. */
  readonly overlap: number;
}

/** Pixels that neighbouring tiles share at least. */
export const TILE_OVERLAP = 128;
/** The least side of a tile. */
export const LEAST_TILE = 256;
/**
 * Of an overlap, the share at either end that is only the better tile's: near its edge a tile lacks what lies beyond, up to 48 pixels
 * away. Between the ends the two are mixed.
 */
const EDGE_SHARE = 3 / 8;

/** @throws FluxError ERR_FLUX_BAD_ARGUMENT for a side that tiles cannot have. */
export function checkTileSize(side: number): number {
  if (Number.isInteger(side) && side >= LEAST_TILE && side % (2 * VAE_SCALE) === 0) return side;
  throw badArgument(
    `a tile's side is a multiple of ${2 * VAE_SCALE} pixels, at least ${LEAST_TILE}, not ${shown(side)}`,
  );
}

/** Spans of at most `side` units that cover [0, length), evenly spread, neighbours sharing at least `overlap`. */
export function spansOf(length: number, side: number, overlap: number): Span[] {
  if (length <= side) return [{ start: 0, length, overlap: 0 }];
  const count = Math.ceil((length - overlap) / (side - overlap));
  const starts = Array.from({ length: count }, (_, i) => Math.round((i * (length - side)) / (count - 1)));
  return starts.map((start, i) => ({
    start,
    length: side,
    overlap: i === 0 ? 0 : starts[i - 1]! + side - start,
  }));
}

/** A rectangle of an image. */
export interface Tile {
  readonly rows: Span;
  readonly columns: Span;
}

/** Tiles of an image, row by row; in the units of `side`. */
export function tilesOf(height: number, width: number, side: number, overlap: number): Tile[] {
  const across = spansOf(width, side, overlap);
  return spansOf(height, side, overlap).flatMap((rows) => across.map((columns) => ({ rows, columns })));
}

function scaled({ start, length, overlap }: Span, scale: number): Span {
  return { start: start * scale, length: length * scale, overlap: overlap * scale };
}

/** The part of x [1, H, W, C] that a tile covers, as a Value of its own; a unit of the tile is `scale` pixels of x. */
export function cutTile(g: Recorder, x: Value, tile: Tile, scale: number): Value {
  const rows = scaled(tile.rows, scale);
  const columns = scaled(tile.columns, scale);
  const part = x.slice(1, rows.start, rows.length).slice(2, columns.start, columns.length);
  const own = g.empty(part.shape, x.dtype);
  g.copy(part, own);
  return own;
}

/**
 * Writes a tile's result into `image` [1, H, W, C], in the order of `tilesOf`: over what the tiles above and to the left have
 * written, with a ramp across the middle of each overlap.
 */
export function blendTile(g: Recorder, result: Value, image: Value, tile: Tile, scale: number): void {
  const rows = scaled(tile.rows, scale);
  const columns = scaled(tile.columns, scale);
  const ramp = (overlap: number) => {
    const edge = Math.floor(overlap * EDGE_SHARE);
    return { edge, length: overlap - 2 * edge };
  };
  const part = image.slice(1, rows.start, rows.length).slice(2, columns.start, columns.length);
  g.blendTile(result, part, { top: ramp(rows.overlap), left: ramp(columns.overlap) });
}
