import type { Buffer } from "../buffer.js";
import { show, type Value } from "../value.js";
import { SamplerOps } from "./sampler.js";
import { check, sameShape, type Tensor, valueOf } from "./tensor.js";

/** What `cacheDecision` reads and keeps from step to step. csrc/cpu/ops.h has the rule. */
export interface CacheDecisionMemory {
  /** Below it a step is skipped: [1]. */
  readonly threshold: Buffer<"f32">;
  /** Steps that are computed before any may be skipped, and how many may be skipped in a row: [2]. */
  readonly limits: Buffer<"i32">;
  /** Zeros before the first step: [4]. */
  readonly state: Buffer<"i32">;
  /** Of each step so far, 0 for the first: [S]. */
  readonly differences: Buffer<"f32">;
  /** Of each step so far, 1 where it was computed: [S]. */
  readonly decisions: Buffer<"i32">;
}

export interface CacheDecision {
  /** [1] i32; one of the two is 1. */
  readonly compute: Value;
  readonly skip: Value;
  /** [1] f32: the skipped step's distance from the last computed one in units of that one's distance from the one before. */
  readonly factor: Value;
}

/** What decides, on the device, whether a step is computed or skipped. */
export class CacheOps extends SamplerOps {
  /** How far a residual moved: Σ|x − base − previous| / Σ|previous| as [1] f32; the three have one shape. */
  relativeDifference(x: Tensor, base: Tensor, previous: Tensor): Value {
    const { shape, elements } = valueOf(x);
    check(
      sameShape(shape, valueOf(base).shape) && sameShape(shape, valueOf(previous).shape),
      () => `relativeDifference: ${show(valueOf(x))}, ${show(valueOf(base))} and ${show(valueOf(previous))}`,
    );
    return this.emit("relativeDifference", {
      inputs: { x, base, previous },
      outputs: { y: this.empty([1], "f32") },
      flops: 5 * elements,
    });
  }

  /**
   * Whether a step that moved by `difference` is computed or skipped, as two flags for `if`, and by how much of the last
   * change a skipped one extrapolates. Reads and advances `state`, and writes down what it saw and said.
   */
  cacheDecision(difference: Tensor, memory: CacheDecisionMemory): CacheDecision {
    const { threshold, limits, state, differences, decisions } = memory;
    const flags = { compute: this.empty([1], "i32"), skip: this.empty([1], "i32") };
    const outputs = { ...flags, factor: this.empty([1], "f32") };
    this.emit("cacheDecision", {
      inputs: { difference, threshold, limits },
      outputs: { ...outputs, state: state.value, differences: differences.value, decisions: decisions.value },
    });
    return outputs;
  }
}
