/** The prompts of an evaluation: scenes that training never saw, with a caption and a seed for the noise each. */
import { describe } from "./captions.js";
import { Random } from "./random.js";
import { type Kind, type Scene, sampleHeldOutScene } from "./scenes.js";

export interface Prompt {
  kind: Kind;
  scene: Scene;
  caption: string;
  seed: number;
}

/** `count` prompts, the kinds in turn; the same for the same seed. */
export function makePrompts(count: number, kinds: readonly Kind[], seed: number): Prompt[] {
  const random = new Random(seed);
  return Array.from({ length: count }, (_, i) => {
    const kind = kinds[i % kinds.length]!;
    const scene = sampleHeldOutScene(random, kind);
    return { kind, scene, caption: describe(random, scene), seed: seed * 100003 + i };
  });
}
