// AutoencoderKL, the variational autoencoder of latent diffusion (Rombach et al., "High-resolution image synthesis with latent
// diffusion models", 2022). All values are channels-last: [B, H, W, C].

import type { AutoencoderKLConfig } from "../../loaders/config.js";
import { Conv2d } from "../../nn/conv.js";
import { Model } from "../../nn/model.js";
import type { Device } from "../../runtime/device.js";
import type { Recorder, Tensor } from "../../runtime/recorder.js";
import type { Value } from "../../runtime/value.js";
import { Decoder } from "./decoder.js";
import { Encoder } from "./encoder.js";

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
   */
  decode(g: Recorder, z: Tensor): Value {
    return this.decoder.forward(g, this.#postQuantConv?.forward(g, z) ?? z);
  }

  /**
   * @param image [B, H, W, 3] in −1 to 1, sides multiples of 8.
   * @returns moments [B, H/8, W/8, 32]: 16 channels of means, 16 of log-variances (see `sampleLatents`).
   */
  encode(g: Recorder, image: Tensor): Value {
    const moments = this.encoder.forward(g, image);
    return this.#quantConv?.forward(g, moments) ?? moments;
  }
}
