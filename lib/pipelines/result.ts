import type { CacheReport } from "./cache.js";
import type { HostTensor } from "./host-tensor.js";
import type { FluxImage } from "./image.js";

/** What `generate` gives; what `outputType` did not ask for is absent. */
export interface GenerateResult {
  /** With `"image"`: prompts in order, each with its images in order. */
  images: FluxImage[];
  /** With `"raw"`: [B, H, W, 3] in [0, 1]. */
  raw?: HostTensor;
  /** With `"latents"`: packed, [B, tokens, 64]. */
  latents?: HostTensor;
  /** The seed that was used: pass it again for the same images. */
  seed: number | bigint;
  /** With a cache: which steps were skipped, and why. */
  cache?: CacheReport;
  /** Where the time went, from this call's turn on. */
  timings: Timings;
}

/** Milliseconds. */
export interface Timings {
  /** Texts and pictures to what the loop reads, and the recording of a shape that is new. */
  encode: number;
  /** All steps. */
  denoise: number;
  /** Latents to pixels in host memory. */
  decode: number;
}
