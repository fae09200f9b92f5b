import type { CacheOptions } from "./cache.js";
import type { HostTensor } from "./host-tensor.js";

/** One step of a run, as `onStep` sees it. */
export interface StepEvent {
  /** Steps done: 1 to `total`. */
  readonly step: number;
  readonly total: number;
  /** With `preview`: the packed latents after this step, [B, tokens, 64]. */
  readonly latents?: HostTensor;
}

/** Names are diffusers' FluxPipeline's, in camelCase. */
export interface GenerateOptions {
  /** What to draw; several prompts make a batch. Needed unless `promptEmbeds` and `pooledPromptEmbeds` are given. */
  prompt?: string | readonly string[];
  /** For T5 alone, when it is to read something else than CLIP. */
  prompt2?: string | readonly string[];
  /** What to avoid; used when `trueCfgScale` is above 1. */
  negativePrompt?: string | readonly string[];
  negativePrompt2?: string | readonly string[];
  /** True classifier-free guidance, at twice the time a step. 1 (off) by default. */
  trueCfgScale?: number;
  /** Pixels, a multiple of 16. By default what the checkpoint's VAE was made for. */
  height?: number;
  width?: number;
  /** 28 by default; 4 for checkpoints without a guidance embedding (schnell). */
  numInferenceSteps?: number;
  /** A schedule of one's own: decreasing, in (0, 1]; replaces `numInferenceSteps`. */
  sigmas?: readonly number[];
  /** Embedded guidance; 3.5 by default. Without effect on checkpoints without a guidance embedding. */
  guidanceScale?: number;
  /** Images for each prompt; 1 by default. */
  numImagesPerPrompt?: number;
  /** Decides the noise: the same that `torch.Generator("cpu").manual_seed(seed)` gives. Drawn at random when absent. */
  seed?: number | bigint;
  /** Packed starting noise [B, tokens, 64] instead of a seed. */
  latents?: HostTensor;
  /** T5 tokens, at most 512; by default what the checkpoint's tokenizer says (256 for schnell is usual). */
  maxSequenceLength?: number;
  /** T5's output [B, tokens, width] and CLIP's pooled output [B, width] instead of prompts. */
  promptEmbeds?: HostTensor;
  pooledPromptEmbeds?: HostTensor;
  negativePromptEmbeds?: HostTensor;
  negativePooledPromptEmbeds?: HostTensor;
  /** Caching for this call instead of what `enableCache` said; `false`: none. */
  cache?: CacheOptions | false;
  /** `"image"` (default): FluxImages; `"raw"`: f32 in [0, 1], [B, H, W, 3]; `"latents"`: packed, undecoded. */
  outputType?: "image" | "raw" | "latents";
  /** Ends the run between two steps; the promise rejects with the signal's reason. */
  signal?: AbortSignal;
  /** Called after each step, in order. What it throws ends the run. */
  onStep?: (event: StepEvent) => void;
  /** Give `onStep` the latents too. */
  preview?: boolean;
}
