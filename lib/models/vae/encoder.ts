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
import { blendTile, cutTile, TILE_OVERLAP, type Tile, tilesOf } from "./tiles.js";

/** From an image to the moments of its latents: blocks of resnets, each but the last halving the resolution. */
export class Encoder {
  readonly convIn: Conv2d;
  readonly down: readonly DownBlock[];
  readonly mid: MidBlock;
  readonly #normOut: GroupNorm;
  readonly #convOut: Conv2d;

  constructor(scope: Scope, config: AutoencoderKLConfig) {
    const { blockOutChannels: widths, normNumGroups: groups, layersPerBlock } = config;
    const last = widths.length - 1;
    this.convIn = new Conv2d(scope, "conv_in", config.inChannels, widths[0], 3);
    this.down = widths.map((width, index) => {
      const channels = widths[Math.max(0, index - 1)];
      const block = scope.at("down_blocks").at(index);
      return new DownBlock(block, channels, width, layersPerBlock, groups, index < last);
    });
    this.mid = new MidBlock(scope.at("mid_block"), widths[last], groups, config.midBlockAddAttention);
    this.#normOut = new GroupNorm(scope, "conv_norm_out", widths[last], groups, NORM_EPS);
    this.#convOut = new Conv2d(scope, "conv_out", widths[last], 2 * config.latentChannels, 3);
  }

  /** image [B, H, W, image channels] → [B, H/8, W/8, 2 · latent channels] for FLUX's four blocks. */
  forward(g: Recorder, image: Tensor): Value {
    return this.#finish(g, this.#descend(g, image, ownNorms));
  }

  /**
   * The same for one image [1, H, W, image channels], everything before the last block in tiles of `side` latents.
   */
  forwardTiled(g: Recorder, image: Tensor, side: number): Value {
    const pixels = valueOf(image);
    const [, height, width] = pixels.shape as [number, number, number];
    const tiles = tilesOf(height / VAE_SCALE, width / VAE_SCALE, side, TILE_OVERLAP / VAE_SCALE);
    const norms = new TileNorms();
    const cut = (tile: Tile) => cutTile(g, pixels, tile, VAE_SCALE);
    for (const tile of tiles) this.#descend(g, cut(tile), norms.measuring);
    let whole: Value | undefined;
    for (const tile of tiles) {
      const part = this.#descend(g, cut(tile), norms.measured);
      const scale = part.shape[1]! / tile.rows.length;
      whole ??= g.empty([1, (height / VAE_SCALE) * scale, (width / VAE_SCALE) * scale, part.shape[3]!]);
      blendTile(g, part, whole, tile, scale);
    }
    return this.#finish(g, whole!);
  }

  /** All blocks but the last. */
  #descend(g: Recorder, image: Tensor, normOf: NormOf): Value {
    const begun = this.convIn.forward(g, image);
    return this.down.slice(0, -1).reduce((x, block) => block.forward(g, x, normOf), begun);
  }

  #finish(g: Recorder, x: Value): Value {
    const y = this.mid.forward(g, this.down.at(-1)!.forward(g, x));
    return this.#convOut.forward(g, y, { norm: this.#normOut });
  }
}

/** Resnets, then a convolution of stride 2 whose padding is on the right and at the bottom only. */
class DownBlock {
  readonly #resnets: readonly ResnetBlock[];
  readonly #downsample: Conv2d | undefined;

  constructor(
    scope: Scope,
    channels: number,
    out: number,
    count: number,
    groups: number,
    downsampling: boolean,
  ) {
    this.#resnets = Array.from(
      { length: count },
      (_, index) => new ResnetBlock(scope.at("resnets").at(index), index === 0 ? channels : out, out, groups),
    );
    this.#downsample = downsampling ? new Conv2d(scope.at("downsamplers.0"), "conv", out, out, 3) : undefined;
  }

  /** [B, H, W, channels] → [B, H/2, W/2, out], or [B, H, W, out] without downsampling. */
  forward(g: Recorder, x: Value, normOf: NormOf = ownNorms): Value {
    let y = x;
    for (const resnet of this.#resnets) y = resnet.forward(g, y, normOf);
    return this.#downsample?.forward(g, y, { stride: 2, padding: [0, 0, 1, 1] }) ?? y;
  }
}
