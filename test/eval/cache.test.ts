import type { CacheReport } from "fluxwarp";
import { describe, expect, it } from "vitest";
import { cacheOptions, fewerBlocks } from "../../eval/cache.js";
import { cacheTable } from "../../eval/cache-table.js";
import type { Drawn } from "../../eval/draw.js";
import { makePrompts } from "../../eval/prompts.js";
import { score } from "../../eval/score.js";
import { changeSetting, nameOf, type Setting } from "../../eval/settings.js";

const report = (computedBlocks: number): CacheReport => ({
  computedSteps: 0,
  skippedSteps: 5,
  computedBlocks,
  totalBlocks: 80,
  steps: [],
});

describe("a cache on the command line", () => {
  it("is a threshold or pairs", () => {
    expect(cacheOptions("")).toBeUndefined();
    expect(cacheOptions("0.08")).toEqual({ threshold: 0.08 });
    expect(cacheOptions("threshold=0.1,taylorOrder=1")).toEqual({ threshold: 0.1, taylorOrder: 1 });
    expect(cacheOptions("0.1+warmupSteps=2")).toEqual({ threshold: 0.1, warmupSteps: 2 });
    for (const wrong of ["often", "threshold=", "0.1,,"]) {
      expect(() => cacheOptions(wrong), wrong).toThrow(/a cache is like 0\.08/);
    }
  });

  it("can be put against a setting, and taken away", () => {
    const setting: Setting = {
      ...{ model: "m", device: "cpu", precision: "f32", steps: 20, guidance: 3.5, lora: [] },
      cache: "",
    };
    const cached = changeSetting(setting, "cache=threshold=0.1+warmupSteps=2,steps=28");
    expect(cached).toEqual({ ...setting, cache: "threshold=0.1+warmupSteps=2", steps: 28 });
    expect(nameOf(cached)).toBe("28 steps, f32, cpu, cache threshold=0.1+warmupSteps=2");
    expect(changeSetting(cached, "cache=,steps=20")).toEqual(setting);
  });
});

it("counts blocks over all pictures", () => {
  // 160 blocks instead of 100.
  expect(fewerBlocks([report(80), report(20)])).toBeCloseTo(1.6);
});

it("sets caches beside none", () => {
  const prompts = makePrompts(2, ["single"], 1);
  const flat = (level: number) => ({ width: 16, height: 16, data: new Uint8Array(16 * 16 * 3).fill(level) });
  const drawn = (level: number, reports: CacheReport[]) =>
    ({ images: [flat(level), flat(level)], times: [1, 1], device: "cpu", reports }) as unknown as Drawn;
  const pictures = [drawn(100, []), drawn(110, [report(40), report(40)])];
  const verdicts = pictures.map(({ images }) => images.map((image, i) => score(image, prompts[i]!.scene)));
  const settings = ["", "0.08"].map((cache) => ({ cache }) as Setting);
  // Ten levels apart everywhere: 20·log10(25.5) dB, and (2·100·110 + C1) / (100² + 110² + C1) with C1 = 2.55². None of 2 right:
  // Wilson's interval is 0 to z²/(2 + z²).
  const table = cacheTable(prompts, settings, pictures, verdicts).split("\n");
  expect(table).toHaveLength(4);
  expect(table[0]).toBe("| cache | skipped steps | fewer blocks | right: one shape | SSIM | PSNR (dB) |");
  expect(table[2]).toBe("| none | 0 | 1 × | 0.0 % (0.0 to 65.8) | – | – |");
  expect(table[3]).toBe("| 0.08 | 5.0 | 2.00 × | 0.0 % (0.0 to 65.8) | 0.9955 | 28.1 |");
});
