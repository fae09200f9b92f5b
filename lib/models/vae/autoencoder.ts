// AutoencoderKL, the variational autoencoder of latent diffusion (Rombach et al., "High-resolution image synthesis with latent
// diffusion models", 2022). All values are channels-last: [B, H, W, C].

import type { AutoencoderKLConfig } from "../../loaders/config.js";
import { Conv2d } from "../../nn/conv.js";
import { Model } from "../../nn/model.js";
import type { Device } from "../../runtime/device.js";
import { type Recorder, type Tensor, valueOf } from "../../runtime/recorder.js";
import type { Value } from "../../runtime/value.js";
import { VAE_SCALE } from "../latents.js";
import { Decoder } from "./decoder.js";
import { Encoder } from "./encoder.js";
import { checkTileSize } from "./tiles.js";

export interface TileOptions {
  /**
   * Pixels: images with a longer side go through the layers at full size in tiles of this side, a multiple of 16, at least 256, which
   * takes twice the time and more and needs memory for a tile in place of the image. Tiles overlap by 128 pixels or more and are
   * blended; the norms' statistics are taken over all of them in a first pass.
   */
  readonly tileSize?: number | undefined;
}

export class AutoencoderKL extends Model {
  readonly encoder: Encoder;
  readonly decoder: Decoder;
  readonly #quantConv: Conv2d | undefined;
  readonly #postQuantConv: Conv2d | undefined;

  constructor(device: Device, config: AutoencoderKLConfig) {
    super(device);
    const { latentChannels } = config;
    const moments = 2 * latentChannels;
    this.encoder = new Encoder(this.scope.at("encoder"), config);
    this.decoder = new Decoder(this.scope.at("decoder"), config);
    this.#quantConv = config.useQuantConv
      ? new Conv2d(this.scope, "quant_conv", moments, moments, 1)
      : undefined;
    this.#postQuantConv = config.usePostQuantConv
      ? new Conv2d(this.scope, "post_quant_conv", latentChannels, latentChannels, 1)
      : undefined;
  }

  /**
   * @param z [B, h, w, 16] latents without the pipeline's scale and shift (see `unpackLatents`).
   * @returns [B, 8h, 8w, 3], about −1 to 1, not clamped.
   * @throws FluxError ERR_FLUX_BAD_ARGUMENT for a tile's side that is none (see `TileOptions`).
   */
  decode(g: Recorder, z: Tensor, options: TileOptions = {}): Value {
    const latents = this.#postQuantConv?.forward(g, z) ?? valueOf(z);
    return inTiles(g, latents, options, latents, this.decoder);
  }

  /**
   * @param image [B, H, W, 3] in −1 to 1, sides multiples of 8.
   * @returns moments [B, H/8, W/8, 32]: 16 channels of means, 16 of log-variances (see `sampleLatents`).
   */
  encode(g: Recorder, image: Tensor, options: TileOptions = {}): Value {
    const [, height, width] = valueOf(image).shape as [number, number, number, number];
    const latents = { shape: [0, height / VAE_SCALE, width / VAE_SCALE] };
    const moments = inTiles(g, valueOf(image), options, latents, this.encoder);
    return this.#quantConv?.forward(g, moments) ?? moments;
  }
}

/** Runs x whole, or, where the image is larger than a tile, image by image in tiles. */
function inTiles(
  g: Recorder,
  x: Value,
  { tileSize }: TileOptions,
  latents: { readonly shape: readonly number[] },
  layers: Pick<Decoder, "forward" | "forwardTiled">,
): Value {
  const side = tileSize === undefined ? Number.POSITIVE_INFINITY : checkTileSize(tileSize) / VAE_SCALE;
  const [, height, width] = latents.shape as [number, number, number];
  if (Math.max(height, width) <= side) return layers.forward(g, x);
  const batch = x.shape[0]!;
  if (batch === 1) return layers.forwardTiled(g, x, side);
  let whole: Value | undefined;
  for (let index = 0; index < batch; index++) {
    const one = layers.forwardTiled(g, x.slice(0, index, 1), side);
    whole ??= g.empty(one.shape.with(0, batch));
    g.copy(one, whole.slice(0, index, 1));
  }
  return whole!;
}
