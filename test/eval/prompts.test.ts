import { expect, it } from "vitest";
import { makePrompts } from "../../eval/prompts.js";
import { heldOut, KINDS } from "../../eval/scenes.js";
import { changeSetting, kindsOf, nameOf } from "../../eval/settings.js";

const prompts = makePrompts(250, KINDS, 3);

it("draws the same prompts for the same seed, others for another", () => {
  expect(makePrompts(250, KINDS, 3)).toEqual(prompts);
  expect(makePrompts(250, KINDS, 4).map((p) => p.caption)).not.toEqual(prompts.map((p) => p.caption));
});

it("draws only scenes that training never saw, of each kind as many", () => {
  expect(prompts.every((prompt) => heldOut(prompt.scene))).toBe(true);
  for (const kind of KINDS) expect(prompts.filter((prompt) => prompt.kind === kind).length).toBe(50);
});

it("says in every caption what is scored", () => {
  // Words that a reader of the caption must find; synonyms of the grammar count.
  const colours: Record<string, RegExp> = {
    grey: /gr[ea]y/,
    purple: /purple|violet/,
    cyan: /cyan|turquoise/,
  };
  const shapes: Record<string, RegExp> = {
    circle: /circle|disc|dot/,
    square: /square|box/,
    ring: /ring|hoop|donut/,
    cross: /cross|plus/,
    diamond: /diamond|rhombus/,
  };
  for (const { caption, scene } of prompts) {
    const text = caption.toLowerCase();
    for (const { colour, shape, size, sizeSaid, placeSaid, place } of scene.items) {
      expect(text).toMatch(colours[colour] ?? new RegExp(colour));
      expect(text).toMatch(shapes[shape] ?? new RegExp(shape));
      if (sizeSaid) expect(text).toMatch(size === "small" ? /small|tiny|little/ : /large|big|huge/);
      if (placeSaid && place.startsWith("top")) expect(text).toMatch(/top|upper/);
    }
    if (scene.background) expect(text).toMatch(colours[scene.background] ?? new RegExp(scene.background));
  }
});

it("changes a setting as asked and refuses what it does not know", () => {
  const setting = {
    model: "m",
    device: "cpu",
    precision: "f32",
    steps: 20,
    guidance: 3.5,
    lora: ["a/night.safetensors"],
    cache: "",
  };
  const changed = changeSetting(setting, "steps=4,precision=fp8,lora=");
  expect(changed).toEqual({ ...setting, steps: 4, precision: "fp8", lora: [] });
  expect(nameOf(setting)).toBe("20 steps, f32, cpu, night");
  expect(() => changeSetting(setting, "step=4")).toThrow(/not "step"/);
  expect(() => changeSetting(setting, "steps=none")).toThrow(/above 0/);
  expect(() => kindsOf("single,quadruple")).toThrow(/quadruple/);
});
