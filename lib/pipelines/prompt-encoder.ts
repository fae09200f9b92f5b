import type { Tokenizer } from "../loaders/tokenizers.js";
import { type CLIPTextEncoder, pooledTokenIndices } from "../models/clip-text-encoder.js";
import type { T5Encoder } from "../models/t5-encoder.js";
import type { Buffer } from "../runtime/buffer.js";
import type { Device } from "../runtime/device.js";
import type { Plan } from "../runtime/plan.js";
import { Allocation } from "./allocation.js";
import type { HostTensor } from "./host-tensor.js";

/** CLIP reads this many tokens. */
const CLIP_TOKENS = 77;
/** Embeddings that are kept, in bytes: about thirty prompts of FLUX.1-dev. */
const CACHE_BYTES = 256 * 2 ** 20;

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
interface EncoderPlan {
  readonly allocation: Allocation;
  readonly plan: Plan;
  readonly ids: Buffer<"i32">;
  readonly index?: Buffer<"i32">;
  readonly out: Buffer<"f32">;
}

/** Prompts to embeddings, one plan per encoder and length; embeddings are remembered, the least recently used go first. */
export class PromptEncoder {
  readonly #plans = new Map<string, EncoderPlan>();
  readonly #cache = new Map<string, HostTensor>();
  #cachedBytes = 0;

  constructor(
    readonly device: Device,
    readonly encoders: TextEncoders,
    /** Widths of the two outputs. */
    readonly widths: { readonly pooled: number; readonly sequence: number },
  ) {}

  /** CLIP's pooled output, [P]. */
  pooled(text: string): Promise<HostTensor> {
    return this.#remember(`clip:${text}`, async () => {
      const { tokenizer, eosTokenId } = this.encoders.clip;
      const { ids, truncated } = tokenizer.encode(text, { maxLength: CLIP_TOKENS });
      if (truncated) warnTruncated("CLIP", CLIP_TOKENS);
      const { plan, ids: idBuffer, index, out } = this.#clipPlan();
      const pooledIndex = pooledTokenIndices(ids, CLIP_TOKENS, eosTokenId);
      const queued = [idBuffer.write(ids), index!.write(pooledIndex), plan.run()] as const;
      return { data: (await Promise.all([out.read(), ...queued]))[0], shape: out.shape.slice(1) };
    });
  }

  /** T5's output, [tokens, J]. */
  sequence(text: string, tokens: number): Promise<HostTensor> {
    return this.#remember(`t5:${tokens}:${text}`, async () => {
      const { ids, truncated } = this.encoders.t5.tokenizer.encode(text, { maxLength: tokens });
      if (truncated) warnTruncated("T5", tokens);
      const { plan, ids: idBuffer, out } = this.#t5Plan(tokens);
      const queued = [idBuffer.write(ids), plan.run()] as const;
      return { data: (await Promise.all([out.read(), ...queued]))[0], shape: out.shape.slice(1) };
    });
  }

  /** Gives back plans and their Buffers; the models belong to the pipeline. */
  dispose(): void {
    for (const { allocation } of this.#plans.values()) allocation.dispose();
    this.#plans.clear();
    this.#cache.clear();
    this.#cachedBytes = 0;
  }

  /** CLIP is another from now on: its embeddings, and with `plan` its recording, are of no use any more. */
  forgetClip({ plan }: { plan: boolean }): void {
    for (const [key, { data }] of this.#cache) {
      if (!key.startsWith("clip:")) continue;
      this.#cache.delete(key);
      this.#cachedBytes -= data.byteLength;
    }
    if (!plan) return;
    this.#plans.get("clip")?.allocation.dispose();
    this.#plans.delete("clip");
  }

  #clipPlan(): EncoderPlan {
    return this.#planOf("clip", (allocation) => {
      const { model } = this.encoders.clip;
      const ids = allocation.buffer("i32", [1, CLIP_TOKENS]);
      const index = allocation.buffer("i32", [1]);
      const out = allocation.buffer("f32", [1, this.widths.pooled]);
      const plan = allocation.record("CLIP", (g) => g.copy(model.forward(g, ids, index).pooled, out));
      return { allocation, plan, ids, index, out };
    });
  }

  #t5Plan(tokens: number): EncoderPlan {
    return this.#planOf(`t5:${tokens}`, (allocation) => {
      const { model } = this.encoders.t5;
      const ids = allocation.buffer("i32", [1, tokens]);
      const out = allocation.buffer("f32", [1, tokens, this.widths.sequence]);
      const plan = allocation.record(`T5, ${tokens} tokens`, (g) => g.copy(model.forward(g, ids), out));
      return { allocation, plan, ids, out };
    });
  }

  #planOf(key: string, record: (allocation: Allocation) => EncoderPlan): EncoderPlan {
    let plan = this.#plans.get(key);
    if (plan === undefined) {
      plan = record(new Allocation(this.device));
      this.#plans.set(key, plan);
    }
    return plan;
  }

  async #remember(key: string, encode: () => Promise<HostTensor>): Promise<HostTensor> {
    let embedding = this.#cache.get(key);
    if (embedding !== undefined) {
      this.#cache.delete(key);
    } else {
      embedding = await encode();
      this.#cachedBytes += embedding.data.byteLength;
    }
    this.#cache.set(key, embedding);
    for (const [oldest, { data }] of this.#cache) {
      if (this.#cachedBytes <= CACHE_BYTES || oldest === key) break;
      this.#cache.delete(oldest);
      this.#cachedBytes -= data.byteLength;
    }
    return embedding;
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
