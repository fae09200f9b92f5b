import type { AutoencoderKLConfig } from "../../loaders/config.js";
import { type LatentSize, PATCH } from "../../models/latents.js";
import type { AutoencoderKL, TileOptions } from "../../models/vae/autoencoder.js";
import type { Buffer } from "../../runtime/buffer.js";
import type { Plan } from "../../runtime/plan.js";
import type { Recorder } from "../../runtime/recorder.js";
import { Allocation } from "../allocation.js";
import { chooseTiles } from "../vae-tiles.js";

/** Pixels of one picture to packed latents, for one size: encode, sample or take the mean, apply shift and scale, pack. */
export class ImageEncoder {
  /** [1, H, W, 3] in [−1, 1]. */
  readonly pixels: Buffer<"f32">;
  /** Of the VAE's posterior, [1, H/8, W/8, channels]; without it the mean is taken. */
  readonly noise: Buffer<"f32"> | undefined;
  /** [1, tokens, 4·channels]. */
  readonly latents: Buffer<"f32">;
  readonly plan: Plan;
  readonly #allocation: Allocation;

  constructor(
    vae: AutoencoderKL,
    config: AutoencoderKLConfig,
    { height, width, latentHeight, latentWidth, tokens }: LatentSize,
    sampled: boolean,
    /** See `GenerateOptions.vaeTileSize`. */
    tileSize?: number,
  ) {
    const allocation = new Allocation(vae.device);
    this.#allocation = allocation;
    const { latentChannels: channels, scalingFactor: scale, shiftFactor: shift } = config;
    this.pixels = allocation.buffer("f32", [1, height, width, 3]);
    this.noise = sampled ? allocation.buffer("f32", [1, latentHeight, latentWidth, channels]) : undefined;
    this.latents = allocation.buffer("f32", [1, tokens, PATCH * PATCH * channels]);
    const encode = (g: Recorder, tiles: TileOptions) => {
      const image = g.empty(this.pixels.shape);
      g.copy(this.pixels, image);
      const z = g.sampleLatents(vae.encode(g, image, tiles), this.noise);
      g.packLatents(z, { scale, shift, into: this.latents.value });
    };
    const tiles = chooseTiles(vae.device, tileSize, encode);
    this.plan = allocation.record(`VAE encode ${width}×${height}`, (g) => encode(g, tiles));
  }

  /**
   * @param pixels of one picture.
   * @param noise as PyTorch draws it, [channels, H/8, W/8]; for an encoder that samples.
   */
  async encode(pixels: Float32Array, noise?: Float32Array): Promise<Float32Array> {
    const queued = [
      this.pixels.write(pixels),
      this.noise?.write(channelsLast(noise!, this.noise.shape[3]!)),
      this.plan.run(),
    ];
    const [latents] = await Promise.all([this.latents.read(), ...queued]);
    return latents;
  }

  /** Of its Buffers. */
  get bytes(): number {
    return this.#allocation.bytes;
  }

  dispose(): void {
    this.#allocation.dispose();
  }
}

/** [channels, pixels] as [pixels, channels]. */
function channelsLast(values: Float32Array, channels: number): Float32Array {
  const pixels = values.length / channels;
  const out = new Float32Array(values.length);
  for (let c = 0; c < channels; c++) {
    for (let pixel = 0; pixel < pixels; pixel++) out[pixel * channels + c] = values[c * pixels + pixel];
  }
  return out;
}
