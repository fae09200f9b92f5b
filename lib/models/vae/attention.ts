import { Linear } from "../../nn/linear.js";
import { GroupNorm } from "../../nn/norm.js";
import type { Scope } from "../../nn/scope.js";
import type { Recorder } from "../../runtime/recorder.js";
import type { Value } from "../../runtime/value.js";
import { NORM_EPS, ResnetBlock } from "./resnet.js";

/** Attention between all pixels, with one head as wide as the channels, added to its input. */
export class VaeAttention {
  readonly #norm: GroupNorm;
  readonly #qkv: Linear;
  readonly #out: Linear;

  constructor(
    scope: Scope,
    readonly channels: number,
    groups: number,
  ) {
    this.#norm = new GroupNorm(scope, "group_norm", channels, groups, NORM_EPS);
    this.#qkv = new Linear(scope, ["to_q", "to_k", "to_v"], channels, [channels, channels, channels]);
    this.#out = new Linear(scope, "to_out.0", channels, channels);
  }

  /** [B, H, W, C] → [B, H, W, C]. */
  forward(g: Recorder, x: Value): Value {
    const [batch, height, width, channels] = x.shape;
    const pixels = [batch, height * width, channels];
    const qkv = this.#qkv.forward(g, this.#norm.forward(g, x).reshape(pixels)).split(-1, [3, 1, channels]);
    const attended = g.attention(qkv.pick(2, 0), qkv.pick(2, 1), qkv.pick(2, 2), {
      scale: 1 / Math.sqrt(channels),
    });
    return this.#out.forward(g, attended.reshape(pixels), { residual: x.reshape(pixels) }).reshape(x.shape);
  }
}

/** The middle of encoder and decoder: two resnets with attention between them, at the lowest resolution. */
export class MidBlock {
  readonly resnets: readonly [ResnetBlock, ResnetBlock];
  /** Absent when the config says mid_block_add_attention: false. */
  readonly attention: VaeAttention | undefined;

  constructor(scope: Scope, channels: number, groups: number, addAttention: boolean) {
    const resnet = (index: number) =>
      new ResnetBlock(scope.at("resnets").at(index), channels, channels, groups);
    this.resnets = [resnet(0), resnet(1)];
    this.attention = addAttention ? new VaeAttention(scope.at("attentions.0"), channels, groups) : undefined;
  }

  /** [B, H, W, C] → [B, H, W, C]. */
  forward(g: Recorder, x: Value): Value {
    const h = this.resnets[0].forward(g, x);
    return this.resnets[1].forward(g, this.attention?.forward(g, h) ?? h);
  }
}
