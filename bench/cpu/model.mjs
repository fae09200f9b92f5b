// What the CPU benchmarks draw: the model that `npm start` uses, at the size and the steps of the foundation's aim.
import { basename } from "node:path";
import { findModel } from "../../scripts/find-model.mjs";

export const SIDE = 256;
export const STEPS = 8;

/** @returns {{ folder: string, title: string }} */
export function benchModel() {
  const folder = findModel();
  if (folder === undefined)
    throw new Error("there is no model to measure with: models/ and ../shared have none");
  return { folder, title: `${basename(folder)} ${SIDE}×${SIDE}, ${STEPS} steps` };
}
