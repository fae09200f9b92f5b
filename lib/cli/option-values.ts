import { InvalidArgumentError } from "commander";
import { type CacheOptions, checkCache } from "../pipelines/cache.js";

/** A whole number of at least `minimum`, from an option's text. */
export function wholeNumber(minimum: number): (text: string) => number {
  return (text) => {
    const value = /^\d+$/.test(text) ? Number(text) : Number.NaN;
    if (!Number.isSafeInteger(value) || value < minimum) {
      throw new InvalidArgumentError(`It must be a whole number of at least ${minimum}.`);
    }
    return value;
  };
}

/** A finite number, from an option's text. */
export function decimal(text: string): number {
  const value = text.trim() === "" ? Number.NaN : Number(text);
  if (!Number.isFinite(value)) throw new InvalidArgumentError("It must be a number.");
  return value;
}

/** A seed: any whole number of 64 bits, as torch.Generator takes it. */
export function seed(text: string): bigint {
  const value = /^\d+$/.test(text) ? BigInt(text) : -1n;
  if (value < 0n || value >= 2n ** 64n) {
    throw new InvalidArgumentError("It must be a whole number from 0 to 18446744073709551615.");
  }
  return value;
}

/** Settings of the cache: a threshold, or pairs such as threshold=0.1,warmupSteps=4. */
export function cacheOptions(text: string): CacheOptions {
  const pairs = text.split(",").map((pair) => {
    const [name, value] = pair.includes("=") ? pair.split("=", 2) : ["threshold", pair];
    return [name, name === "type" ? value : decimalOrInfinity(value!)];
  });
  const options = Object.fromEntries(pairs) as CacheOptions;
  try {
    checkCache(options, Infinity); // how many blocks there are, the model knows
  } catch (error) {
    throw new InvalidArgumentError((error as Error).message);
  }
  return options;
}

/** An adapter's file and its weight. */
export interface LoraFlag {
  readonly path: string;
  readonly weight: number;
}

/** style.safetensors or style.safetensors:0.8, added to those before. */
export function loraFlag(text: string, before: readonly LoraFlag[] = []): readonly LoraFlag[] {
  const [, path = text, number] = /^(.+):([^:/\\]*)$/.exec(text) ?? [];
  return [...before, { path, weight: number === undefined ? 1 : decimal(number) }];
}

function decimalOrInfinity(text: string): number {
  return text === "Infinity" ? Infinity : decimal(text);
}
