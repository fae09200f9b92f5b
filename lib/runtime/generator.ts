import { shown } from "../arguments.js";
import { badArgument } from "../errors.js";
import type { Device } from "./device.js";
import { type NativeGenerator, native } from "./native.js";

/**
 * The stream of normal numbers that `torch.Generator("cpu").manual_seed(seed)` gives in float32. Successive calls continue
 * the stream, as successive `torch.randn` calls do.
 */
export class Generator {
  readonly #native: NativeGenerator;

  /** @param seed a whole number from 0 to 2^53 − 1, or a bigint below 2^64. */
  constructor(readonly seed: number | bigint) {
    checkSeed(seed);
    this.#native = new (native().Generator)(BigInt(seed));
  }

  /** The values of `torch.randn(count, generator=…)`, made on the device's thread. */
  normal(device: Device, count: number): Promise<Float32Array> {
    return device.native.normal(this.#native, count);
  }
}

/** @throws FluxError `ERR_FLUX_BAD_ARGUMENT` for a seed that is none. */
export function checkSeed(seed: number | bigint): number | bigint {
  const isValid =
    typeof seed === "bigint" ? seed >= 0n && seed < 2n ** 64n : Number.isSafeInteger(seed) && seed >= 0;
  if (isValid) return seed;
  throw badArgument(`seed is a whole number from 0 to 2^53 − 1 (or a bigint below 2^64), not ${shown(seed)}`);
}
