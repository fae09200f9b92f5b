// What every public call checks of its options before anything else: their names, and the kinds of values that would otherwise fail
// far from the call, or be taken for something else.

import { badArgument } from "./errors.js";

/** Every option's name; the compiler keeps it complete. */
export type OptionNames<Options> = Readonly<Record<keyof Required<Options>, true>>;

/** A value as messages show it: text in quotes, so that "4" is told from 4. */
export function shown(value: unknown): string {
  if (typeof value === "string") return JSON.stringify(value);
  if (Array.isArray(value)) return "an array";
  return typeof value === "object" && value !== null ? "an object" : String(value);
}

/**
 * A name that is none of ours is a slip (`precison`, `num_inference_steps`), not something to pass over.
 * @throws FluxError `ERR_FLUX_BAD_ARGUMENT` naming the option that was probably meant.
 */
export function checkOptions<Options extends object>(
  call: string,
  options: Options,
  names: OptionNames<Options>,
): void {
  if (options === null || typeof options !== "object" || Array.isArray(options)) {
    throw badArgument(`${call} takes one object of options, not ${shown(options)}`);
  }
  for (const name of Object.keys(options)) {
    if (Object.hasOwn(names, name)) continue;
    const known = Object.keys(names);
    const meant = nearest(name, known);
    const advice = meant === undefined ? `the options are ${known.join(", ")}` : `did you mean ${meant}?`;
    throw badArgument(`${call} has no option "${name}"; ${advice}`);
  }
}

/** @throws FluxError `ERR_FLUX_BAD_ARGUMENT` unless `value` is a number from `least` on, or undefined. */
export function checkNumber(name: string, value: number | undefined, least: number): void {
  if (value === undefined || (typeof value === "number" && value >= least)) return;
  throw badArgument(`${name} is a number of at least ${least}, not ${shown(value)}`);
}

/** @throws FluxError `ERR_FLUX_BAD_ARGUMENT` unless `value` is true, false or undefined. */
export function checkBoolean(name: string, value: boolean | undefined): void {
  if (value === undefined || typeof value === "boolean") return;
  throw badArgument(`${name} is true or false, not ${shown(value)}`);
}

/** @throws FluxError `ERR_FLUX_BAD_ARGUMENT` unless `value` is a function or undefined. */
export function checkCallback(name: string, value: ((event: never) => void) | undefined): void {
  if (value === undefined || typeof value === "function") return;
  throw badArgument(`${name} is a function, not ${shown(value)}`);
}

/** @throws FluxError `ERR_FLUX_BAD_ARGUMENT` unless `signal` is an AbortSignal or undefined; its reason when it is aborted. */
export function checkSignal(signal: AbortSignal | undefined): void {
  if (signal === undefined) return;
  if (typeof signal?.throwIfAborted !== "function") {
    throw badArgument(`signal is an AbortSignal, such as that of an AbortController, not ${shown(signal)}`);
  }
  signal.throwIfAborted();
}

/** The known name that contains `name`, whatever its case and underscores, or that few slips of the keyboard lead to. */
function nearest(name: string, known: readonly string[]): string | undefined {
  const letters = (text: string) => text.replace(/_/g, "").toLowerCase();
  const asked = letters(name);
  if (asked.length < 3) return undefined;
  const containing = known.find((candidate) => letters(candidate).includes(asked));
  if (containing !== undefined) return containing;
  const [closest] = known
    .map((candidate) => ({ candidate, slips: slipsBetween(asked, letters(candidate)) }))
    .sort((a, b) => a.slips - b.slips);
  return closest !== undefined && closest.slips <= Math.max(1, asked.length / 4)
    ? closest.candidate
    : undefined;
}

/** Letters that were left out, added, mistaken or swapped (Damerau and Levenshtein's distance, alignments only). */
function slipsBetween(a: string, b: string): number {
  const rows = [Array.from({ length: b.length + 1 }, (_, j) => j)];
  for (let i = 1; i <= a.length; i++) {
    const row = [i];
    for (let j = 1; j <= b.length; j++) {
      const mistaken = rows[i - 1]![j - 1]! + (a[i - 1] === b[j - 1] ? 0 : 1);
      const isSwap = i > 1 && j > 1 && a[i - 1] === b[j - 2] && a[i - 2] === b[j - 1];
      const swapped = isSwap ? rows[i - 2]![j - 2]! + 1 : Infinity;
      row.push(Math.min(rows[i - 1]![j]! + 1, row[j - 1]! + 1, mistaken, swapped));
    }
    rows.push(row);
  }
  return rows[a.length]![b.length]!;
}
