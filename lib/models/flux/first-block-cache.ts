import type { Buffer } from "../../runtime/buffer.js";
import type { Device } from "../../runtime/device.js";
import type { CacheDecisionMemory, Recorder } from "../../runtime/recorder.js";
import type { Value } from "../../runtime/value.js";

/** What of a cache a recorded step depends on. */
export interface CacheShape {
  /** Blocks that always run first; what they add to the image is compared. */
  readonly probeBlocks: number;
  /** Blocks that always run last. */
  readonly finalBlocks: number;
  /** 0: a skipped step adds the cached residual as it is; 1: extrapolated from the last two. */
  readonly taylorOrder: 0 | 1;
}

/** What may change from image to image. */
export interface CacheLimits {
  readonly threshold: number;
  readonly warmupSteps: number;
  readonly maxConsecutiveHits: number;
}

/** Sizes of the joint stream [B, text + image, D] and the number of steps. */
export interface StreamShape {
  readonly batch: number;
  readonly textTokens: number;
  /** With those of references. */
  readonly imageTokens: number;
  /** Of them, the first, which become the picture. */
  readonly targetTokens: number;
  readonly width: number;
  readonly steps: number;
}

/** What happened at each step: differences, 0 for the first, and whether all blocks were computed. */
export interface CacheHistory {
  readonly differences: Float32Array;
  readonly computed: boolean[];
}

const MOST = 2 ** 31 - 1;

/**
 * First-block cache (ParaAttention's First Block Cache; with several probing and final blocks DBCache of cache-dit; with
 * extrapolation TaylorSeer, Liu et al. 2025). The probe's residual r is what the first blocks add to the image tokens of the
 * whole batch. With r′ that of the last computed step, a step for which mean|r − r′| / mean|r′| is below the threshold skips
 * the blocks between probe and final ones and adds what they added last. The decision is an op and the branches are
 * conditions of the plan, so a step needs no host. One cache serves one stream of steps: true CFG has one for each branch.
 */
export class FirstBlockCache implements CacheDecisionMemory {
  readonly threshold: Buffer<"f32">;
  readonly limits: Buffer<"i32">;
  readonly state: Buffer<"i32">;
  readonly differences: Buffer<"f32">;
  readonly decisions: Buffer<"i32">;
  /** The probe's residual at the last computed step: [B, image, D]. */
  readonly #previous: Buffer;
  /** What the skippable blocks added at that step: [B, target, D], with final blocks [B, text + image, D]. */
  readonly #residual: Buffer;
  /** By how much that differs from the computed step before it. */
  readonly #change: Buffer | undefined;

  constructor(
    device: Pick<Device, "buffer">,
    dtype: "f32" | "bf16",
    readonly shape: CacheShape,
    readonly stream: StreamShape,
  ) {
    const { batch, textTokens, imageTokens, targetTokens, width, steps } = stream;
    this.threshold = device.buffer("f32", [1]);
    this.limits = device.buffer("i32", [2]);
    this.state = device.buffer("i32", [4]);
    this.differences = device.buffer("f32", [steps]);
    this.decisions = device.buffer("i32", [steps]);
    this.#previous = device.buffer(dtype, [batch, imageTokens, width]);
    // Nothing reads text and references after the last block, so without final blocks they are not kept.
    const kept = shape.finalBlocks > 0 ? textTokens + imageTokens : targetTokens;
    this.#residual = device.buffer(dtype, [batch, kept, width]);
    this.#change = shape.taylorOrder === 1 ? device.buffer(dtype, [batch, kept, width]) : undefined;
  }

  /** Records all blocks, given in order, on the joint stream [B, text + image, D]. */
  record(g: Recorder, hidden: Value, blocks: readonly (() => void)[]): void {
    const { probeBlocks, finalBlocks } = this.shape;
    const { textTokens, imageTokens, targetTokens } = this.stream;
    const final = blocks.length - finalBlocks;
    const image = hidden.slice(1, textTokens, imageTokens);
    const cached = finalBlocks > 0 ? hidden : image.slice(1, 0, targetTokens);

    const input = g.empty(image.shape);
    g.copy(image, input);
    for (const block of blocks.slice(0, probeBlocks)) block();
    const difference = g.relativeDifference(image, input, this.#previous);
    const { compute, skip, factor } = g.cacheDecision(difference, this);
    g.if(compute, () => {
      g.subtract(image, input, this.#previous);
      this.#measure(g, cached, () => {
        for (const block of blocks.slice(probeBlocks, final)) block();
      });
    });
    g.if(skip, () => {
      g.add(cached, this.#residual, cached);
      if (this.#change !== undefined) g.addScaled(cached, this.#change, factor);
    });
    for (const block of blocks.slice(final)) block();
  }

  /** For the next image. */
  async reset({ threshold, warmupSteps, maxConsecutiveHits }: CacheLimits): Promise<void> {
    await Promise.all([
      this.threshold.write(Float32Array.of(threshold)),
      this.limits.write(Int32Array.of(Math.min(warmupSteps, MOST), Math.min(maxConsecutiveHits, MOST))),
      this.state.write(new Int32Array(4)),
    ]);
  }

  /** The steps since `reset`. */
  async history(): Promise<CacheHistory> {
    const [state, differences, decisions] = await Promise.all([
      this.state.read(),
      this.differences.read(),
      this.decisions.read(),
    ]);
    const steps = state[0]!;
    return {
      differences: differences.subarray(0, steps),
      computed: Array.from(decisions.subarray(0, steps), (decision) => decision === 1),
    };
  }

  /** Records `blocks` and keeps what they add to `cached`. Until they are done the buffer holds what they started from. */
  #measure(g: Recorder, cached: Value, blocks: () => void): void {
    const start = this.#change ?? this.#residual;
    g.copy(cached, start);
    blocks();
    if (this.#change === undefined) {
      g.subtract(cached, start, this.#residual);
      return;
    }
    const residual = g.subtract(cached, start);
    g.subtract(residual, this.#residual, this.#change);
    g.copy(residual, this.#residual);
  }
}
