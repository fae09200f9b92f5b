// The low-rank pairs of an adapter file, and every tensor that is none, from the header alone.

import { FluxError } from "../errors.js";
import { quoted, type TensorEntry } from "../loaders/safetensors-header.js";
import { type LoraKey, parseKey, reasonFor, T5_REASON } from "./keys.js";
import { clipModules, type NamedModules, transformerModules } from "./modules.js";

/** A down matrix [r, K], an up matrix [N, r], and the modules whose N stacked rows they change. */
export interface LoraPair extends NamedModules {
  readonly component: "transformer" | "text_encoder";
  readonly down: TensorEntry;
  readonly up: TensorEntry;
  readonly alpha: TensorEntry | undefined;
  readonly rank: number;
  readonly columns: number;
  readonly rows: number;
}

/** A tensor that does nothing, and why. */
export interface UnusedKey {
  readonly key: string;
  readonly reason: string;
}

interface Stem {
  readonly key: LoraKey;
  readonly entries: Partial<Record<LoraKey["role"], TensorEntry>>;
}

/**
 * @param location For messages.
 * @throws FluxError `ERR_FLUX_BAD_WEIGHTS` that names the tensor: half a pair, two ranks in one pair, no matrix, no values, or
 *   a dtype that cannot be read.
 */
export function collectPairs(
  tensors: Iterable<TensorEntry>,
  location: string,
): { pairs: LoraPair[]; unused: UnusedKey[] } {
  const unused: UnusedKey[] = [];
  const stems = new Map<string, Stem>();
  for (const entry of tensors) {
    const key = parseKey(entry.name);
    if (key === undefined) {
      unused.push({ key: entry.name, reason: reasonFor(entry.name) });
      continue;
    }
    const stem = stems.get(key.stem) ?? { key, entries: {} };
    stems.set(key.stem, stem);
    const other = stem.entries[key.role];
    if (other === undefined) stem.entries[key.role] = entry;
    else unused.push({ key: entry.name, reason: `the same as ${quoted(other.name)}, which comes first` });
  }
  const pairs: LoraPair[] = [];
  const taken = new Set<string>();
  for (const { key, entries } of diffusersFirst([...stems.values()])) {
    const found = pairOrReason(key, entries, taken, location);
    if (typeof found === "string") {
      for (const { name } of Object.values(entries)) unused.push({ key: name, reason: found });
      continue;
    }
    for (const name of found.names) taken.add(`${found.component} ${name}`);
    pairs.push(found);
  }
  return { pairs, unused };
}

/** Some files hold the same adapter twice; diffusers' own names are the ones that say most. */
function diffusersFirst(stems: readonly Stem[]): Stem[] {
  const isOwn = ({ key }: Stem) => key.stem.startsWith("transformer.");
  return [...stems.filter(isOwn), ...stems.filter((stem) => !isOwn(stem))];
}

function pairOrReason(
  key: LoraKey,
  { down, up, alpha }: Stem["entries"],
  taken: ReadonlySet<string>,
  location: string,
): LoraPair | string {
  const { component } = key;
  if (component === "text_encoder_2") return T5_REASON;
  const modules = component === "transformer" ? transformerModules(key.module) : clipModules(key.module);
  if (modules === undefined) return `${key.module} is not a linear layer of FLUX.1's ${component}`;
  const twice = modules.names.find((name) => taken.has(`${component} ${name}`));
  if (twice !== undefined) return `${twice} is in the file under another name, too`;
  if (down === undefined && up === undefined) return "it scales a pair that the file does not have";
  const bad = (problem: string) =>
    new FluxError("ERR_FLUX_BAD_WEIGHTS", `${location}: ${problem}. Download or export the adapter again.`);
  if (down === undefined || up === undefined) {
    const [there, missing] = down === undefined ? [up!, "down (A)"] : [down, "up (B)"];
    throw bad(`tensor ${quoted(there.name)} has no ${missing} matrix beside it`);
  }
  const [rank, columns] = matrix(down, bad);
  const [rows, upRank] = matrix(up, bad);
  if (rank !== upRank) {
    throw bad(`${quoted(down.name)} has rank ${rank}, but ${quoted(up.name)} has rank ${upRank}`);
  }
  if (alpha?.shape.some((length) => length !== 1)) {
    throw bad(`${quoted(alpha.name)} has shape [${alpha.shape.join(", ")}] and must be one number`);
  }
  return { component, ...modules, down, up, alpha, rank, columns, rows };
}

/** [rows, columns]; a convolution of 1 × 1 is a matrix, too. */
function matrix({ name, dtype, shape }: TensorEntry, bad: (problem: string) => FluxError): [number, number] {
  const [rows, columns, ...rest] = shape;
  if (rows === undefined || columns === undefined || rest.some((length) => length !== 1)) {
    throw bad(`${quoted(name)} has shape [${shape.join(", ")}] and must be a matrix`);
  }
  if (rows === 0 || columns === 0) throw bad(`${quoted(name)} is empty: [${shape.join(", ")}]`);
  if (!["F32", "F16", "BF16", "F8_E4M3", "F8_E5M2"].includes(dtype)) {
    throw bad(`${quoted(name)} has dtype ${dtype} (F32, F16, BF16, F8_E4M3 and F8_E5M2 can be read)`);
  }
  return [rows, columns];
}
