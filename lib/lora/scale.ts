// The factor of each low-rank pair: alpha / rank, from wherever the file says alpha.

import { FluxError } from "../errors.js";
import { JsonFields } from "../loaders/json-fields.js";
import type { LoraPair } from "./pairs.js";

/** What a configuration of PEFT says of one network: for files whose pairs have no alpha of their own. */
interface PeftScale {
  readonly alpha: number | undefined;
  /** By module, the whole name or its end. */
  readonly alphaPattern: ReadonlyMap<string, number>;
  /** Rank-stabilised: alpha / √rank. */
  readonly rslora: boolean;
}

/** Of the networks that a file's configuration speaks of. */
export type PeftScales = Partial<Record<LoraPair["component"], PeftScale>>;

const COMPONENTS = ["transformer", "text_encoder"] as const;

/**
 * From a header's `lora_adapter_metadata` (diffusers: one object, keys such as `transformer.lora_alpha`) or from PEFT's
 * adapter_config.json (for the transformer).
 * @throws FluxError `ERR_FLUX_BAD_WEIGHTS` for a wrong type; `ERR_FLUX_UNSUPPORTED` for a pattern that is no name.
 */
export function peftScales(
  metadata: ReadonlyMap<string, string>,
  adapterConfig: unknown,
  location: string,
): PeftScales {
  const text = metadata.get("lora_adapter_metadata");
  if (text !== undefined) {
    const fields = new JsonFields(parse(text, location), `${location} (lora_adapter_metadata)`);
    const present = COMPONENTS.filter((component) =>
      fields.keys().some((key) => key.startsWith(`${component}.`)),
    );
    return Object.fromEntries(
      present.map((component) => [component, peftScale(fields, `${component}.`, location)]),
    );
  }
  if (adapterConfig === undefined) return {};
  const fields = new JsonFields(adapterConfig, `${location} (adapter_config.json)`);
  return { transformer: peftScale(fields, "", location) };
}

function parse(text: string, location: string): unknown {
  try {
    return JSON.parse(text);
  } catch (error) {
    throw new FluxError(
      "ERR_FLUX_BAD_WEIGHTS",
      `${location}: the header's lora_adapter_metadata is not valid JSON (${(error as Error).message})`,
    );
  }
}

function peftScale(fields: JsonFields, prefix: string, location: string): PeftScale {
  const has = (key: string) => (fields.raw(prefix + key) ?? null) !== null;
  const alphaPattern = new Map<string, number>();
  if (has("alpha_pattern")) {
    const patterns = fields.object(`${prefix}alpha_pattern`);
    for (const key of patterns.keys()) {
      const name = key.replace(/^\^/, "").replace(/\$$/, "").replaceAll("\\.", ".");
      if (!/^[\w.]+$/.test(name)) {
        throw new FluxError(
          "ERR_FLUX_UNSUPPORTED",
          `${location}: alpha_pattern has ${JSON.stringify(key)}; only names of modules, or their ends, are read`,
        );
      }
      alphaPattern.set(name, patterns.number(key));
    }
  }
  return {
    alpha: has("lora_alpha") ? fields.number(`${prefix}lora_alpha`) : undefined,
    alphaPattern,
    rslora: has("use_rslora") && fields.boolean(`${prefix}use_rslora`),
  };
}

/**
 * @param ownAlpha The value of the pair's alpha tensor, if it has one: it is asked first.
 * @returns alpha and the factor; without any alpha the factor is 1.
 */
export function scaleOf(
  { component, names, rank }: LoraPair,
  ownAlpha: number | undefined,
  scales: PeftScales,
): { alpha: number | undefined; scale: number } {
  if (ownAlpha !== undefined) return { alpha: ownAlpha, scale: ownAlpha / rank };
  const config = scales[component];
  const pattern = [...(config?.alphaPattern ?? [])].find(([end]) =>
    names.some((name) => name === end || name.endsWith(`.${end}`)),
  );
  const alpha = pattern?.[1] ?? config?.alpha;
  if (alpha === undefined) return { alpha, scale: 1 };
  return { alpha, scale: alpha / (config?.rslora ? Math.sqrt(rank) : rank) };
}
