/** Accuracy by kind of scene, as text and as the rows of bench/results/eval.json. */
import { fewerBlocks } from "./cache.js";
import type { Drawn } from "./draw.js";
import type { Prompt } from "./prompts.js";
import { KINDS } from "./scenes.js";
import type { Verdict } from "./score.js";
import { nameOf, type Setting } from "./settings.js";
import { mean, psnr, ssim, wilson } from "./statistics.js";

/** The form of bench/results.mjs's rows, with the number of pictures and the interval. */
export interface EvalRow {
  case: string;
  /** Mean time of a picture. */
  ms: number;
  value: number;
  unit: "% right" | "dB" | "SSIM" | "times fewer blocks";
  peer: null;
  peerValue: null;
  ratio: null;
  floorPercent: null;
  n: number;
  /** 95 % interval of a share, in the unit. */
  low?: number;
  high?: number;
}

export const KIND_TITLES = {
  single: "one shape",
  pair: "two shapes and a relation",
  "two places": "two shapes at places",
  triple: "three shapes",
  same: "several of one kind",
};

const round = (value: number, digits: number) => Number(value.toFixed(digits));

function row(name: string, ms: number, value: number, unit: EvalRow["unit"], n: number): EvalRow {
  const none = { peer: null, peerValue: null, ratio: null, floorPercent: null } as const;
  return { case: name, ms: round(ms, 0), value, unit, ...none, n };
}

/** A row for every kind of scene that occurs. */
export function accuracyRows(
  prompts: readonly Prompt[],
  verdicts: readonly Verdict[],
  drawn: Drawn,
  setting: Setting,
): EvalRow[] {
  return KINDS.flatMap((kind) => {
    const chosen = prompts.flatMap((prompt, i) => (prompt.kind === kind ? [i] : []));
    if (chosen.length === 0) return [];
    const right = chosen.filter((i) => verdicts[i]!.all).length;
    const { low, high } = wilson(right, chosen.length);
    const ms = mean(chosen.map((i) => drawn.times[i]!));
    const name = `${KIND_TITLES[kind]}, ${nameOf({ ...setting, device: drawn.device })}`;
    const percent = (share: number) => round(100 * share, 1);
    const share = row(name, ms, percent(right / chosen.length), "% right", chosen.length);
    return [{ ...share, low: percent(low), high: percent(high) }];
  });
}

/** Mean PSNR (of pictures that differ) and SSIM between two settings' pictures. */
export function comparisonRows(a: Drawn, b: Drawn, settings: readonly [Setting, Setting]): EvalRow[] {
  const [first, second] = settings.map((setting, i) =>
    nameOf({ ...setting, device: (i === 0 ? a : b).device }),
  );
  const name = `${first} against ${second}`;
  const ratios = a.images.map((image, i) => psnr(image, b.images[i]!)).filter(Number.isFinite);
  const likeness = a.images.map((image, i) => ssim(image, b.images[i]!));
  const rows = [row(name, mean(a.times), round(mean(likeness), 4), "SSIM", likeness.length)];
  if (ratios.length > 0) rows.push(row(name, mean(a.times), round(mean(ratios), 2), "dB", ratios.length));
  return rows;
}

/** What a cache saved; nothing without one. */
export function cacheRows(drawn: Drawn, setting: Setting): EvalRow[] {
  if (drawn.reports.length === 0) return [];
  const name = nameOf({ ...setting, device: drawn.device });
  const ratio = round(fewerBlocks(drawn.reports), 3);
  return [row(name, mean(drawn.times), ratio, "times fewer blocks", drawn.reports.length)];
}

export function formatRows(rows: readonly EvalRow[]): string {
  const width = Math.max(...rows.map((r) => r.case.length));
  return rows
    .map((r) => {
      const interval = r.low === undefined ? "" : ` (${r.low} to ${r.high})`;
      return `${r.case.padEnd(width)}  ${r.value} ${r.unit}${interval}, n = ${r.n}, ${r.ms} ms a picture`;
    })
    .join("\n");
}

/** What went wrong with each wrong picture, a line each. */
export function formatFailures(prompts: readonly Prompt[], verdicts: readonly Verdict[]): string {
  const lines = verdicts.flatMap((verdict, i) => {
    if (verdict.all) return [];
    const wrong = Object.entries(verdict).filter(([part, good]) => !good && part !== "all");
    return [
      `  wrong ${wrong.map(([part]) => part).join(", ")}: ${prompts[i]!.caption} (seed ${prompts[i]!.seed})`,
    ];
  });
  return lines.join("\n");
}
