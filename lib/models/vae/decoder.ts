import type { AutoencoderKLConfig } from "../../loaders/config.js";
import { Conv2d } from "../../nn/conv.js";
import { GroupNorm } from "../../nn/norm.js";
import type { Scope } from "../../nn/scope.js";
import { type Recorder, type Tensor, valueOf } from "../../runtime/recorder.js";
import type { Value } from "../../runtime/value.js";
import { VAE_SCALE } from "../latents.js";
import { MidBlock } from "./attention.js";
import { type NormOf, ownNorms, TileNorms } from "./norms.js";
import { NORM_EPS, ResnetBlock } from "./resnet.js";
import { blendTile, cutTile, TILE_OVERLAP, tilesOf } from "./tiles.js";

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
    return this.#finish(g, this.#begin(g, z), ownNorms);
  }

  /**
   * The same for one z [1, h, w, latent channels], everything after the first block in tiles of `side` latents; 4 % of the
   * arithmetic comes before, and it needs a twelfth of the memory.
   */
  forwardTiled(g: Recorder, z: Tensor, side: number): Value {
    const x = this.#begin(g, z);
    const [, height, width] = valueOf(z).shape as [number, number, number];
    const tiles = tilesOf(height, width, side, TILE_OVERLAP / VAE_SCALE);
    const scale = x.shape[1]! / height;
    const norms = new TileNorms();
    for (const tile of tiles) {
      norms.measuring(g, this.#normOut, this.#climb(g, cutTile(g, x, tile, scale), norms.measuring));
    }
    let image: Value | undefined;
    for (const tile of tiles) {
      const part = this.#finish(g, cutTile(g, x, tile, scale), norms.measured);
      const pixels = part.shape[1]! / tile.rows.length;
      image ??= g.empty([1, height * pixels, width * pixels, part.shape[3]!]);
      blendTile(g, part, image, tile, pixels);
    }
    return image!;
  }

  /** The middle and the first block, at an eighth and a quarter of the image's size. */
  #begin(g: Recorder, z: Tensor): Value {
    return this.up[0]!.forward(g, this.mid.forward(g, this.convIn.forward(g, z)));
  }

  #climb(g: Recorder, begun: Value, normOf: NormOf): Value {
    return this.up.slice(1).reduce((x, block) => block.forward(g, x, normOf), begun);
  }

  #finish(g: Recorder, begun: Value, normOf: NormOf): Value {
    const x = this.#climb(g, begun, normOf);
    return this.#convOut.forward(g, x, normOf(g, this.#normOut, x));
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
  forward(g: Recorder, x: Value, normOf: NormOf = ownNorms): Value {
    let y = x;
    for (const resnet of this.#resnets) y = resnet.forward(g, y, normOf);
    return this.#upsample?.forward(g, y) ?? y;
  }
}
