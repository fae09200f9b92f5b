import type { AutoencoderKLConfig } from "../../loaders/config.js";
import type { LatentSize } from "../../models/latents.js";
import type { AutoencoderKL } from "../../models/vae/autoencoder.js";
import type { Generator } from "../../runtime/generator.js";
import { Kept } from "../kept.js";
import type { DenoiserImages, ImageShape } from "./denoiser-images.js";
import { ImageEncoder } from "./image-encoder.js";
import { maskAsChannels, maskOfLatents, withoutMasked } from "./pixels.js";
import type { ImageTask } from "./task.js";
import { conditionChannels, type Variant } from "./variant.js";

/** What encoding needs to know of a request. */
export interface EncodeRequest {
  readonly task?: ImageTask | undefined;
  readonly size: LatentSize;
  readonly batch: number;
  readonly numImagesPerPrompt: number;
  readonly vaeTileSize?: number | undefined;
  /** Packed noise that the caller brought. */
  readonly latents: { readonly data: Float32Array } | undefined;
}

/** What a request's pictures become, each for the whole batch, and the noise between them in the seed's stream. */
export interface Encoded {
  /** Unpacked, [B, C/4, H/8, W/8]; undefined where the caller brought latents. */
  readonly noise: Float32Array | undefined;
  readonly image?: Float32Array | undefined;
  readonly repaint?: Float32Array | undefined;
  readonly condition?: Float32Array | undefined;
  readonly references?: Float32Array | undefined;
}

/** Bytes of encoders that are kept: some fifteen of 1024×1024. */
const KEPT_BYTES = 2 ** 28;

/** Encodes the pictures of requests with the VAE. */
export class PictureEncoder {
  readonly #encoders = new Kept<ImageEncoder>(KEPT_BYTES);

  constructor(
    readonly vae: AutoencoderKL,
    readonly config: AutoencoderKLConfig,
    readonly variant: Variant,
  ) {}

  /** What the denoising loop of such a request has to do with pictures; undefined when nothing. */
  shapeOf({ task }: EncodeRequest): ImageShape | undefined {
    const shape = {
      noised: this.#startsFromImage(task),
      masked: this.variant !== "fill" && task !== undefined && task.mask.length > 0,
      channels: conditionChannels(this.variant, 4 * this.config.latentChannels),
      referenceTokens: task?.references.reduce((sum, { size }) => sum + size.tokens, 0) ?? 0,
    };
    return shape.noised || shape.channels + shape.referenceTokens > 0 ? shape : undefined;
  }

  /**
   * Draws noise and encodes. The order of the draws is that of diffusers' pipelines, so that a seed means the same: control image,
   * picture, noise, masked picture.
   */
  async encode(request: EncodeRequest, generator: Generator): Promise<Encoded> {
    const { size, batch, latents } = request;
    const channels = this.config.latentChannels;
    const values = channels * size.latentHeight * size.latentWidth;
    const draw = (count: number) => generator.normal(this.vae.device, count * values);
    const task = request.task;
    if (task === undefined) return { noise: latents === undefined ? await draw(batch) : undefined };

    const forBatch = <T>(list: readonly T[]) => perBatch(list, request);
    const sampled = async (pictures: readonly Float32Array[]) => {
      const noise = await draw(pictures.length);
      return inTurn(pictures, (pixels, i) =>
        this.#encode(request, pixels, size, noise.subarray(i * values, (i + 1) * values)),
      );
    };
    // FluxControlInpaintPipeline begins with the masked picture and does not use it.
    if (task.control.length > 0 && task.mask.length > 0) await draw(task.image.length);
    const control = task.control.length > 0 ? await sampled(forBatch(task.control)) : [];
    let image: Float32Array[] = [];
    if (this.#startsFromImage(task)) image = await sampled(task.image);
    else if (task.image.length > 0 && latents === undefined) await draw(task.image.length);
    const noise = latents === undefined ? await draw(batch) : undefined;
    const condition = this.variant === "fill" ? await this.#fillCondition(task, size, sampled) : control;
    const references = await inTurn(task.references, ({ pixels, size: own }) =>
      this.#encode(request, pixels, own),
    );
    const repaint =
      this.variant === "fill" ? [] : task.mask.map((mask) => maskOfLatents(mask, size, channels));
    return {
      noise,
      image: joined(forBatch(image)),
      repaint: joined(forBatch(repaint)),
      condition: joined(forBatch(condition)),
      references: joined(Array.from({ length: batch }, () => references).flat()),
    };
  }

  dispose(): void {
    this.#encoders.dispose();
  }

  /** Fill's loop starts from noise alone unless strength says otherwise; its pictures come beside the latents. */
  #startsFromImage(task: ImageTask | undefined): boolean {
    return task !== undefined && task.image.length > 0 && (this.variant !== "fill" || task.strength < 1);
  }

