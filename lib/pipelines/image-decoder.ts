import type { AutoencoderKLConfig } from "../loaders/config.js";
import { type LatentSize, PATCH } from "../models/latents.js";
import type { AutoencoderKL, TileOptions } from "../models/vae/autoencoder.js";
import type { Buffer } from "../runtime/buffer.js";
import type { Plan } from "../runtime/plan.js";
import type { Recorder } from "../runtime/recorder.js";
import { Allocation } from "./allocation.js";
import { chooseTiles } from "./vae-tiles.js";

/** Packed latents of one image to pixels, for one size: unpack, undo scale and shift, decode, convert. */
export class ImageDecoder {
  /** [1, tokens, 4·channels]. */
  readonly latents: Buffer<"f32">;
  /** [1, H, W, 3]: 8 bits, or f32 in [0, 1]. */
  readonly pixels: Buffer<"u8" | "f32">;
  readonly plan: Plan;
  readonly #allocation: Allocation;

  constructor(
    vae: AutoencoderKL,
    config: AutoencoderKLConfig,
    { height, width, latentHeight, latentWidth, tokens }: LatentSize,
    dtype: "u8" | "f32",
    /** See `GenerateOptions.vaeTileSize`. */
    tileSize?: number,
  ) {
    const allocation = new Allocation(vae.device);
    this.#allocation = allocation;
    const { latentChannels, scalingFactor, shiftFactor } = config;
    this.latents = allocation.buffer("f32", [1, tokens, PATCH * PATCH * latentChannels]);
    this.pixels = allocation.buffer(dtype, [1, height, width, 3]);
    const decode = (g: Recorder, tiles: TileOptions) => {
      const z = g.unpackLatents(this.latents, latentHeight, latentWidth, {
        scale: scalingFactor,
        shift: shiftFactor,
      });
      g.toImage(vae.decode(g, z, tiles), this.pixels);
    };
    const tiles = chooseTiles(vae.device, tileSize, decode);
    this.plan = allocation.record(`VAE decode ${width}×${height}`, (g) => decode(g, tiles));
  }

  /** @param latents of one image, packed. */
  async decode(latents: Float32Array): Promise<Uint8Array | Float32Array> {
    const [, , pixels] = await Promise.all([
      this.latents.write(latents),
      this.plan.run(),
      this.pixels.read(),
    ]);
    return pixels;
  }

  /** Of its Buffers. */
  get bytes(): number {
    return this.#allocation.bytes;
  }

  dispose(): void {
    this.#allocation.dispose();
  }
}
