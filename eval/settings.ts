/** What an evaluation draws with: one setting, or several that are compared on the same prompts and seeds. */
import { KINDS, type Kind } from "./scenes.js";

export interface Setting {
  model: string;
  device: string;
  precision: string;
  steps: number;
  guidance: number;
  /** Adapter files, each at weight 1. */
  lora: readonly string[];
  /** "0.08", or "threshold=0.08,warmupSteps=4"; "" is none. */
  cache: string;
}

export interface EvalOptions {
  n: number;
  seed: number;
  kinds: readonly Kind[];
  width: number;
  height: number;
  setting: Setting;
  /** Other settings for the same prompts and seeds. */
  against: readonly Setting[];
  /** Those are caches. */
  comparesCaches: boolean;
  /** Some of those have other adapters. */
  comparesAdapters: boolean;
  sheet: string;
  /** Pictures on the contact sheet. */
  shown: number;
}

/** A sentence for whoever typed a wrong option. */
export class UsageError extends Error {}

/**
 * "steps=4,precision=fp8": the given setting with some values replaced; `lora=` takes adapters away, several are
 * separated by "+", as are the settings of a cache; `cache=` takes it away.
 */
export function changeSetting(setting: Setting, changes: string): Setting {
  const changed: Setting = { ...setting };
  for (const change of changes.split(",")) {
    const [name, value] = splitAt(change, "=");
    if (value === undefined) throw new UsageError(`--against takes name=value, not "${change}"`);
    if (name === "steps" || name === "guidance") changed[name] = positive(name, value);
    else if (name === "model" || name === "device" || name === "precision" || name === "cache")
      changed[name] = value;
    else if (name === "lora") changed.lora = value === "" ? [] : value.split("+");
    else
      throw new UsageError(
        `--against knows model, device, precision, steps, guidance, lora and cache, not "${name}"`,
      );
  }
  return changed;
}

function splitAt(text: string, separator: string): [string, string | undefined] {
  const at = text.indexOf(separator);
  return at < 0 ? [text, undefined] : [text.slice(0, at), text.slice(at + 1)];
}

export function positive(name: string, text: string): number {
  const value = Number(text);
  if (!(value > 0 && Number.isFinite(value)))
    throw new UsageError(`${name} is a number above 0, not "${text}"`);
  return value;
}

export function wholeNumber(name: string, text: string, least: number): number {
  const value = Number(text);
  if (!Number.isSafeInteger(value) || value < least) {
    throw new UsageError(`${name} is a whole number of at least ${least}, not "${text}"`);
  }
  return value;
}

export function kindsOf(text: string): Kind[] {
  const kinds = text === "all" ? [...KINDS] : text.split(",");
  for (const kind of kinds) {
    if (!(KINDS as readonly string[]).includes(kind)) {
      throw new UsageError(`--kinds takes ${KINDS.join(", ")} or all, separated by commas, not "${kind}"`);
    }
  }
  return kinds as Kind[];
}

/** "20 steps, f32, cpu", and what else is not the default. */
export function nameOf(setting: Setting): string {
  const lora = setting.lora.map((file) => file.replace(/^.*\//, "").replace(/\.safetensors$/, ""));
  const guidance = setting.guidance === 3.5 ? [] : [`guidance ${setting.guidance}`];
  const cache = setting.cache === "" ? [] : [`cache ${setting.cache}`];
  return [`${setting.steps} steps`, setting.precision, setting.device, ...guidance, ...lora, ...cache].join(
    ", ",
  );
}
