import { type CacheLimits, type CacheShape, FirstBlockCache } from "../models/flux/first-block-cache.js";
import type { FluxTransformer } from "../models/flux/transformer.js";
import type { Buffer } from "../runtime/buffer.js";
import type { Plan } from "../runtime/plan.js";
import type { Recorder, Tensor } from "../runtime/recorder.js";
import type { Value } from "../runtime/value.js";
import { Allocation } from "./allocation.js";
import { type CacheReport, countOf } from "./cache.js";
import { DenoiserImages, type ImageShape } from "./conditioning/denoiser-images.js";

/** What a recorded denoising loop depends on. Anything else is contents of its Buffers. */
export interface DenoiserShape {
  readonly batch: number;
  readonly textTokens: number;
  /** Of latent tokens: a sixteenth of the image's sides. */
  readonly rows: number;
  readonly columns: number;
  readonly steps: number;
  /** True classifier-free guidance's scale; 1 without. */
  readonly trueCfgScale: number;
  readonly cache?: CacheShape | undefined;
  /** What pictures have to do with it; undefined for text alone. */
  readonly images?: ImageShape | undefined;
}

/** One side of true classifier-free guidance: the text that it is conditioned on, and what follows from it before the loop. */
interface Branch {
  /** T5's embeddings, [B, Tt, J]. */
  readonly promptEmbeds: Buffer<"f32">;
  /** CLIP's, [B, P]. */
  readonly pooled: Buffer<"f32">;
  /** Embedded text, [B, Tt, D]. */
  readonly text: Buffer<"f32">;
  /** Modulation of every step, [S, B, columns]. */
  readonly table: Buffer<"f32">;
  /** What every block's k lose in 8-bit attention, [blocks, B, heads, 128]: zeros at first, then what the step before found. */
  readonly keyOffsets: Buffer<"f32"> | undefined;
  readonly cache: FirstBlockCache | undefined;
}

/**
 * The denoising loop of one shape: Buffers that hold everything that changes from image to image, a plan that runs once
 * before the loop, and a plan that is one step. A step needs nothing from the host: sigmas, modulation and the step
 * counter are on the device.
 */
export class Denoiser {
  /** Unpacked noise [B, C/4, 2·rows, 2·columns], in the order in which PyTorch draws it. */
  readonly noise: Buffer<"f32">;
  /** Packed latents [B, Ti, C]: noise before the loop, the image's latents after it. */
  readonly latents: Buffer<"f32">;
  /** Of each step and batch entry, in [0, 1]: [S, B]. */
  readonly timesteps: Buffer<"f32">;
  /** [S + 1], the last 0. */
  readonly sigmas: Buffer<"f32">;
  /** [B]. */
  readonly guidance: Buffer<"f32">;
  /** Index, row and column of all tokens, text first: [T, 3]. */
  readonly ids: Buffer<"f32">;
  /** The step to run next: [1]. */
  readonly counter: Buffer<"i32">;
  readonly positive: Branch;
  readonly negative: Branch | undefined;
  readonly images: DenoiserImages | undefined;
  /** Packs the noise into the latents. */
  readonly pack: Plan;
  /** Embeds texts, makes every step's modulation and the rotary table. */
  readonly prepare: Plan;
  /** One denoising step. */
  readonly step: Plan;

  readonly #rope: Buffer<"f32">;
  readonly #allocation: Allocation;

