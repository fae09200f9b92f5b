// Oracle: scenes that training/score_cases.py drew and described; every second picture contradicts what is asked in one respect.
import { readFileSync } from "node:fs";
import { join } from "node:path";
import sharp from "sharp";
import { beforeAll, describe, expect, it } from "vitest";
import type { Picture } from "../../eval/components.js";
import { fnv1a, heldOut, type Scene, sceneKey } from "../../eval/scenes.js";
import { score } from "../../eval/score.js";

interface Case {
  scene: Scene;
  key: string;
  heldOut: boolean;
  /** What the picture shows otherwise than asked; empty when it is right. */
  altered: "" | "shape" | "colour" | "count" | "order" | "place" | "size" | "background";
}

const folder = join(import.meta.dirname, "../fixtures/scenes");
const { side, columns, cases } = JSON.parse(readFileSync(join(folder, "scenes.json"), "utf8")) as {
  side: number;
  columns: number;
  cases: Case[];
};
let pictures: Picture[];

beforeAll(async () => {
  const sheet = readFileSync(join(folder, "scenes.png"));
  pictures = await Promise.all(
    cases.map(async (_, i) => {
      const region = {
        left: (i % columns) * side,
        top: Math.floor(i / columns) * side,
        width: side,
        height: side,
      };
      const data = await sharp(sheet).extract(region).removeAlpha().raw().toBuffer();
      return { width: side, height: side, data };
    }),
  );
});

describe("scenes", () => {
  it("hashes as FNV-1a does", () => {
    // Test vectors of the FNV specification (draft-eastlake-fnv, 32 bits).
    expect([fnv1a(""), fnv1a("a"), fnv1a("foobar")]).toEqual([0x811c9dc5, 0xe40c292c, 0xbf9cf968]);
  });

  it("holds out the scenes that training held out", () => {
    expect(cases.map(({ scene }) => sceneKey(scene))).toEqual(cases.map(({ key }) => key));
    expect(cases.map(({ scene }) => heldOut(scene))).toEqual(cases.map((c) => c.heldOut));
    expect(cases.filter((c) => c.heldOut).length).toBe(20);
  });
});

describe("score", () => {
  it("passes the right pictures and no other", () => {
    const passed = cases.map(({ scene }, i) => score(pictures[i]!, scene).all);
    expect(passed).toEqual(cases.map(({ altered }) => altered === ""));
  });

  it.each([
    ["shape", "objects"],
    ["colour", "objects"],
    ["count", "count"],
    ["place", "layout"],
    ["size", "sizes"],
    ["background", "background"],
  ] as const)("names what is wrong: %s", (altered, part) => {
    const chosen = cases.flatMap((c, i) => (c.altered === altered ? [i] : []));
    expect(chosen.length).toBeGreaterThan(0);
    for (const i of chosen) expect(score(pictures[i]!, cases[i]!.scene)[part], cases[i]!.key).toBe(false);
  });

  it("finds nothing right in noise", () => {
    const data = Uint8Array.from({ length: side * side * 3 }, (_, i) => fnv1a(String(i)) & 255);
    expect(cases.map(({ scene }) => score({ width: side, height: side, data }, scene).all)).not.toContain(
      true,
    );
  });
});
