import type { FluxTransformer } from "../../models/flux/transformer.js";
import type { Buffer } from "../../runtime/buffer.js";
import type { Recorder, Tensor } from "../../runtime/recorder.js";
import type { Allocation } from "../allocation.js";

/** What a recorded loop has to do with pictures. */
export interface ImageShape {
  /** The loop starts from a picture with noise, not from noise alone. */
  readonly noised: boolean;
  /** After every step what the mask leaves out is the picture again, at that step's noise. */
  readonly masked: boolean;
  /** Channels a token brings in beside its latents: the control image's; the masked image's and the mask's (Fill). */
  readonly channels: number;
  /** Tokens of reference images behind those of the image that is made (Kontext). */
  readonly referenceTokens: number;
}

/**
 * The part of a denoising loop that pictures condition: its Buffers, and its ops before the loop and in a step. Whatever stays the
 * same over the steps is computed before them; a step copies its latents into their place beside it.
 */
export class DenoiserImages {
  /** Packed noise [B, Ti, C], where the loop starts from a picture. */
  readonly noise: Buffer<"f32"> | undefined;
  /** The picture's packed latents [B, Ti, C]. */
  readonly image: Buffer<"f32"> | undefined;
  /** 1 where a latent is repainted and 0 where it is kept, [B, Ti, C]; and the other way round. */
  readonly repaint: Buffer<"f32"> | undefined;
  readonly keep: Buffer<"f32"> | undefined;
  /** [B, Ti, channels]. */
  readonly condition: Buffer<"f32"> | undefined;
  /** [B, Tr, C]. */
  readonly references: Buffer<"f32"> | undefined;
  /** What the transformer reads, [B, Ti + Tr, C + channels], where that is more than the latents. */
  readonly #input: Buffer | undefined;
  /** keep ⊙ noise and keep ⊙ image: the noised picture is linear in them. */
  readonly #keptNoise: Buffer<"f32"> | undefined;
  readonly #keptImage: Buffer<"f32"> | undefined;

  constructor(
    allocation: Allocation,
    transformer: FluxTransformer,
    readonly shape: ImageShape,
    /** [B, Ti, C]. */
    readonly latents: Buffer<"f32">,
  ) {
    const { noised, masked, channels, referenceTokens } = shape;
    const [batch, tokens, width] = latents.shape as [number, number, number];
    const likeLatents = (wanted: boolean) => (wanted ? allocation.buffer("f32", latents.shape) : undefined);
    const wide = (rows: number, columns: number) =>
      rows * columns > 0 ? allocation.buffer("f32", [batch, rows, columns]) : undefined;
    this.noise = likeLatents(noised);
    this.image = likeLatents(noised);
    this.repaint = likeLatents(masked);
    this.keep = likeLatents(masked);
    this.#keptNoise = likeLatents(masked);
    this.#keptImage = likeLatents(masked);
    this.condition = wide(tokens, channels);
    this.references = wide(referenceTokens, width);
    if (channels + referenceTokens > 0) {
      const shape = [batch, tokens + referenceTokens, width + channels];
      this.#input = allocation.buffer(transformer.device.dtype, shape);
    }
  }

  /** Before the loop: the latents of the first step, and the constant part of what the transformer reads. */
  recordPrepare(g: Recorder, sigmas: Tensor, counter: Tensor): void {
    const { noise, image, keep, condition, references, latents } = this;
    const [, tokens, width] = latents.shape as [number, number, number];
    if (noise !== undefined && image !== undefined) {
      g.copy(g.scaleNoise(image, noise, sigmas, counter), latents);
      if (keep !== undefined) {
        g.copy(g.multiply(keep, noise), this.#keptNoise!);
        g.copy(g.multiply(keep, image), this.#keptImage!);
      }
    }
    const input = this.#input?.value;
    if (condition !== undefined) {
      g.copy(condition, input!.slice(1, 0, tokens).slice(2, width, condition.shape[2]!));
    }
    if (references !== undefined) {
      g.copy(references, input!.slice(1, tokens, references.shape[1]!).slice(2, 0, width));
    }
  }

  /** In a step: what the transformer reads. */
  input(g: Recorder): Tensor {
    const { latents } = this;
    if (this.#input === undefined) return latents;
    const [, tokens, width] = latents.shape as [number, number, number];
    g.copy(latents, this.#input.value.slice(1, 0, tokens).slice(2, 0, width));
    return this.#input;
  }

  /**
   * In a step, when latents and counter are the next step's: latents = repaint ⊙ latents + keep ⊙ (σ·noise + (1 − σ)·image). After
   * the last step σ is 0, and what is kept is the picture.
   */
  recordKeep(g: Recorder, sigmas: Tensor, counter: Tensor): void {
    if (this.repaint === undefined) return;
    const kept = g.scaleNoise(this.#keptImage!, this.#keptNoise!, sigmas, counter);
    g.add(g.multiply(this.repaint, this.latents), kept, this.latents);
  }
}
