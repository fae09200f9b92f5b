import { shown } from "../arguments.js";
import { badArgument } from "../errors.js";

/** An adapter and how strongly it acts: at 1 as it was trained, at 0 not at all. */
export interface LoraChoice {
  readonly name: string;
  /** 1 by default. */
  readonly weight?: number;
}

/** @throws FluxError `ERR_FLUX_BAD_ARGUMENT` for a name that is none, or a weight that is no number. */
export function checkChoices(choices: readonly LoraChoice[]): readonly Required<LoraChoice>[] {
  if (!Array.isArray(choices)) throw badArgument('loras is a list such as [{ name: "style", weight: 0.8 }]');
  for (const choice of choices as readonly unknown[]) {
    if (choice === null || typeof choice !== "object") {
      throw badArgument('each of loras is an object such as { name: "style", weight: 0.8 }');
    }
    const { name, weight = 1, ...others } = choice as LoraChoice;
    checkNames([name]);
    if (!Number.isFinite(weight))
      throw badArgument(`the weight of ${JSON.stringify(name)} is a number, not ${shown(weight)}`);
    const [other] = Object.keys(others);
    if (other !== undefined)
      throw badArgument(`an adapter has a name and a weight, not ${JSON.stringify(other)}`);
  }
  return choices.map(({ name, weight = 1 }) => ({ name, weight }));
}

/** @throws FluxError `ERR_FLUX_BAD_ARGUMENT` for what is no array of names. */
export function checkNames(names: readonly string[]): readonly string[] {
  if (!Array.isArray(names)) throw badArgument('adapters are named by an array such as ["style"]');
  if (!names.every((name) => typeof name === "string" && name !== "")) {
    throw badArgument("an adapter's name is a string that is not empty");
  }
  return [...names];
}
