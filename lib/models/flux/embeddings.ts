import type { FluxTransformerConfig } from "../../loaders/config.js";
import { Linear } from "../../nn/linear.js";
import type { Scope } from "../../nn/scope.js";
import { type Recorder, type Tensor, valueOf } from "../../runtime/recorder.js";
import type { Value } from "../../runtime/value.js";

/** Sinusoid width of timestep and guidance. */
const FREQUENCIES = 256;

/** Linear, SiLU, Linear: how a scalar's sinusoids or the pooled text become a vector of the model's width. */
class Embedder {
  readonly #first: Linear;
  readonly #second: Linear;

  constructor(scope: Scope, columns: number, width: number) {
    this.#first = new Linear(scope, "linear_1", columns, width);
    this.#second = new Linear(scope, "linear_2", width, width);
  }

  forward(g: Recorder, x: Tensor): Value {
    return this.#second.forward(g, this.#first.forward(g, x, { activation: "silu" }));
  }
}

/** What a denoising step is conditioned on, for all steps of a run. */
export interface Conditioning {
  /** Of each step and batch entry, in [0, 1]: [S, B] f32. */
  readonly timesteps: Tensor;
  /** The guidance scale of each batch entry: [B] f32; ignored by models without a guidance embedding. */
  readonly guidance: Tensor;
  /** Pooled text embedding: [B, P] f32. */
  readonly pooled: Tensor;
}

/** temb = time(t) + guidance(g) + text(pooled), for all steps at once. */
export class TimeTextEmbedding {
  readonly #time: Embedder;
  readonly #guidance: Embedder | undefined;
  readonly #text: Embedder;

  constructor(scope: Scope, config: FluxTransformerConfig, width: number) {
    this.#time = new Embedder(scope.at("timestep_embedder"), FREQUENCIES, width);
    this.#guidance = config.guidanceEmbeds
      ? new Embedder(scope.at("guidance_embedder"), FREQUENCIES, width)
      : undefined;
    this.#text = new Embedder(scope.at("text_embedder"), config.pooledProjectionDim, width);
  }

  /** → [S, B, D]. */
  forward(g: Recorder, { timesteps, guidance, pooled }: Conditioning): Value {
    const [steps, batch] = valueOf(timesteps).shape as [number, number];
    const flat = valueOf(timesteps).reshape([steps * batch]);
    const time = this.#time.forward(g, g.timestepEmbedding(flat, FREQUENCIES));
    let text = this.#text.forward(g, pooled);
    if (this.#guidance !== undefined) {
      text = g.add(this.#guidance.forward(g, g.timestepEmbedding(guidance, FREQUENCIES)), text);
    }
    return g.add(time.split(0, [steps, batch]), text.repeat(0, steps));
  }
}