  /** For each picture [tokens, 64 + 256]: latents of what the mask leaves, then the mask. */
  async #fillCondition(
    { image, mask }: ImageTask,
    size: LatentSize,
    sampled: (pictures: readonly Float32Array[]) => Promise<Float32Array[]>,
  ): Promise<Float32Array[]> {
    const pairs = Array.from({ length: Math.max(image.length, mask.length) }, (_, i) => ({
      pixels: image[i % image.length]!,
      mask: mask[i % mask.length]!,
    }));
    const latents = await sampled(pairs.map(({ pixels, mask }) => withoutMasked(pixels, mask)));
    return pairs.map(({ mask }, i) => besideEachOther(latents[i]!, maskAsChannels(mask, size), size.tokens));
  }

  /** @param noise of the posterior; without it the mean is taken, as Kontext does. */
  #encode(
    { vaeTileSize }: EncodeRequest,
    pixels: Float32Array,
    size: LatentSize,
    noise?: Float32Array,
  ): Promise<Float32Array> {
    const sampled = noise !== undefined;
    const key = `${size.height}×${size.width} ${sampled} ${vaeTileSize}`;
    const make = () => new ImageEncoder(this.vae, this.config, size, sampled, vaeTileSize);
    return this.#encoders.of(key, make).encode(pixels, noise);
  }
}

/** Queues the writes of everything that was encoded. */
export function writeImages(images: DenoiserImages, encoded: Encoded): Promise<void>[] {
  const { image, repaint, condition, references } = encoded;
  return [
    image && images.image?.write(image),
    repaint && images.repaint?.write(repaint),
    repaint && images.keep?.write(repaint.map((value) => 1 - value)),
    condition && images.condition?.write(condition),
    references && images.references?.write(references),
  ].filter((write) => write !== undefined);
}

/** The entry of every image of a batch: one for all, or one for each prompt. */
export function perBatch<T>(
  list: readonly T[],
  { batch, numImagesPerPrompt }: Pick<EncodeRequest, "batch" | "numImagesPerPrompt">,
): T[] {
  if (list.length === 0 || list.length === batch) return [...list];
  return Array.from({ length: batch }, (_, i) => list[Math.floor(i / numImagesPerPrompt) % list.length]!);
}

async function inTurn<T, R>(list: readonly T[], work: (entry: T, index: number) => Promise<R>): Promise<R[]> {
  const results: R[] = [];
  for (const [index, entry] of list.entries()) results.push(await work(entry, index));
  return results;
}

function joined(parts: readonly Float32Array[]): Float32Array | undefined {
  if (parts.length === 0) return undefined;
  const all = new Float32Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    all.set(part, at);
    at += part.length;
  }
  return all;
}

/** [tokens, a] and [tokens, b] as [tokens, a + b]. */
function besideEachOther(left: Float32Array, right: Float32Array, tokens: number): Float32Array {
  const a = left.length / tokens;
  const b = right.length / tokens;
  const out = new Float32Array(left.length + right.length);
  for (let token = 0; token < tokens; token++) {
    out.set(left.subarray(token * a, (token + 1) * a), token * (a + b));
    out.set(right.subarray(token * b, (token + 1) * b), token * (a + b) + a);
  }
  return out;
}
