import type { LoraChoice } from "../lora/choices.js";
import type { CacheOptions } from "./cache.js";
import type { ImageInput } from "./conditioning/picture.js";
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
  /**
   * A picture to start from (dev, schnell, Canny, Depth), to repaint where `maskImage` is white (also Fill), or to edit (Kontext).
   * Several are one for each prompt; for Kontext they are references that every prompt sees.
   */
  image?: ImageInput | readonly ImageInput[];
  /** What of `image` is repainted: white; black is kept. Of the same proportions as the picture. */
  maskImage?: ImageInput | readonly ImageInput[];
  /** Edges for FLUX.1-Canny-dev, a depth map for FLUX.1-Depth-dev. */
  controlImage?: ImageInput | readonly ImageInput[];
  /**
   * How far the result may be from `image`, above 0 and at most 1: that share of the steps is run. 0.6 by default, 1 for Fill. At 1
   * the picture is noised away entirely.
   */
  strength?: number;
  /**
   * Draws only the surroundings of the mask, this many pixels around it, at the full size, and pastes what is drawn into the
   * picture, which keeps its size.
   */
  paddingMaskCrop?: number;
  /** Pixels of an image whose size follows from a picture, at most; of every image with Kontext. By default the square of what the VAE was made for. */
  maxArea?: number;
  /** Kontext: resize references to the sizes that it was trained with. True by default. */
  autoResize?: boolean;
  /** Pixels, a multiple of 16. By default the first picture's; without one what the checkpoint's VAE was made for. */
  height?: number;
  width?: number;
  /** 28 by default; 4 for schnell, 50 for Fill. */
  numInferenceSteps?: number;
  /** A schedule of one's own: decreasing, in (0, 1]; replaces `numInferenceSteps`. */
  sigmas?: readonly number[];
  /** Embedded guidance; 3.5 by default, 30 for Fill. Without effect on checkpoints without a guidance embedding. */
  guidanceScale?: number;
  /** Images for each prompt; 1 by default. */
  numImagesPerPrompt?: number;
  /** Decides the noise: the same that `torch.Generator("cpu").manual_seed(seed)` gives. Drawn at random when absent. */
  seed?: number | bigint;
  /** Packed noise [B, tokens, 64] instead of the seed's; a picture to start from is mixed with it. */
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
  /**
   * Pixels: the VAE takes images with a longer side in overlapping, blended tiles of this side (a multiple of 16, at least 256), which
   * needs less memory and two to four times its time. By default only images for which too little memory is free.
   */
  vaeTileSize?: number;
  /** Loaded adapters that act on this call instead of those that are active; none for an empty list. */
  loras?: readonly LoraChoice[];
  /** Ends the run between two steps; the promise rejects with the signal's reason. */
  signal?: AbortSignal;
  /** Called after each step, in order, and not waited for. What it throws, or its promise rejects with, ends the run. */
  onStep?: (event: StepEvent) => void;
  /** Give `onStep` the latents too. */
  preview?: boolean;
}
