/** Captions for scenes, in the forms of training/data/captions.py. */
import type { Colour, Place, Shape, Size, Texture } from "./palette.js";
import type { Random } from "./random.js";
import type { Item, Scene } from "./scenes.js";

const SHAPE_WORDS: Partial<Record<Shape, readonly string[]>> = {
  circle: ["circle", "circle", "circle", "disc", "dot"],
  square: ["square", "square", "square", "box"],
  ring: ["ring", "ring", "ring", "hoop", "donut"],
  cross: ["cross", "cross", "cross", "plus"],
  diamond: ["diamond", "diamond", "diamond", "rhombus"],
};
const PLURALS: Record<string, string> = {
  cross: "crosses",
  box: "boxes",
  plus: "pluses",
  rhombus: "rhombuses",
};
const COLOUR_WORDS: Partial<Record<Colour, readonly string[]>> = {
  grey: ["grey", "grey", "gray"],
  purple: ["purple", "purple", "purple", "violet"],
  cyan: ["cyan", "cyan", "cyan", "turquoise"],
};
const SIZE_WORDS: Partial<Record<Size, readonly string[]>> = {
  small: ["small", "small", "tiny", "little"],
  large: ["large", "large", "big", "huge"],
};
const TEXTURE_WORDS: Partial<Record<Texture, { adjectives: readonly string[]; noun?: string }>> = {
  striped: { adjectives: ["striped"], noun: "stripes" },
  dotted: { adjectives: ["dotted", "polka dot"], noun: "dots" },
  checkered: { adjectives: ["checkered", "chequered"], noun: "checks" },
  gradient: { adjectives: ["gradient"] },
};
const RELATIONS = {
  above: ["above", "above", "above", "over", "on top of"],
  below: ["below", "below", "below", "under", "beneath", "underneath"],
  "left of": ["left of", "left of", "to the left of", "to the left of", "on the left of"],
  "right of": ["right of", "right of", "to the right of", "to the right of", "on the right of"],
} as const;
const INVERSE = { above: "below", "left of": "right of" } as const;
const PLACE_PHRASES: Partial<Record<Place, readonly string[]>> = {
  top: ["at the top", "at the top", "in the top centre"],
  bottom: ["at the bottom", "at the bottom", "in the bottom centre"],
  left: ["on the left", "on the left", "on the left side"],
  right: ["on the right", "on the right", "on the right side"],
  centre: ["in the centre", "in the center", "in the middle"],
};
const PREFIXES = ["a picture of ", "an image of ", "a drawing of ", "an illustration of ", "a photo of "];

/** One of many captions for the scene. */
export function describe(random: Random, scene: Scene): string {
  const background = backgroundPhrase(random, scene);
  const [content, place] = describeContent(random, scene);
  const words =
    place !== "" && random.next() < 0.2 ? [content, background, place] : [content, place, background];
  let caption = words.filter((part) => part !== "").join(" ");
  if (random.next() < 0.1) caption = random.pick(PREFIXES) + caption;
  if (random.next() < 0.15) caption = caption[0]!.toUpperCase() + caption.slice(1);
  return random.next() < 0.08 ? `${caption}.` : caption;
}

function withArticle(words: string): string {
  return `${/^[aeiou]/.test(words) ? "an" : "a"} ${words}`;
}

function name(random: Random, item: Item): string {
  const size = item.sizeSaid ? `${random.pick(SIZE_WORDS[item.size] ?? [item.size])} ` : "";
  const colour = random.pick(COLOUR_WORDS[item.colour] ?? [item.colour]);
  return `${size}${colour} ${random.pick(SHAPE_WORDS[item.shape] ?? [item.shape])}`;
}

function placePhrase(random: Random, place: Place): string {
  const phrases = PLACE_PHRASES[place];
  if (phrases) return random.pick(phrases);
  const corner = random.next() < 0.2 ? place.replace("top", "upper").replace("bottom", "lower") : place;
  return random.pick([`in the ${corner}`, `in the ${corner}`, `in the ${corner} corner`, `at the ${corner}`]);
}

function backgroundPhrase(random: Random, scene: Scene): string {
  const colour = scene.background
    ? random.pick(COLOUR_WORDS[scene.background] ?? [scene.background])
    : undefined;
  const texture = TEXTURE_WORDS[scene.texture];
  if (!texture) {
    if (colour === undefined) return "";
    const phrase = `${withArticle(colour)} background`;
    return random.pick([
      `on ${phrase}`,
      `on ${phrase}`,
      `on ${colour}`,
      `against ${phrase}`,
      `with ${phrase}`,
    ]);
  }
  const adjective = random.pick(texture.adjectives);
  if (colour === undefined) return `on a ${adjective} background`;
  const forms = [
    `on a ${adjective} ${colour} background`,
    `with a ${adjective} ${colour} background`,
    `on ${withArticle(colour)} ${adjective} background`,
  ];
  if (texture.noun) forms.push(`on ${colour} ${texture.noun}`);
  return random.pick(forms);
}

function describeContent(random: Random, scene: Scene): [content: string, place: string] {
  if (scene.same) return [describeSame(random, scene), ""];
  const phrases = scene.items.map((item) => withArticle(name(random, item)));
  if (scene.layout !== "at") {
    return [
      phrases.length === 2 ? describePair(random, scene, phrases) : describeTriple(random, scene, phrases),
      "",
    ];
  }
  const places = scene.items.map((item) => (item.placeSaid ? placePhrase(random, item.place) : ""));
  if (phrases.length === 1) return [phrases[0]!, places[0]!];
  return [phrases.map((phrase, i) => `${phrase} ${places[i]}`).join(" and "), ""];
}

function describePair(random: Random, scene: Scene, [first, second]: string[]): string {
  const layout = scene.layout as keyof typeof INVERSE;
  const draw = random.next();
  if (layout === "left of" && draw < 0.12) return `${first} and ${second}`;
  if (layout === "left of" && draw < 0.18) return `${first} ${random.pick(["next to", "beside"])} ${second}`;
  const turned = random.next() < 0.5;
  const phrase = random.pick<string>(RELATIONS[turned ? INVERSE[layout] : layout]);
  const [a, b] = turned ? [second, first] : [first, second];
  return `${a} ${random.next() < 0.06 ? "is " : ""}${phrase} ${b}`;
}

function describeTriple(random: Random, scene: Scene, [a, b, c]: string[]): string {
  if (scene.layout === "column") {
    return `${a}, ${b} and ${c} ${random.pick(["in a column", "stacked from top to bottom", "from top to bottom"])}`;
  }
  if (random.next() < 0.2) return `${b} between ${a} and ${c}`;
  return `${a}, ${b} and ${c}${random.pick(["", "", " in a row", " side by side", " from left to right"])}`;
}

function describeSame(random: Random, scene: Scene): string {
  const words = name(random, scene.items[0]!).split(" ");
  const noun = words.pop()!;
  const number = random.pick(scene.items.length === 2 ? ["two", "two", "a pair of"] : ["three", "three"]);
  const upright = scene.layout === "column" || scene.layout === "above";
  const ending = upright ? " in a column" : random.pick(["", "", " in a row", " side by side"]);
  return `${number} ${[...words, PLURALS[noun] ?? `${noun}s`].join(" ")}${ending}`;
}
