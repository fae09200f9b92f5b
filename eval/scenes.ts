/** Scenes as in training/data/scenes.py: what they contain, and the key that decides what training never saw. */
import {
  COLOUR_NAMES,
  COLOURS,
  type Colour,
  contrasts,
  PLACE_NAMES,
  PLACES,
  type Place,
  QUIET_BACKGROUNDS,
  SHAPES,
  type Shape,
  type Size,
  TEXTURES,
  type Texture,
} from "./palette.js";
import type { Random } from "./random.js";

export interface Item {
  shape: Shape;
  colour: Colour;
  size: Size;
  /** Whether the caption says the size. */
  sizeSaid: boolean;
  place: Place;
  placeSaid: boolean;
}

/** "above" is top then bottom, "left of" and "row" go left to right, "column" downwards. */
export type Layout = "at" | "above" | "left of" | "row" | "column";

export interface Scene {
  layout: Layout;
  items: Item[];
  /** Absent where the caption leaves the background's colour open. */
  background: Colour | undefined;
  texture: Texture;
  /** Two or three of one kind, described in the plural. */
  same: boolean;
}

export const KINDS = ["single", "pair", "two places", "triple", "same"] as const;
export type Kind = (typeof KINDS)[number];

const HELD_OUT_SHARE = 10;

/** FNV-1a, 32 bits, over UTF-8 bytes. */
export function fnv1a(text: string): number {
  let value = 2166136261;
  for (const byte of new TextEncoder().encode(text)) value = Math.imul(value ^ byte, 16777619) >>> 0;
  return value;
}

/**
 * What is where, without the background: "medium red circle at top left", "red circle above blue square",
 * "row: red circle, blue star, green ring"; two objects at places stand in the order of PLACES.
 */
export function sceneKey({ layout, items }: Scene): string {
  const names = items.map((item) => `${item.colour} ${item.shape}`);
  if (layout === "at") {
    if (items.length === 1) return `${items[0]!.size} ${names[0]} at ${items[0]!.place}`;
    const order = [...items].sort((a, b) => PLACE_NAMES.indexOf(a.place) - PLACE_NAMES.indexOf(b.place));
    return order.map((item) => `${item.colour} ${item.shape} at ${item.place}`).join(", ");
  }
  if (layout === "row" || layout === "column") return `${layout}: ${names.join(", ")}`;
  return `${names[0]} ${layout} ${names[1]}`;
}

/** A tenth of all keys never occurs in training. */
export function heldOut(scene: Scene): boolean {
  return fnv1a(sceneKey(scene)) % HELD_OUT_SHARE === 0;
}

/** A scene of this kind that training never saw. */
export function sampleHeldOutScene(random: Random, kind: Kind): Scene {
  for (;;) {
    const scene = SAMPLERS[kind](random);
    if (heldOut(scene) && chooseBackground(random, scene)) return scene;
  }
}

function sampleItem(random: Random, sized: number): Item {
  const item: Item = {
    shape: random.pick(SHAPES),
    colour: random.pick(COLOUR_NAMES),
    size: "medium",
    sizeSaid: random.next() < sized,
    place: "centre",
    placeSaid: false,
  };
  if (item.sizeSaid) item.size = random.pick(["small", "large"] as const);
  return item;
}

function sceneOf(layout: Layout, items: Item[], same = false): Scene {
  return { layout, items, background: undefined, texture: "plain", same };
}

const SAMPLERS: Record<Kind, (random: Random) => Scene> = {
  single(random) {
    const item = sampleItem(random, 0.4);
    item.placeSaid = random.next() < 0.45;
    if (item.placeSaid) item.place = random.pick(PLACE_NAMES);
    return sceneOf("at", [item]);
  },
  pair: (random) =>
    sceneOf(random.pick(["above", "left of"] as const), [sampleItem(random, 0.25), sampleItem(random, 0.25)]),
  "two places"(random) {
    const places = random.pair(PLACE_NAMES);
    const items = places.map((place) => ({ ...sampleItem(random, 0.15), place, placeSaid: true }));
    const [[ax, ay], [bx, by]] = [PLACES[places[0]], PLACES[places[1]]];
    // Neighbouring places have room for small shapes only.
    if (Math.abs(ax - bx) + Math.abs(ay - by) < 0.5) {
      for (const item of items) Object.assign(item, { size: "small", sizeSaid: true });
    }
    return sceneOf("at", items);
  },
  triple: (random) =>
    sceneOf(
      random.pick(["row", "row", "column"] as const),
      [0, 1, 2].map(() => sampleItem(random, 0.1)),
    ),
  same(random) {
    const count = random.pick([2, 3]);
    const item = sampleItem(random, 0.2);
    const upright = random.pick([false, false, true]);
    const layout: Layout = count === 2 ? (upright ? "above" : "left of") : upright ? "column" : "row";
    return sceneOf(
      layout,
      Array.from({ length: count }, () => ({ ...item })),
      true,
    );
  },
};

/** Names a background or leaves it open; false when nothing would contrast with the shapes. */
function chooseBackground(random: Random, scene: Scene): boolean {
  const fits = (rgb: readonly [number, number, number]) =>
    scene.items.every((item) => contrasts(COLOURS[item.colour], rgb));
  const named = COLOUR_NAMES.filter((name) => fits(COLOURS[name]));
  if (random.next() < 0.5 && named.length > 0) {
    const common: readonly Colour[] = ["white", "grey", "black"];
    scene.background = random.weighted(
      named,
      named.map((name) => (common.includes(name) ? 3 : 1)),
    );
  } else if (!QUIET_BACKGROUNDS.some(fits)) return false;
  if (random.next() < 0.22) scene.texture = random.pick(TEXTURES.slice(1));
  return true;
}
