import { FluxError } from "../../errors.js";
import type { FluxTransformerConfig } from "../../loaders/config.js";
import { Linear } from "../../nn/linear.js";
import { Model } from "../../nn/model.js";
import type { Precision } from "../../nn/scope.js";
import type { Device } from "../../runtime/device.js";
import type { AttentionType } from "../../runtime/heads.js";
import { type Recorder, type Tensor, valueOf } from "../../runtime/recorder.js";
import type { Value } from "../../runtime/value.js";
import { EPS, FluxDoubleBlock } from "./double-block.js";
import { type Conditioning, TimeTextEmbedding } from "./embeddings.js";
import type { FirstBlockCache } from "./first-block-cache.js";
import { Modulation } from "./modulation.js";
import { FluxSingleBlock } from "./single-block.js";

/** RoPE's base. */
const THETA = 10000;

/** What a step reads besides the latents; all of it is made once an image, before the loop. */
export interface StepInputs {
  /** Packed latents of the image (and reference) tokens: [B, Ti, C]. */
  readonly latents: Tensor;
  /** The tokens, from the first on, whose velocity is wanted; all by default. */
  readonly targetTokens?: number;
  /** Embedded text, [B, Tt, D], from `embedText`. */
  readonly text: Tensor;
  /** This step's row of the modulation table: [B, columns]. */
  readonly modulation: Value;
  /** [Tt + Ti, 64, 2] from `rope`. */
  readonly rope: Tensor;
  /**
   * Of 8-bit attention, from step to step: what the blocks' k lose, [blocks, B, heads, 128], zeros before the first step. See `Recorder.heads`.
   */
  readonly keyOffsets?: Tensor | undefined;
  /** Lets a step skip blocks. */
  readonly cache?: FirstBlockCache | undefined;
}

/**
 * FLUX.1's transformer (Black Forest Labs, 2024): double blocks, then single blocks, on one joint sequence [text; image].
 * What does not change with the step (text embedding, modulation, RoPE) is recorded apart from `forward`.
 */
export class FluxTransformer extends Model {
  readonly #embedLatents: Linear;
  readonly #embedText: Linear;
  readonly #embedTime: TimeTextEmbedding;
  readonly #modulation: Modulation;
  readonly doubleBlocks: readonly FluxDoubleBlock[];
  readonly singleBlocks: readonly FluxSingleBlock[];
  readonly #out: Linear;

  constructor(
    device: Device,
    readonly config: FluxTransformerConfig,
    precision: Precision = "f32",
    /** What attention multiplies in. */
    readonly attention: AttentionType = "bf16",
  ) {
    super(device, precision);
    if (config.attentionHeadDim !== 128) {
      throw new FluxError(
        "ERR_FLUX_UNSUPPORTED",
        `attention_head_dim is ${config.attentionHeadDim}; fluxwarp runs models with 128, as all of FLUX.1 have`,
      );
    }
    const { scope } = this;
    const heads = config.numAttentionHeads;
    this.#embedLatents = new Linear(scope, "x_embedder", config.inChannels, this.width);
    this.#embedText = new Linear(scope, "context_embedder", config.jointAttentionDim, this.width);
    this.#embedTime = new TimeTextEmbedding(scope.at("time_text_embed"), config, this.width);
    this.#modulation = new Modulation(scope, config);
    this.doubleBlocks = Array.from(
      { length: config.numLayers },
      (_, i) => new FluxDoubleBlock(scope, i, heads),
    );
    this.singleBlocks = Array.from(
      { length: config.numSingleLayers },
      (_, i) => new FluxSingleBlock(scope, i, heads),
    );
    this.#out = new Linear(scope, "proj_out", this.width, config.outChannels);
  }

  /** Width of the residual stream. */
  get width(): number {
    return this.config.numAttentionHeads * this.config.attentionHeadDim;
  }

  /** Double and single blocks. */
  get blockCount(): number {
    return this.doubleBlocks.length + this.singleBlocks.length;
  }

  /** Columns of the modulation table. */
  get modulationColumns(): number {
    return this.#modulation.columns;
  }

  /** T5 embeddings [B, Tt, J] → [B, Tt, D]. */
  embedText(g: Recorder, promptEmbeds: Tensor, into?: Value): Value {
    return this.#embedText.forward(g, promptEmbeds, into && { into });
  }

  /** Every block's modulation at every step: [S, B, columns]. */
  modulate(g: Recorder, conditioning: Conditioning, into?: Value): Value {
    return this.#modulation.forward(g, this.#embedTime.forward(g, conditioning), into);
  }

  /** The rotary table of token ids [T, 3]: index, row, column. */
  rope(g: Recorder, ids: Tensor): Value {
    return g.ropeTable(ids, this.config.axesDimsRope, THETA);
  }

  /** The velocity at the target tokens: [B, targetTokens, outChannels]. */
  forward(g: Recorder, inputs: StepInputs): Value {
    const { latents, targetTokens, text, modulation: row, rope, keyOffsets, cache } = inputs;
    const [batch, textTokens, width] = valueOf(text).shape as [number, number, number];
    const imageTokens = valueOf(latents).shape[1]!;
    const hidden = g.empty([batch, textTokens + imageTokens, width]);
    const image = hidden.slice(1, textTokens, imageTokens);
    g.copy(text, hidden.slice(1, 0, textTokens));
    this.#embedLatents.forward(g, latents, { into: image });

    const { attention } = this;
    const offsets = keyOffsets && valueOf(keyOffsets);
    const context = { modulation: this.#modulation, row, rope: g.rope(rope), textTokens, attention };
    const asked = { start: textTokens, length: targetTokens ?? imageTokens };
    const contextOf = (block: number) => ({ ...context, keyOffset: offsets?.pick(0, block) });
    const blocks = [
      ...this.doubleBlocks.map((block, index) => () => block.forward(g, hidden, contextOf(index))),
      ...this.singleBlocks.map((block, index) => () => {
        // Nothing reads the other tokens after the last block.
        const wanted = index === this.singleBlocks.length - 1 ? asked : undefined;
        block.forward(g, hidden, contextOf(this.doubleBlocks.length + index), wanted);
      }),
    ];
    if (cache !== undefined) cache.record(g, hidden, blocks);
    else for (const block of blocks) block();

    const target = hidden.slice(1, asked.start, asked.length);
    const x = g.layerNorm(target, { ...this.#modulation.final(row), eps: EPS });
    return this.#out.forward(g, x, { dtype: "f32" });
  }
}
