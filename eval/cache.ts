/** Caches under evaluation: from the command line's text to the library's options, and what they saved. */
import type { CacheOptions, CacheReport } from "fluxwarp";
import { UsageError } from "./settings.js";
import { mean } from "./statistics.js";

/** "0.08" or "threshold=0.08,warmupSteps=4" ("+" for "," where commas separate something else); "" is no cache. */
export function cacheOptions(text: string): CacheOptions | undefined {
  if (text === "") return undefined;
  const pairs = text.split(/[,+]/).map((pair): [string, number] => {
    const [name, value] = pair.includes("=") ? (pair.split("=", 2) as [string, string]) : ["threshold", pair];
    if (value === "" || Number.isNaN(Number(value))) {
      throw new UsageError(`a cache is like 0.08 or threshold=0.08,warmupSteps=4, not "${text}"`);
    }
    return [name, Number(value)];
  });
  return Object.fromEntries(pairs);
}

/** How many times fewer blocks ran than without a cache, over all pictures. */
export function fewerBlocks(reports: readonly CacheReport[]): number {
  return (
    mean(reports.map((report) => report.totalBlocks)) / mean(reports.map((report) => report.computedBlocks))
  );
}
