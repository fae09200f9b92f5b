// The encoder of T5 v1.1 (Raffel et al., "Exploring the limits of transfer learning with a unified text-to-text transformer",
// 2020; gated GELU after Shazeer, "GLU variants improve transformer", 2020): FLUX takes its whole output.

import type { T5Config } from "../loaders/config.js";
import { type TensorSource, withAliases } from "../loaders/tensor-source.js";
import { Linear } from "../nn/linear.js";
import { Model } from "../nn/model.js";
import { RMSNorm } from "../nn/norm.js";
import type { Parameter } from "../nn/parameter.js";
import type { Precision, Scope } from "../nn/scope.js";
import type { Device } from "../runtime/device.js";
import type { Recorder, Tensor } from "../runtime/recorder.js";
import type { Value } from "../runtime/value.js";

export class T5Encoder extends Model {
  readonly #tokens: Parameter;
  readonly #relativeBias: Parameter;
  readonly blocks: readonly T5Block[];
  readonly #finalNorm: RMSNorm;
  readonly #maxDistance: number;

  constructor(device: Device, config: T5Config, precision: Precision = "f32") {
    super(device, precision);
    const encoder = this.scope.at("encoder");
    const blocks = encoder.at("block");
    this.#tokens = this.scope.matrix("shared.weight", config.vocabSize, config.dModel);
    this.#relativeBias = blocks.matrix(
      "0.layer.0.SelfAttention.relative_attention_bias.weight",
      config.relativeAttentionNumBuckets,
      config.numHeads,
    );
    this.blocks = Array.from(
      { length: config.numLayers },
      (_, index) => new T5Block(blocks.at(index).at("layer"), config),
    );
    this.#finalNorm = new RMSNorm(encoder, "final_layer_norm", config.dModel, config.layerNormEpsilon);
    this.#maxDistance = config.relativeAttentionMaxDistance;
  }

  /** Takes checkpoints that name the embedding `encoder.embed_tokens.weight`, too. */
  override named(source: TensorSource): TensorSource {
    return withAliases(source, (name) => (name === "shared.weight" ? ["encoder.embed_tokens.weight"] : []));
  }

  /**
   * No mask: padding is attended to, as FLUX was trained.
   * @param ids [B, T] i32. @returns [B, T, dModel].
   */
  forward(g: Recorder, ids: Tensor): Value {
    let x = this.embed(g, ids);
    const bias = this.positionBias(g, x.shape[1]);
    for (const block of this.blocks) x = block.forward(g, x, bias);
    return this.#finalNorm.forward(g, x);
  }

  /** ids [B, T] → [B, T, dModel]. */
  embed(g: Recorder, ids: Tensor): Value {
    return g.embedding(ids, this.#tokens.buffer);
  }

  /** The bias of all blocks, from the first block's table: [heads, tokens, tokens]. */
  positionBias(g: Recorder, tokens: number): Value {
    return g.t5Bias(this.#relativeBias.buffer, tokens, this.#maxDistance);
  }
}

/** Pre-norm: attention with neither scale nor projection biases, then the gated MLP, each added to the residual. */
class T5Block {
  readonly #norm1: RMSNorm;
  readonly #qkv: Linear;
  readonly #out: Linear;
  readonly #norm2: RMSNorm;
  readonly #gateUp: Linear;
  readonly #down: Linear;
  readonly #heads: number;
  readonly #headWidth: number;
  readonly #innerWidth: number;

  constructor(scope: Scope, config: T5Config) {
    const { dModel, dKv, dFf, numHeads, layerNormEpsilon } = config;
    const attention = scope.at("0.SelfAttention");
    const mlp = scope.at("1.DenseReluDense");
    // Not always dModel: the heads may be wider or narrower together.
    const inner = numHeads * dKv;
    const options = { bias: false, quantised: true };
    this.#norm1 = new RMSNorm(scope, "0.layer_norm", dModel, layerNormEpsilon);
    this.#qkv = new Linear(attention, ["q", "k", "v"], dModel, [inner, inner, inner], options);
    this.#out = new Linear(attention, "o", inner, dModel, options);
    this.#norm2 = new RMSNorm(scope, "1.layer_norm", dModel, layerNormEpsilon);
    this.#gateUp = new Linear(mlp, ["wi_0", "wi_1"], dModel, [dFf, dFf], options);
    this.#down = new Linear(mlp, "wo", dFf, dModel, options);
    this.#heads = numHeads;
    this.#headWidth = dKv;
    this.#innerWidth = dFf;
  }

  /** x [B, T, dModel], bias [heads, T, T] → [B, T, dModel]. */
  forward(g: Recorder, x: Value, bias: Value): Value {
    const [batch, tokens] = x.shape;
    const heads = this.#heads;
    const qkv = this.#qkv.forward(g, this.#norm1.forward(g, x)).split(-1, [3, heads, this.#headWidth]);
    const attended = g.attention(qkv.pick(2, 0), qkv.pick(2, 1), qkv.pick(2, 2), { scale: 1, bias });
    const flat = attended.reshape([batch, tokens, heads * this.#headWidth]);
    const y = this.#out.forward(g, flat, { residual: x });
    const gateUp = this.#gateUp.forward(g, this.#norm2.forward(g, y));
    const gate = gateUp.slice(-1, 0, this.#innerWidth);
    const up = gateUp.slice(-1, this.#innerWidth, this.#innerWidth);
    return this.#down.forward(g, g.multiply(gate, up, "gelu"), { residual: y });
  }
}
