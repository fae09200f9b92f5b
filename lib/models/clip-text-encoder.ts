// CLIP's text transformer (Radford et al., "Learning transferable visual models from natural language supervision", 2021):
// FLUX takes its pooled output.

import type { ClipTextConfig } from "../loaders/config.js";
import { type TensorSource, withAliases } from "../loaders/tensor-source.js";
import { Linear } from "../nn/linear.js";
import { Model } from "../nn/model.js";
import { LayerNorm } from "../nn/norm.js";
import type { Parameter } from "../nn/parameter.js";
import type { Precision, Scope } from "../nn/scope.js";
import type { Device } from "../runtime/device.js";
import type { Activation, Recorder, Tensor } from "../runtime/recorder.js";
import type { Value } from "../runtime/value.js";

const ACTIVATIONS: Readonly<Record<ClipTextConfig["hiddenAct"], Activation>> = {
  quick_gelu: "quickGelu",
  gelu_tanh: "gelu",
};

/** The `eos_token_id` of configs older than transformers 4.31, FLUX's among them: the true one is the largest id of the vocabulary. */
const LEGACY_EOS = 2;

/**
 * For each prompt the row whose hidden state is the pooled output: that of the first end-of-text token, after which only
 * padding follows. Configs whose eos_token_id is 2 mean the first token with the largest id (as transformers' CLIPTextModel).
 *
 * @param ids [B, tokens], row-major.
 * @returns [B]; 0 where a prompt has no end-of-text token, as transformers gives.
 */
export function pooledTokenIndices(ids: Int32Array, tokens: number, eosTokenId: number): Int32Array {
  const indices = new Int32Array(ids.length / tokens);
  for (let prompt = 0; prompt < indices.length; prompt++) {
    const row = ids.subarray(prompt * tokens, (prompt + 1) * tokens);
    const eos = eosTokenId === LEGACY_EOS ? row.reduce((a, b) => Math.max(a, b)) : eosTokenId;
    indices[prompt] = Math.max(0, row.indexOf(eos));
  }
  return indices;
}

export class CLIPTextEncoder extends Model {
  readonly #tokens: Parameter;
  readonly #positions: Parameter;
  readonly layers: readonly ClipLayer[];
  readonly #finalNorm: LayerNorm;

  constructor(device: Device, config: ClipTextConfig, precision: Precision = "f32") {
    super(device, precision);
    const { hiddenSize, layerNormEps } = config;
    const model = this.scope.at("text_model");
    const embeddings = model.at("embeddings");
    this.#tokens = embeddings.matrix("token_embedding.weight", config.vocabSize, hiddenSize);
    this.#positions = embeddings.matrix(
      "position_embedding.weight",
      config.maxPositionEmbeddings,
      hiddenSize,
    );
    this.layers = Array.from(
      { length: config.numHiddenLayers },
      (_, index) => new ClipLayer(model.at("encoder.layers").at(index), config),
    );
    this.#finalNorm = new LayerNorm(model, "final_layer_norm", hiddenSize, layerNormEps);
  }

  /** Takes checkpoints whose names lack the prefix `text_model.`, too. */
  override named(source: TensorSource): TensorSource {
    return withAliases(source, (name) => [name.replace(/^text_model\./, "")]);
  }

  /**
   * @param ids [B, T] i32, T at most the config's maxPositionEmbeddings (77).
   * @param pooledIndex [B] i32, from `pooledTokenIndices`.
   * @returns hidden [B, T, D] and pooled [B, D], both after the final LayerNorm.
   */
  forward(g: Recorder, ids: Tensor, pooledIndex: Tensor): { hidden: Value; pooled: Value } {
    let x = this.embed(g, ids);
    for (const layer of this.layers) x = layer.forward(g, x);
    const hidden = this.#finalNorm.forward(g, x);
    return { hidden, pooled: g.gatherRows(hidden, pooledIndex) };
  }

  /** Token plus position embeddings. ids [B, T] → [B, T, D]. */
  embed(g: Recorder, ids: Tensor): Value {
    return g.embedding(ids, this.#tokens.buffer, this.#positions.buffer);
  }
}

/** Pre-norm: causal attention, then the MLP, each added to the residual. */
class ClipLayer {
  readonly #norm1: LayerNorm;
  readonly #qkv: Linear;
  readonly #out: Linear;
  readonly #norm2: LayerNorm;
  readonly #fc1: Linear;
  readonly #fc2: Linear;
  readonly #heads: number;
  readonly #headWidth: number;
  readonly #activation: Activation;

  constructor(scope: Scope, config: ClipTextConfig) {
    const { hiddenSize: width, intermediateSize, layerNormEps } = config;
    const attention = scope.at("self_attn");
    const mlp = scope.at("mlp");
    const quantised = true;
    this.#norm1 = new LayerNorm(scope, "layer_norm1", width, layerNormEps);
    this.#qkv = new Linear(attention, ["q_proj", "k_proj", "v_proj"], width, [width, width, width], {
      quantised,
    });
    this.#out = new Linear(attention, "out_proj", width, width, { quantised });
    this.#norm2 = new LayerNorm(scope, "layer_norm2", width, layerNormEps);
    this.#fc1 = new Linear(mlp, "fc1", width, intermediateSize, { quantised });
    this.#fc2 = new Linear(mlp, "fc2", intermediateSize, width, { quantised });
    this.#heads = config.numAttentionHeads;
    this.#headWidth = width / config.numAttentionHeads;
    this.#activation = ACTIVATIONS[config.hiddenAct];
  }

  /** x [B, T, D] → [B, T, D]. */
  forward(g: Recorder, x: Value): Value {
    const qkv = this.#qkv.forward(g, this.#norm1.forward(g, x)).split(-1, [3, this.#heads, this.#headWidth]);
    const attended = g.attention(qkv.pick(2, 0), qkv.pick(2, 1), qkv.pick(2, 2), {
      scale: 1 / Math.sqrt(this.#headWidth),
      causal: true,
    });
    const y = this.#out.forward(g, attended.reshape(x.shape), { residual: x });
    const inner = this.#fc1.forward(g, this.#norm2.forward(g, y), { activation: this.#activation });
    return this.#fc2.forward(g, inner, { residual: y });
  }
}
