/**
 * Judges a picture by code alone: are the asked shapes there, in the asked colours, places, sizes and relations?
 *
 * The background's tones are read from the picture's frame; what differs from all of them is foreground. Its connected
 * components are the objects: colour by the palette, shape by overlap with templates fitted to the bounding box. The same,
 * step by step and with the same numbers, as training/score.py.
 */
import { findComponents, type Mask, type Picture } from "./components.js";
import {
  COLOUR_NAMES,
  COLOURS,
  type Colour,
  distance,
  PLACES,
  type Place,
  RADII,
  type Rgb,
  SHAPES,
  type Shape,
  SIZES,
  secondTone,
} from "./palette.js";
import type { Item, Scene } from "./scenes.js";
import { isInside } from "./shapes.js";

/** Pixels at the picture's rim that count as background. */
const FRAME = 3;
/** Share of the frame from which a colour counts as a tone of the background. */
const TONE_SHARE = 0.01;
/** RGB distance from every tone. */
const FOREGROUND = 42;
/** Share of the picture below which a component is ignored. */
const SMALLEST = 0.0025;
/** RGB distance to the palette's colour. */
const COLOUR_LIMIT = 60;
/** Side of shape templates. */
const TEMPLATE = 32;
/** Least intersection over union with a template. */
const OVERLAP = 0.78;
/** Largest ratio of a component's aspect to its template's. */
const ASPECT = 1.22;

/** An object found in a picture; "?" where nothing of the grammar fits. */
export interface Found {
  shape: Shape | "?";
  colour: Colour | "?";
  /** Middle of the bounding box, shares of width and height. */
  x: number;
  y: number;
  /** Radius as a share of the shorter side. */
  size: number;
}

export interface Verdict {
  /** As many objects as asked. */
  count: boolean;
  /** The asked shapes in the asked colours. */
  objects: boolean;
  /** At the asked places, in the asked relation. */
  layout: boolean;
  sizes: boolean;
  background: boolean;
  /** All of them. */
  all: boolean;
}

/** Whether the picture shows the scene. */
export function score(picture: Picture, scene: Scene): Verdict {
  const tones = backgroundTones(picture);
  const found = findObjects(picture, tones);
  const { items } = scene;
  const verdict = { count: found.length === items.length, objects: false, layout: false, sizes: false };
  if (verdict.count) {
    for (const order of permutations(found)) {
      const fits = order.every((f, i) => f.shape === items[i]!.shape && f.colour === items[i]!.colour);
      if (!fits) continue;
      const layout = isLaidOut(scene, order);
      const sizes = order.every((f, i) => !items[i]!.sizeSaid || hasSize(f, items[i]!, items.length));
      if (!verdict.objects || layout) Object.assign(verdict, { objects: true, layout, sizes });
      if (layout && sizes) break;
    }
  }
  const background =
    scene.background === undefined || tones.some((tone) => nearestColour(tone).name === scene.background);
  const all = verdict.count && verdict.objects && verdict.layout && verdict.sizes && background;
  return { ...verdict, background, all };
}

/** Mean colours of the frame, grouped by their high 4 bits, most frequent first. */
function backgroundTones({ width, height, data }: Picture): Rgb[] {
  const groups = new Map<number, { count: number; sum: [number, number, number] }>();
  let total = 0;
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      if (x >= FRAME && x < width - FRAME && y >= FRAME && y < height - FRAME) continue;
      const at = (y * width + x) * 3;
      const [r, g, b] = [data[at]!, data[at + 1]!, data[at + 2]!];
      const key = (r >> 4) * 256 + (g >> 4) * 16 + (b >> 4);
      const group = groups.get(key) ?? { count: 0, sum: [0, 0, 0] };
      groups.set(key, group);
      group.count++;
      group.sum[0] += r;
      group.sum[1] += g;
      group.sum[2] += b;
      total++;
    }
  }
  return [...groups.values()]
    .filter(({ count }) => count >= TONE_SHARE * total)
    .sort((a, b) => b.count - a.count)
    .map(({ count, sum: [r, g, b] }): Rgb => [r / count, g / count, b / count]);
}

/** The objects of a picture whose background has these tones. */
function findObjects(picture: Picture, tones: readonly Rgb[]): Found[] {
  const { width, height, data } = picture;
  const foreground = new Uint8Array(width * height);
  // A texture's second tone may not reach the frame: dots stand apart.
  const background = [...tones, ...(tones.length === 1 ? tones.map(secondTone) : [])];
  for (let i = 0; i < foreground.length; i++) {
    const rgb = data.subarray(i * 3, i * 3 + 3);
    foreground[i] = background.every((tone) => distance(rgb, tone) > FOREGROUND) ? 1 : 0;
  }
  return findComponents({ width, height, data: foreground }, SMALLEST * width * height).map((component) =>
    describeComponent(component, picture),
  );
}

interface Box {
  top: number;
  bottom: number;
  left: number;
  right: number;
}

function boundingBox({ width, height, data }: Mask): Box {
  const box = { top: height, bottom: 0, left: width, right: 0 };
  for (let i = 0; i < data.length; i++) {
    if (!data[i]) continue;
    const [y, x] = [Math.floor(i / width), i % width];
    box.top = Math.min(box.top, y);
    box.bottom = Math.max(box.bottom, y + 1);
    box.left = Math.min(box.left, x);
    box.right = Math.max(box.right, x + 1);
  }
  return box;
}

