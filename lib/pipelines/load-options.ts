import {
  checkBoolean,
  checkCallback,
  checkNumber,
  checkOptions,
  checkSignal,
  type OptionNames,
  shown,
} from "../arguments.js";
import { badArgument } from "../errors.js";
import type { FromConfigOptions, FromPretrainedOptions, FromSingleFileOptions } from "./load-onto.js";

const PRETRAINED: OptionNames<FromPretrainedOptions> = {
  device: true,
  precision: true,
  textEncoderPrecision: true,
  attention: true,
  threads: true,
  variant: true,
  loraPoolBytes: true,
  batchConcurrent: true,
  signal: true,
  onProgress: true,
};
const SINGLE_FILE: OptionNames<FromSingleFileOptions> = {
  ...PRETRAINED,
  vae: true,
  clip: true,
  t5: true,
  tokenizers: true,
  config: true,
};
const FROM_CONFIG: OptionNames<FromConfigOptions> = {
  ...PRETRAINED,
  weights: true,
  seed: true,
  tokenizers: true,
};
/** What each way of loading takes; the compiler keeps it complete. */
const NAMES = { fromPretrained: PRETRAINED, fromSingleFile: SINGLE_FILE, fromConfig: FROM_CONFIG };
export type LoadCall = keyof typeof NAMES;

/**
 * Before anything is opened.
 * @throws FluxError `ERR_FLUX_BAD_ARGUMENT` for an option that is none, or whose value is of a wrong kind; the signal's reason.
 */
export function checkLoadOptions(call: LoadCall, options: FromPretrainedOptions): void {
  checkOptions(`${call}()`, options, NAMES[call]);
  checkNumber("loraPoolBytes", options.loraPoolBytes, 0);
  checkCallback("onProgress", options.onProgress);
  checkSignal(options.signal);
  const { batchConcurrent: images } = options;
  if (typeof images === "number" && Number.isInteger(images) && images >= 1) return;
  if (typeof images === "number" || typeof images === "string") {
    throw badArgument(`batchConcurrent is true, false or a whole number of images, not ${shown(images)}`);
  }
  checkBoolean("batchConcurrent", images);
}
