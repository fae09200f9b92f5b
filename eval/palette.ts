/** Words, colours and measures of the grammar: the tables of training/data/palette.py. */

export const SHAPES = ["circle", "square", "triangle", "star", "ring", "cross", "diamond", "heart"] as const;
export type Shape = (typeof SHAPES)[number];

/** Red, green and blue in 0..255. */
export type Rgb = readonly [number, number, number];

export const COLOURS = {
  red: [220, 40, 40],
  orange: [245, 140, 30],
  yellow: [250, 215, 50],
  green: [50, 165, 75],
  cyan: [60, 200, 215],
  blue: [45, 90, 215],
  purple: [130, 60, 180],
  pink: [245, 130, 185],
  brown: [130, 80, 45],
  white: [250, 250, 250],
  grey: [140, 140, 145],
  black: [25, 25, 28],
} as const satisfies Record<string, Rgb>;
export type Colour = keyof typeof COLOURS;
export const COLOUR_NAMES = Object.keys(COLOURS) as Colour[];

/** Backgrounds of captions that name none. */
export const QUIET_BACKGROUNDS: readonly Rgb[] = [
  [244, 243, 238],
  [247, 238, 220],
  [220, 232, 243],
  [226, 228, 231],
  [223, 240, 229],
  [232, 226, 243],
  [43, 50, 62],
];

export const TEXTURES = ["plain", "striped", "dotted", "checkered", "gradient"] as const;
export type Texture = (typeof TEXTURES)[number];

export const SIZES = ["small", "medium", "large"] as const;
export type Size = (typeof SIZES)[number];

/** Radius as a share of the shorter side, by number of shapes: small, medium, large. */
export const RADII: Readonly<Record<number, readonly [number, number, number]>> = {
  1: [0.1, 0.17, 0.25],
  2: [0.075, 0.125, 0.175],
  3: [0.065, 0.095, 0.12],
};

/** Shares of width and height. */
export const PLACES = {
  "top left": [0.22, 0.22],
  top: [0.5, 0.22],
  "top right": [0.78, 0.22],
  left: [0.22, 0.5],
  centre: [0.5, 0.5],
  right: [0.78, 0.5],
  "bottom left": [0.22, 0.78],
  bottom: [0.5, 0.78],
  "bottom right": [0.78, 0.78],
} as const;
export type Place = keyof typeof PLACES;
export const PLACE_NAMES = Object.keys(PLACES) as Place[];

/** Least Euclidean RGB distance between a shape and either tone of its background. */
const CONTRAST = 85;
/** How far a texture's second tone goes from the first towards white or black. */
const TEXTURE_STRENGTH = 0.16;

export function distance(a: ArrayLike<number>, b: ArrayLike<number>): number {
  return Math.hypot(a[0]! - b[0]!, a[1]! - b[1]!, a[2]! - b[2]!);
}

/** A texture's other tone: lighter on dark colours, darker on light ones. */
export function secondTone(colour: Rgb): Rgb {
  const [r, g, b] = colour;
  const target = 0.299 * r + 0.587 * g + 0.114 * b < 128 ? 255 : 0;
  const towards = (c: number) => c + (target - c) * TEXTURE_STRENGTH;
  return [towards(r), towards(g), towards(b)];
}

/** Whether a shape of this colour stands out from the background, plain or textured. */
export function contrasts(colour: Rgb, background: Rgb): boolean {
  return Math.min(distance(colour, background), distance(colour, secondTone(background))) >= CONTRAST;
}