function describeComponent(mask: Mask, picture: Picture): Found {
  const box = boundingBox(mask);
  const { name, distance: far } = nearestColour(medianColour(mask, picture));
  const { shape, overlap } = bestShape(mask, box);
  const [boxWidth, boxHeight] = [box.right - box.left, box.bottom - box.top];
  const side = Math.min(mask.width, mask.height);
  return {
    shape: overlap >= OVERLAP ? shape : "?",
    colour: far <= COLOUR_LIMIT ? name : "?",
    x: (box.left + box.right) / 2 / mask.width,
    y: (box.top + box.bottom) / 2 / mask.height,
    size: Math.max(boxWidth, boxHeight) / templates()[shape].extent / side,
  };
}

/** Median of each channel over the pixels whose four neighbours belong to the component too, where there are enough. */
function medianColour({ width, height, data }: Mask, picture: Picture): number[] {
  const all: number[] = [];
  const core: number[] = [];
  for (let i = 0; i < data.length; i++) {
    if (!data[i]) continue;
    all.push(i);
    const [y, x] = [Math.floor(i / width), i % width];
    const surrounded =
      (y === 0 || data[i - width]) &&
      (y === height - 1 || data[i + width]) &&
      (x === 0 || data[i - 1]) &&
      (x === width - 1 || data[i + 1]);
    if (surrounded) core.push(i);
  }
  const pixels = core.length >= 16 ? core : all;
  return [0, 1, 2].map((channel) => {
    const values = Uint8Array.from(pixels, (i) => picture.data[i * 3 + channel]!).sort();
    return values[Math.floor((values.length - 1) / 2)]!;
  });
}

function nearestColour(rgb: ArrayLike<number>): { name: Colour; distance: number } {
  return COLOUR_NAMES.map((name) => ({ name, distance: distance(rgb, COLOURS[name]) })).reduce((a, b) =>
    b.distance < a.distance ? b : a,
  );
}

interface Template {
  mask: Uint8Array;
  aspect: number;
  /** The longer side of the bounding box, in radii. */
  extent: number;
}

let made: Record<Shape, Template> | undefined;

/** Every shape over its bounding box, sampled from a fine raster. */
function templates(): Record<Shape, Template> {
  made ??= Object.fromEntries(SHAPES.map((shape) => [shape, makeTemplate(shape)])) as Record<Shape, Template>;
  return made;
}

function makeTemplate(shape: Shape): Template {
  const [fine, range] = [512, 2.6];
  const axis = (i: number) => ((i + 0.5) / fine) * range - range / 2;
  const data = Uint8Array.from({ length: fine * fine }, (_, i) =>
    isInside(shape, axis(i % fine), axis(Math.floor(i / fine))) ? 1 : 0,
  );
  const mask = { width: fine, height: fine, data };
  const box = boundingBox(mask);
  const [width, height] = [box.right - box.left, box.bottom - box.top];
  return {
    mask: resample(mask, box),
    aspect: width / height,
    extent: (Math.max(width, height) / fine) * range,
  };
}

/** The part of a mask inside a box at TEMPLATE × TEMPLATE, nearest neighbour. */
function resample(mask: Mask, box: Box): Uint8Array {
  const out = new Uint8Array(TEMPLATE * TEMPLATE);
  for (let i = 0; i < out.length; i++) {
    const y = Math.floor(box.top + ((Math.floor(i / TEMPLATE) + 0.5) * (box.bottom - box.top)) / TEMPLATE);
    const x = Math.floor(box.left + (((i % TEMPLATE) + 0.5) * (box.right - box.left)) / TEMPLATE);
    out[i] = mask.data[y * mask.width + x]!;
  }
  return out;
}

function bestShape(mask: Mask, box: Box): { shape: Shape; overlap: number } {
  const fitted = resample(mask, box);
  const aspect = (box.right - box.left) / (box.bottom - box.top);
  let best: { shape: Shape; overlap: number } = { shape: "circle", overlap: 0 };
  for (const shape of SHAPES) {
    const template = templates()[shape];
    const ratio = aspect / template.aspect;
    if (Math.max(ratio, 1 / ratio) > ASPECT) continue;
    let [both, either] = [0, 0];
    for (let i = 0; i < fitted.length; i++) {
      both += fitted[i]! & template.mask[i]!;
      either += fitted[i]! | template.mask[i]!;
    }
    if (both / either > best.overlap) best = { shape, overlap: both / either };
  }
  return best;
}

/** 0, 1 or 2: before, in or behind the middle fifth of an axis. */
function third(value: number): number {
  return value < 0.4 ? 0 : value > 0.6 ? 2 : 1;
}

function isAt(found: Found, place: Place): boolean {
  const [x, y] = PLACES[place];
  return third(found.x) === third(x) && third(found.y) === third(y);
}

/** Whether objects, in the order of the scene's items, stand as the scene says. */
function isLaidOut({ layout, items }: Scene, found: readonly Found[]): boolean {
  if (layout === "at") return found.every((f, i) => !items[i]!.placeSaid || isAt(f, items[i]!.place));
  const upright = layout === "above" || layout === "column";
  const along = found.map((f) => (upright ? f.y : f.x));
  const across = found.map((f) => (upright ? f.x : f.y));
  if (Math.max(...across) - Math.min(...across) > 0.15) return false;
  return along.every((value, i) => i === 0 || value - along[i - 1]! > 0.1);
}

function hasSize(found: Found, item: Item, count: number): boolean {
  const [small, medium, large] = RADII[count]!;
  const index =
    Number(found.size > Math.sqrt(small * medium)) + Number(found.size > Math.sqrt(medium * large));
  return SIZES[index] === item.size;
}

function permutations<T>(items: readonly T[]): T[][] {
  if (items.length <= 1) return [[...items]];
  return items.flatMap((item, i) =>
    permutations([...items.slice(0, i), ...items.slice(i + 1)]).map((rest) => [item, ...rest]),
  );
}
