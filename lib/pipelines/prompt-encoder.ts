import type { Tokenizer } from "../loaders/tokenizers.js";
import { type CLIPTextEncoder, pooledTokenIndices } from "../models/clip-text-encoder.js";
import type { T5Encoder } from "../models/t5-encoder.js";
import type { Buffer } from "../runtime/buffer.js";
import type { Device } from "../runtime/device.js";
import type { Plan } from "../runtime/plan.js";
import type { Recorder } from "../runtime/recorder.js";
import type { Value } from "../runtime/value.js";
import { Allocation } from "./allocation.js";
import { Kept, type Recorded } from "./kept.js";

/** CLIP reads this many tokens. */
const CLIP_TOKENS = 77;
/** Embeddings that are kept, in bytes: about thirty prompts of FLUX.1-dev. */
const CACHE_BYTES = 256 * 2 ** 20;
/** Buffers of T5's plans that are kept, each for a length: about eight of 512 tokens. */
const PLAN_BYTES = 2 ** 26;

/** The two text encoders with their tokenizers. */
export interface TextEncoders {
  readonly clip: {
    readonly tokenizer: Tokenizer;
    readonly model: CLIPTextEncoder;
    readonly eosTokenId: number;
  };
  readonly t5: { readonly tokenizer: Tokenizer; readonly model: T5Encoder };
}

/** A recorded encoder: token ids in, one embedding out. */
interface EncoderPlan extends Recorded {
  readonly plan: Plan;
  readonly ids: Buffer<"i32">;
  readonly index?: Buffer<"i32">;
  readonly out: Buffer<"f32">;
}

/**
 * Prompts to embeddings, one plan per encoder and length. Embeddings are remembered in host memory, the least recently used go first; a new one
 * goes to its readers on the device itself, and nobody waits for the host's copy of it.
 */
export class PromptEncoder {
  #clip: EncoderPlan | undefined;
  /** By length. */
  readonly #t5 = new Kept<EncoderPlan>(PLAN_BYTES);
  readonly #cache = new Map<string, Float32Array>();
  #cachedBytes = 0;
  /** What was read in an earlier one is of no use any more. */
  #generation = 0;

  constructor(
    readonly device: Device,
    readonly encoders: TextEncoders,
    /** Widths of the two outputs. */
    readonly widths: { readonly pooled: number; readonly sequence: number },
  ) {}

  /** CLIP's pooled output, [P], into the given rows of a Buffer [B, P]. */
  pooled(text: string, into: Buffer<"f32">, rows: readonly number[]): Promise<void> {
    return this.#encode(`clip:${text}`, into, rows, () => {
      const { tokenizer, eosTokenId } = this.encoders.clip;
      const { ids, truncated } = tokenizer.encode(text, { maxLength: CLIP_TOKENS });
      if (truncated) warnTruncated("CLIP", CLIP_TOKENS);
      const encoder = this.#clipPlan();
      const pooledIndex = pooledTokenIndices(ids, CLIP_TOKENS, eosTokenId);
      return { encoder, queued: [encoder.ids.write(ids), encoder.index!.write(pooledIndex)] };
    });
  }

  /** T5's output, [tokens, J], into the given rows of a Buffer [B, tokens, J]. */
  sequence(text: string, tokens: number, into: Buffer<"f32">, rows: readonly number[]): Promise<void> {
    return this.#encode(`t5:${tokens}:${text}`, into, rows, () => {
      const { ids, truncated } = this.encoders.t5.tokenizer.encode(text, { maxLength: tokens });
      if (truncated) warnTruncated("T5", tokens);
      const encoder = this.#t5Plan(tokens);
      return { encoder, queued: [encoder.ids.write(ids)] };
    });
  }

  /** Gives back plans and their Buffers; the models belong to the pipeline. */
  dispose(): void {
    this.#generation++;
    this.#clip?.dispose();
    this.#t5.dispose();
    this.#cache.clear();
    this.#cachedBytes = 0;
  }

  /** CLIP is another from now on: its embeddings, and with `plan` its recording, are of no use any more. */
  forgetClip({ plan }: { plan: boolean }): void {
    this.#generation++;
    for (const [key, { byteLength }] of this.#cache) {
      if (!key.startsWith("clip:")) continue;
      this.#cache.delete(key);
      this.#cachedBytes -= byteLength;
    }
    if (!plan) return;
    this.#clip?.dispose();
    this.#clip = undefined;
  }

  #clipPlan(): EncoderPlan {
    this.#clip ??= this.#record("CLIP", (allocation) => {
      const { model } = this.encoders.clip;
      const ids = allocation.buffer("i32", [1, CLIP_TOKENS]);
      const index = allocation.buffer("i32", [1]);
      const out = allocation.buffer("f32", [1, this.widths.pooled]);
      return { ids, index, out, forward: (g) => model.forward(g, ids, index).pooled };
    });
    return this.#clip;
  }

  #t5Plan(tokens: number): EncoderPlan {
    const make = () =>
      this.#record(`T5, ${tokens} tokens`, (allocation) => {
        const ids = allocation.buffer("i32", [1, tokens]);
        const out = allocation.buffer("f32", [1, tokens, this.widths.sequence]);
        return { ids, out, forward: (g) => this.encoders.t5.model.forward(g, ids) };
      });
    return this.#t5.of(String(tokens), make);
  }

  #record(
    name: string,
    build: (
      allocation: Allocation,
    ) => Pick<EncoderPlan, "ids" | "index" | "out"> & { forward: (g: Recorder) => Value },
  ): EncoderPlan {
    const allocation = new Allocation(this.device);
    const { forward, ...buffers } = build(allocation);
    const plan = allocation.record(name, (g) => g.copy(forward(g), buffers.out));
    return { ...buffers, plan, bytes: allocation.bytes, dispose: () => allocation.dispose() };
  }

  /** @param queue writes what the encoder reads. */
  async #encode(
    key: string,
    into: Buffer<"f32">,
    rows: readonly number[],
    queue: () => { encoder: EncoderPlan; queued: Promise<void>[] },
  ): Promise<void> {
    const length = into.elements / into.shape[0]!;
    const known = this.#recall(key);
    if (known !== undefined) {
      await Promise.all(rows.map((row) => into.write(known, row * length)));
      return;
    }
    const { encoder, queued } = queue();
    const { plan, out } = encoder;
    const all = [...queued, plan.run(), ...rows.map((row) => into.copyFrom(out, row * length))];
    const generation = this.#generation;
    out.read().then(
      (embedding) => {
        if (generation === this.#generation) this.#remember(key, embedding);
      },
      () => {}, // what is wrong shows in the others
    );
    await Promise.all(all);
  }

  #recall(key: string): Float32Array | undefined {
    const known = this.#cache.get(key);
    if (known === undefined) return undefined;
    this.#cache.delete(key);
    this.#cache.set(key, known); // the last to go
    return known;
  }

  #remember(key: string, embedding: Float32Array): void {
    if (this.#cache.has(key)) return;
    this.#cache.set(key, embedding);
    this.#cachedBytes += embedding.byteLength;
    for (const [oldest, { byteLength }] of this.#cache) {
      if (this.#cachedBytes <= CACHE_BYTES || oldest === key) break;
      this.#cache.delete(oldest);
      this.#cachedBytes -= byteLength;
    }
  }
}

function warnTruncated(encoder: string, tokens: number): void {
  process.emitWarning(
    `the prompt is longer than the ${tokens} tokens that ${encoder} reads; the rest is ignored`,
    {
      code: "FLUX_PROMPT_TRUNCATED",
    },
  );
}
