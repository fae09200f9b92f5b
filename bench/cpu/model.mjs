// What the CPU benchmarks draw: the model that is named or else that of `npm start`, at one size and number of steps.
import { basename, resolve } from "node:path";
import { findModel } from "../../scripts/find-model.mjs";

export const SIDE = 256;
export const STEPS = 8;

/**
 * @param {{ model?: string }} options
 * @returns {{ folder: string, name: string, title: string }}
 */
export function benchModel({ model }) {
  const folder = model === undefined ? findModel() : resolve(model);
  if (folder === undefined) throw new Error("there is no model in models/: name one with --model PATH");
  const name = basename(folder);
  return { folder, name, title: `${name} ${SIDE}×${SIDE}, ${STEPS} steps` };
}
