import type { AutoencoderKLConfig } from "../../loaders/config.js";
import { Conv2d } from "../../nn/conv.js";
import { GroupNorm } from "../../nn/norm.js";
import type { Scope } from "../../nn/scope.js";
import type { Recorder, Tensor } from "../../runtime/recorder.js";
import type { Value } from "../../runtime/value.js";
import { MidBlock } from "./attention.js";
import { NORM_EPS, ResnetBlock } from "./resnet.js";

/** From latents to an image: middle block first, then blocks of resnets, each but the last doubling the resolution. */
export class Decoder {
  readonly convIn: Conv2d;
  readonly mid: MidBlock;
  readonly up: readonly UpBlock[];
  readonly #normOut: GroupNorm;
  readonly #convOut: Conv2d;

  constructor(scope: Scope, config: AutoencoderKLConfig) {
    const { normNumGroups: groups, layersPerBlock } = config;
    const widths = config.blockOutChannels.toReversed();
    const [deepest] = widths;
    const last = widths.length - 1;
    this.convIn = new Conv2d(scope, "conv_in", config.latentChannels, deepest, 3);
    this.mid = new MidBlock(scope.at("mid_block"), deepest, groups, config.midBlockAddAttention);
    this.up = widths.map((width, index) => {
      const channels = widths[Math.max(0, index - 1)];
      const block = scope.at("up_blocks").at(index);
      return new UpBlock(block, channels, width, layersPerBlock + 1, groups, index < last);
    });
    this.#normOut = new GroupNorm(scope, "conv_norm_out", widths[last], groups, NORM_EPS);
    this.#convOut = new Conv2d(scope, "conv_out", widths[last], config.outChannels, 3);
  }

  /** z [B, h, w, latent channels] → [B, 2ⁿ⁻¹h, 2ⁿ⁻¹w, image channels] for n blocks: 8h and 8w for FLUX. */
  forward(g: Recorder, z: Tensor): Value {
    let x = this.mid.forward(g, this.convIn.forward(g, z));
    for (const block of this.up) x = block.forward(g, x);
    return this.#convOut.forward(g, this.#normOut.forward(g, x, "silu"));
  }
}

/** Resnets, then nearest-neighbour doubling and a convolution in one op. */
class UpBlock {
  readonly #resnets: readonly ResnetBlock[];
  readonly #upsample: Conv2d | undefined;

  constructor(
    scope: Scope,
    channels: number,
    out: number,
    count: number,
    groups: number,
    upsampling: boolean,
  ) {
    this.#resnets = Array.from(
      { length: count },
      (_, index) => new ResnetBlock(scope.at("resnets").at(index), index === 0 ? channels : out, out, groups),
    );
    this.#upsample = upsampling
      ? new Conv2d(scope.at("upsamplers.0"), "conv", out, out, 3, { upsampling })
      : undefined;
  }

  /** [B, H, W, channels] → [B, 2H, 2W, out], or [B, H, W, out] without upsampling. */
  forward(g: Recorder, x: Value): Value {
    let y = x;
    for (const resnet of this.#resnets) y = resnet.forward(g, y);
    return this.#upsample?.forward(g, y) ?? y;
  }
}
