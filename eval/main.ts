/** The program behind `npm run eval`; see README.md beside it. */
import { Command } from "commander";
import { deviceInfo } from "fluxwarp";
import { cacheOptions } from "./cache.js";
import { cacheTable } from "./cache-table.js";
import { type Drawn, drawAll } from "./draw.js";
import { makePrompts, type Prompt } from "./prompts.js";
import {
  accuracyRows,
  cacheRows,
  comparisonRows,
  type EvalRow,
  formatFailures,
  formatRows,
} from "./report.js";
import { score, type Verdict } from "./score.js";
import {
  changeSetting,
  type EvalOptions,
  kindsOf,
  positive,
  type Setting,
  UsageError,
  wholeNumber,
} from "./settings.js";
import type { Cell } from "./sheet.js";

const COLUMNS = 8;

/** What the command line asks for. `model` is the model to use when none is named. */
export function parseOptions(args: readonly string[], model: string | undefined): EvalOptions {
  const command = new Command("npm run eval --")
    .description(
      "Draws held-apart scenes and judges each picture by code: shapes, colours, places, relations.",
    )
    .option("--n <count>", "pictures", "64")
    .option("--seed <number>", "of prompts and noise", "1")
    .option("--kinds <list>", "kinds of scenes, or all", "single,pair")
    .option("--model <folder>", "a model trained on this grammar; by default the one in models/")
    .option("--device <name>", "auto, cpu or cuda", "auto")
    .option("--precision <name>", "f32, bf16 or fp8; by default what the device computes in")
    .option("--steps <count>", "denoising steps", "20")
    .option("--guidance <scale>", "guidance scale", "3.5")
    .option("--lora <file...>", "adapters to load", [])
    .option("--size <width>x<height>", "pixels", "256x256")
    .option(
      "--against <settings...>",
      "other settings, such as steps=4,precision=fp8, each on the same prompts and seeds",
      [],
    )
    .option(
      "--cache <settings...>",
      "caches, each on the same prompts and seeds as none: a threshold, or threshold=0.08,warmupSteps=4,…",
      [],
    )
    .option("--sheet <file>", "contact sheet, or none", "eval.png")
    .option("--shown <count>", "pictures on the contact sheet", "64")
    .parse([...args], { from: "user" });
  const given = command.opts<Record<string, string> & Record<"lora" | "against" | "cache", string[]>>();
  const folder = given.model ?? model;
  if (folder === undefined) throw new UsageError("there is no model in models/: name one with --model");
  const size = /^(\d+)x(\d+)$/.exec(given.size!);
  if (!size) throw new UsageError(`--size is like 256x256, not "${given.size}"`);
  const setting: Setting = {
    model: folder,
    device: given.device!,
    precision: given.precision ?? ownPrecision(given.device!),
    steps: wholeNumber("--steps", given.steps!, 1),
    guidance: positive("--guidance", given.guidance!),
    lora: given.lora,
    cache: "",
  };
  for (const cache of given.cache) cacheOptions(cache);
  const changes = given.against.map((changed) => changeSetting(setting, changed));
  const caches = given.cache.map((cache) => ({ ...setting, cache }));
  if (changes.length > 0 && caches.length > 0)
    throw new UsageError("--cache and --against exclude each other");
  return {
    n: wholeNumber("--n", given.n!, 1),
    seed: wholeNumber("--seed", given.seed!, 0),
    kinds: kindsOf(given.kinds!),
    width: Number(size[1]),
    height: Number(size[2]),
    setting,
    against: [...changes, ...caches],
    comparesCaches: caches.length > 0,
    comparesAdapters: changes.some(({ lora }) => lora.join() !== setting.lora.join()),
    sheet: given.sheet!,
    shown: wholeNumber("--shown", given.shown!, 1),
  };
}

function ownPrecision(device: string): string {
  const gpu = device === "auto" ? deviceInfo().cuda.available : device !== "cpu";
  return gpu ? "bf16" : "f32";
}

/** Draws, judges, prints; returns the rows for bench/results/eval.json. */
export async function evaluate(options: EvalOptions): Promise<EvalRow[]> {
  const prompts = makePrompts(options.n, options.kinds, options.seed);
  const settings = [options.setting, ...options.against];
  const rows: EvalRow[] = [];
  const drawn: Drawn[] = [];
  const verdicts: Verdict[][] = [];
  for (const setting of settings) {
    const pictures = await drawAll(prompts, setting, options);
    const judged = pictures.images.map((image, i) => score(image, prompts[i]!.scene));
    rows.push(...accuracyRows(prompts, judged, pictures, setting), ...cacheRows(pictures, setting));
    drawn.push(pictures);
    verdicts.push(judged);
    const failures = formatFailures(prompts, judged);
    if (failures !== "") console.log(failures);
  }
  options.against.forEach((against, at) => {
    rows.push(...comparisonRows(drawn[0]!, drawn[at + 1]!, [options.setting, against]));
  });
  console.log(formatRows(rows));
  if (options.comparesCaches) console.log(cacheTable(prompts, settings, drawn, verdicts));
  if (options.sheet !== "none") {
    const { writeSheet } = await import("./sheet.js"); // sharp is not needed for figures
    await writeSheet(options.sheet, cellsOf(prompts, drawn, verdicts, options.shown), COLUMNS);
    console.log(`contact sheet: ${options.sheet}`);
  }
  return rows;
}

/** The first pictures; with several settings, a row of the one above the same row of the others. */
function cellsOf(
  prompts: readonly Prompt[],
  drawn: readonly Drawn[],
  verdicts: readonly Verdict[][],
  shown: number,
): Cell[] {
  const cells: Cell[] = [];
  const count = Math.min(shown, prompts.length);
  for (let start = 0; start < count; start += COLUMNS) {
    const end = Math.min(start + COLUMNS, count);
    for (const [which, { images }] of drawn.entries()) {
      for (let i = start; i < end; i++) {
        cells.push({ picture: images[i]!, caption: prompts[i]!.caption, right: verdicts[which]![i]!.all });
      }
    }
  }
  return cells;
}
