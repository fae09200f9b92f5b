// What a config says of quantised weights: the mark of folders that `fluxwarp convert` writes, and of those that cannot be read.

import { FluxError } from "../errors.js";
import { JsonFields } from "./json-fields.js";
import { quoted } from "./safetensors-header.js";
import type { WeightSource } from "./weights.js";

/** In the config of a component whose linears are e4m3 codes with an f32 scale for each output channel (`<layer>.weight_scale`). */
export const FP8_MARK = {
  quantization_config: { quant_method: "fluxwarp", weight_dtype: "float8_e4m3fn", scale: "output_channel" },
} as const;

/** Whether a config has that mark. @throws FluxError `ERR_FLUX_UNSUPPORTED` for the mark of another format. */
function isMarked(config: object, path: string): boolean {
  const fields = new JsonFields(config, path);
  if ((fields.raw("quantization_config") ?? null) === null) return false;
  const { quant_method: method, weight_dtype: dtype, scale } = FP8_MARK.quantization_config;
  const mark = fields.object("quantization_config");
  if (mark.raw("quant_method") !== method) throw mark.unsupported("quant_method", `"${method}"`);
  if (mark.raw("weight_dtype") !== dtype) throw mark.unsupported("weight_dtype", `"${dtype}"`);
  if (mark.raw("scale") !== scale) throw mark.unsupported("scale", `"${scale}"`);
  return true;
}

/**
 * Checks that weights are what their config says.
 * @throws FluxError `ERR_FLUX_UNSUPPORTED` for a format that cannot be read, `ERR_FLUX_BAD_WEIGHTS` for fp8 weights that are not, or whose scales are not
 *   there.
 */
export function checkQuantisation(config: object, path: string, source: WeightSource): void {
  if (!isMarked(config, path)) return;
  const codes = [...source.tensors()].filter(({ dtype }) => dtype === "F8_E4M3");
  const wrong = (what: string) =>
    new FluxError(
      "ERR_FLUX_BAD_WEIGHTS",
      `${path} says that the weights are in fp8, but ${what}. Convert the checkpoint again.`,
    );
  if (codes.length === 0) throw wrong(`${source.location} has none in F8_E4M3`);
  const without = codes.find(({ name }) => source.find(`${name}_scale`) === undefined);
  if (without !== undefined) throw wrong(`the scale of ${quoted(without.name)} is not in ${source.location}`);
}
