/** What caches saved and what they changed, side by side. */
import { fewerBlocks } from "./cache.js";
import type { Drawn } from "./draw.js";
import type { Prompt } from "./prompts.js";
import { KIND_TITLES } from "./report.js";
import { KINDS } from "./scenes.js";
import type { Verdict } from "./score.js";
import type { Setting } from "./settings.js";
import { mean, psnr, ssim, wilson } from "./statistics.js";

/** A row a cache, the first without one: what it saved, and what it changed. In Markdown. */
export function cacheTable(
  prompts: readonly Prompt[],
  settings: readonly Setting[],
  drawn: readonly Drawn[],
  verdicts: readonly (readonly Verdict[])[],
): string {
  const kinds = KINDS.filter((kind) => prompts.some((prompt) => prompt.kind === kind));
  const rows = settings.map(({ cache }, at) => {
    const { images, reports } = drawn[at]!;
    const right = kinds.map((kind) => share(verdicts[at]!.filter((_, i) => prompts[i]!.kind === kind)));
    if (reports.length === 0) return ["none", "0", "1 ×", ...right, "–", "–"];
    const original = drawn[0]!.images;
    const ratios = images.map((image, i) => psnr(image, original[i]!)).filter(Number.isFinite);
    return [
      cache,
      mean(reports.map((report) => report.skippedSteps)).toFixed(1),
      `${fewerBlocks(reports).toFixed(2)} ×`,
      ...right,
      mean(images.map((image, i) => ssim(image, original[i]!))).toFixed(4),
      ratios.length === 0 ? "∞" : mean(ratios).toFixed(1),
    ];
  });
  const titles = kinds.map((kind) => `right: ${KIND_TITLES[kind]}`);
  const head = ["cache", "skipped steps", "fewer blocks", ...titles, "SSIM", "PSNR (dB)"];
  return [head, head.map(() => "---"), ...rows].map((cells) => `| ${cells.join(" | ")} |`).join("\n");
}

/** "82.0 % (74.5 to 87.7)". */
function share(verdicts: readonly Verdict[]): string {
  const right = verdicts.filter(({ all }) => all).length;
  const { low, high } = wilson(right, verdicts.length);
  const percent = (value: number) => (100 * value).toFixed(1);
  return `${percent(right / verdicts.length)} % (${percent(low)} to ${percent(high)})`;
}