  constructor(
    readonly transformer: FluxTransformer,
    readonly shape: DenoiserShape,
  ) {
    const { batch, textTokens, rows, columns, steps } = shape;
    const { config } = transformer;
    const allocation = new Allocation(transformer.device);
    this.#allocation = allocation;
    const tokens = textTokens + rows * columns + (shape.images?.referenceTokens ?? 0);
    this.noise = allocation.buffer("f32", [batch, config.outChannels / 4, 2 * rows, 2 * columns]);
    this.latents = allocation.buffer("f32", [batch, rows * columns, config.outChannels]);
    this.timesteps = allocation.buffer("f32", [steps, batch]);
    this.sigmas = allocation.buffer("f32", [steps + 1]);
    this.guidance = allocation.buffer("f32", [batch]);
    this.ids = allocation.buffer("f32", [tokens, 3]);
    this.counter = allocation.buffer("i32", [1]);
    this.#rope = allocation.buffer("f32", [tokens, config.attentionHeadDim / 2, 2]);
    this.positive = this.#branch();
    this.negative = shape.trueCfgScale > 1 ? this.#branch() : undefined;
    this.images = shape.images && new DenoiserImages(allocation, transformer, shape.images, this.latents);
    this.pack = allocation.record("pack", (g) => {
      g.packLatents(this.noise, { channelsFirst: true, into: this.start.value });
    });
    this.prepare = allocation.record("prepare", (g) => this.#recordPrepare(g));
    this.step = allocation.record("step", (g) => this.#recordStep(g));
  }

  /** Where packed noise goes before the loop. */
  get start(): Buffer<"f32"> {
    return this.images?.noise ?? this.latents;
  }

  /** Makes attention forget the image before. */
  async resetKeyOffsets(): Promise<void> {
    await Promise.all(
      this.#branches().map(({ keyOffsets }) => keyOffsets?.write(new Float32Array(keyOffsets.elements))),
    );
  }

  /** Makes the caches forget the image before, if there are any. */
  async resetCache(limits: CacheLimits | undefined): Promise<void> {
    if (limits !== undefined) await Promise.all(this.#branches().map(({ cache }) => cache?.reset(limits)));
  }

  /** What the caches did since `resetCache`. */
  async cacheReport(): Promise<CacheReport | undefined> {
    const { transformer } = this;
    const counts = this.#branches().map(
      async ({ cache }) => cache && countOf(await cache.history(), cache.shape, transformer.blockCount),
    );
    const [positive, negative] = await Promise.all(counts);
    return positive && { ...positive, ...(negative && { negative }) };
  }

  /** Of its Buffers. */
  get bytes(): number {
    return this.#allocation.bytes;
  }

  dispose(): void {
    this.#allocation.dispose();
  }

  #recordPrepare(g: Recorder): void {
    const { transformer, timesteps, guidance } = this;
    g.copy(transformer.rope(g, this.ids), this.#rope);
    this.images?.recordPrepare(g, this.sigmas, this.counter);
    for (const { promptEmbeds, pooled, text, table } of this.#branches()) {
      transformer.embedText(g, promptEmbeds, text.value);
      transformer.modulate(g, { timesteps, guidance, pooled }, table.value);
    }
  }

  #recordStep(g: Recorder): void {
    const { latents, sigmas, counter, shape } = this;
    const input = this.images?.input(g) ?? latents;
    let velocity = this.#velocity(g, input, this.positive);
    if (this.negative !== undefined) {
      velocity = g.guide(this.#velocity(g, input, this.negative), velocity, shape.trueCfgScale);
    }
    g.eulerStep(latents, velocity, sigmas, counter);
    g.increment(counter);
    this.images?.recordKeep(g, sigmas, counter);
  }

  #velocity(g: Recorder, latents: Tensor, { text, table, keyOffsets, cache }: Branch): Value {
    const modulation = g.takeRow(table, this.counter);
    const targetTokens = this.latents.shape[1]!;
    const inputs = { latents, targetTokens, text, modulation, rope: this.#rope, keyOffsets, cache };
    return this.transformer.forward(g, inputs);
  }

  #branches(): Branch[] {
    return this.negative === undefined ? [this.positive] : [this.positive, this.negative];
  }

  #branch(): Branch {
    const { batch, textTokens, rows, columns, steps, cache, images } = this.shape;
    const targetTokens = rows * columns;
    const imageTokens = targetTokens + (images?.referenceTokens ?? 0);
    const { attention, blockCount, config, width, modulationColumns } = this.transformer;
    const allocation = this.#allocation;
    const stream = { batch, textTokens, imageTokens, targetTokens, width, steps };
    return {
      promptEmbeds: allocation.buffer("f32", [batch, textTokens, config.jointAttentionDim]),
      pooled: allocation.buffer("f32", [batch, config.pooledProjectionDim]),
      text: allocation.buffer("f32", [batch, textTokens, width]),
      table: allocation.buffer("f32", [steps, batch, modulationColumns]),
      keyOffsets:
        attention === "bf16"
          ? undefined
          : allocation.buffer("f32", [blockCount, batch, config.numAttentionHeads, 128]),
      cache: cache && new FirstBlockCache(allocation, allocation.device.dtype, cache, stream),
    };
  }
}
