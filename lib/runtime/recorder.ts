import { Buffer } from "./buffer.js";
import { type DType, elementsOf, sizeOf } from "./dtype.js";
import { type AttentionType, HEAD_TOKENS, Heads, type PackedHeads } from "./heads.js";
import type { Op } from "./op.js";
import { joinChains } from "./together.js";
import { contiguousStride, misuse, Storage, show, Value } from "./value.js";

/** What an op takes: a Value of this recording, or a Buffer. */
export type Tensor = Value | Buffer;

/** Pointwise functions that ops can apply on the way out. `gelu` is the tanh form; `quickGelu` is x·σ(1.702x), as CLIP has it. */
export type Activation = "none" | "gelu" | "silu" | "quickGelu";

/** Into how many parts GroupNorm's sums are cut: kernels/norm/norm.h. */
const GROUP_NORM_SUM_PARTS = 160;

/** Where a tile takes over from the one before it along one axis: after `edge` pixels, over `length`. */
export interface TileRamp {
  readonly edge: number;
  readonly length: number;
}

/** Of `groupNormSums`: the sums [B, parts, C / 2, 2] f32, and over how many pixels of each image. */
export interface GroupNormSums {
  readonly sums: Value;
  readonly pixels: number;
}

const ACTIVATIONS: Readonly<Record<Activation, number>> = { none: 0, gelu: 1, silu: 2, quickGelu: 3 };

/** A linear layer's parameters on the device: weight [N, K]; scale [N] f32 with f8e4m3 weights; bias [N] f32. */
export interface LinearWeights {
  readonly weight: Buffer;
  readonly scale?: Buffer | undefined;
  readonly bias?: Buffer | undefined;
  readonly lowRank?: LowRankWeights | undefined;
  /** What its results can reach, from `weightBounds`: [2] f32. With it they can be quantised as they are written. */
  readonly bounds?: Buffer | undefined;
}

/**
 * A low-rank branch beside a weight: it adds ((x·downᵀ)·scale)·upᵀ to x·Wᵀ. The projections that are stacked in the weight
 * (q, k and v, say) have a branch each, its rank rows one after another in `down`. On a GPU the branch of an f8e4m3 weight has
 * codes in `down`, their scales in `scale`, and each row of `up` divided by the weight's scale, since both products are summed
 * before scales.
 */
export interface LowRankWeights {
  /** [P·r, K]. */
  readonly down: Buffer;
  /** Of every row of `down`: [P·r] f32. */
  readonly scale: Tensor;
  /** [N, r]. */
  readonly up: Buffer;
  /** The row of the weight with which each of the P parts begins; the first is 0. */
  readonly starts: readonly number[];
  /** What the weight's results can reach with the branch, from `branchBounds`. */
  readonly bounds?: Buffer | undefined;
}

/** A convolution's parameters: weight [Co, kh, kw, Ci], bias [Co] f32. */
export interface ConvWeights {
  readonly weight: Buffer;
  readonly bias?: Buffer | undefined;
  /** The weight is a 3×3 kernel for a doubled image, kept as four 2×2 ones: [Co, 4, 4, Ci], see `WeightLayout`. */
  readonly phases?: boolean;
}

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

/** A GroupNorm's parameters over [B, H, W, C]: weight and bias [C] f32, C cut into `groups`. */
export interface GroupNormWeights {
  readonly weight: Tensor;
  readonly bias: Tensor;
  readonly groups: number;
  readonly eps: number;
}

interface OpParts {
  readonly inputs: Readonly<Record<string, Tensor | undefined>>;
  readonly outputs: Readonly<Record<string, Value | undefined>>;
  readonly attributes?: Readonly<Record<string, number>>;
  readonly inPlace?: readonly (readonly [string, string])[];
  readonly flops?: number;
  readonly body?: readonly Op[];
}

/**
 * Records ops. Nothing is computed here: each method checks shapes, appends an op and returns its result as a Value. What
 * every op means, element by element, is written in csrc/cpu/ops.h. `into` writes a given Value (a slice of a joint buffer,
 * say) instead of a new one.
 */
export class Recorder {
  readonly #ops: Op[][] = [[]];
  /** While `together` records one of its chains. */
  #chain: Op[] | undefined;
  /** The nesting of conditions in which each storage was first written. */
  readonly #scopes = new Map<Storage, readonly Op[]>();
  /** Outputs of the convolution that wrote a storage: it can add up, on the way out, what a norm wants of it. */
  readonly #convolved = new Map<Storage, Record<string, Value>>();

  /**
   * @param dtype of activations: f32 on the CPU, bf16 on a GPU. Weights there are bf16 or f8e4m3, and the recorder
   *   converts or quantises what a linear reads.
   * @param fusesNorms whether convolutions take the norm before them along: worth it on a GPU alone.
   */
  constructor(
    readonly dtype: "f32" | "bf16" = "f32",
    readonly fusesNorms = dtype === "bf16",
  ) {}

  /** The ops so far. @internal */
  get ops(): readonly Op[] {
    return this.#ops[0]!;
  }

  /** An unwritten Value, to be filled through views. */
  empty(shape: readonly number[], dtype: DType = this.dtype): Value {
    const storage = new Storage(elementsOf(shape) * sizeOf(dtype), undefined);
    return new Value(storage, dtype, shape, contiguousStride(shape), 0);
  }

  /**
   * Records what `body` records as a condition: it runs only when `flag` ([1] i32) is not 0 at that moment of the run.
   * Values first written inside can be used inside only; to carry something out, write a Value that exists before.
   */
  if(flag: Tensor, body: () => void): void {
    const ops: Op[] = [];
    const chain = this.#chain;
    this.#ops.push(ops);
    this.#chain = undefined;
    try {
      body();
    } finally {
      this.#ops.pop();
      this.#chain = chain;
    }
    this.#emit("if", { inputs: { flag }, outputs: {}, body: ops });
  }

  /**
   * Records `body` once for each of `parts`, which must not touch what another part writes: a double block's text and image,
   * say. Ops at the same place become one op that runs them side by side, on a GPU in one launch where it has a kernel for
   * that, so that a small part does not leave most of the chip idle. Order within a part is kept.
   */
  together<Part>(parts: readonly Part[], body: (part: Part, index: number) => void): void {
    const outer = this.#chain;
    const chains = parts.map((part, index) => {
      const chain: Op[] = [];
      this.#chain = chain;
      try {
        body(part, index);
      } finally {
        this.#chain = outer;
      }
      return chain;
    });
    this.#list.push(...joinChains(chains));
  }

  /**
   * y = residual + gate · act(x·Wᵀ + bias). x [.., K] → [.., N]; gate [B, N] f32 with B the first axis of x; with `residual`
   * and no `into`, y may take the residual's memory. `dtype` is the result's; the activations' by default. With `for`, the
   * result is quantised on the way out if those weights want it so and these have bounds.
   */
  linear(
    x: Tensor,
    weights: LinearWeights,
    options: {
      activation?: Activation;
      residual?: Tensor;
      gate?: Tensor;
      into?: Value;
      dtype?: DType;
      for?: LinearWeights | undefined;
    } = {},
  ): Value {
    const { weight, scale, bias } = weights;
    const input = valueOf(x);
    const [n, k] = matrix(weight);
    check(input.shape.at(-1) === k, () => `linear: ${show(input)} times a weight of [${n}, ${k}]`);
    const shape = input.shape.with(-1, n);
    const yScale = this.#bounded(weights, options.for)
      ? this.empty([elementsOf(shape) / n], "f32")
      : undefined;
    const y = yScale ? this.#quantised(shape, yScale) : (options.into ?? this.empty(shape, options.dtype));
    check(sameShape(y.shape, shape), () => `linear: ${show(y)} cannot hold the result`);
    const factor = this.#factor(input, weight);
    const low = weights.lowRank && this.#lowRank(factor.x, weights.lowRank);
    return this.#emit("linear", {
      inputs: {
        ...factor,
        weight,
        weightScale: scale,
        bias,
        ...low?.inputs,
        residual: options.residual,
        gate: options.gate,
        bounds: yScale && boundsOf(weights),
      },
      outputs: { y, yScale },
      attributes: { activation: ACTIVATIONS[options.activation ?? "none"], ...low?.attributes },
      inPlace: [["y", "residual"]],
      flops: 2 * (input.elements / k) * n * (k + (low?.rank ?? 0)),
    });
  }

  /**
   * The projections of attention in one op: rows q, k, v of `weights` (each heads·128), then, where `mlp` is given, the
   * rows of the MLP's first layer. q and k are RMS-normalised per head and rotated. `qkv` is [B, T, 3, heads, 128], or what `heads` gave.
   */
  qkvLinear(
    x: Tensor,
    weights: LinearWeights,
    options: {
      qkv: Value | Heads;
      normQ: Tensor;
      normK: Tensor;
      rope: Tensor;
      eps: number;
      mlp?: Value;
      /** Of a quantised `mlp`, as `joined` gives it. */
      mlpScale?: Value | undefined;
      activation?: Activation;
    },
  ): void {
    const { weight, scale, bias } = weights;
    const { qkv, mlp, mlpScale, normQ, normK, rope } = options;
    const input = valueOf(x);
    const [n, k] = matrix(weight);
    const form = qkv instanceof Heads ? qkv.form : qkv;
    const heads = qkv instanceof Heads ? qkv.shape[2] : qkv.shape[3]!;
    const width = 3 * heads * 128 + (mlp?.shape.at(-1) ?? 0);
    check(
      input.shape.at(-1) === k && n === width,
      () => `qkvLinear: ${show(input)}, weight [${n}, ${k}], ${width} columns`,
    );
    check(
      valueOf(rope).shape[0] === input.shape[1],
      () => `qkvLinear: rope ${show(valueOf(rope))} for ${show(input)}`,
    );
    const factor = this.#factor(input, weight);
    const low = weights.lowRank && this.#lowRank(factor.x, weights.lowRank);
    const activation = ACTIVATIONS[options.activation ?? "none"];
    this.#emit("qkvLinear", {
      inputs: {
        ...factor,
        weight,
        weightScale: scale,
        bias,
        ...low?.inputs,
        normQ,
        normK,
        rope,
        bounds: mlpScale && boundsOf(weights),
      },
      outputs: { ...(form instanceof Value ? { qkv: form } : form), mlp, mlpScale },
      attributes: {
        eps: options.eps,
        activation,
        ...low?.attributes,
        ...(qkv instanceof Heads && { firstToken: qkv.firstToken }),
      },
      flops: 2 * (input.elements / k) * n * (k + (low?.rank ?? 0)),
    });
  }

  /**
   * Unwritten q, k and v of [B, T, H] for `qkvLinear` to write and `attend` to read. On a GPU `qkvLinear` packs 8-bit types on its way
   * out, when every part that it writes begins at a multiple of 64 tokens; otherwise, and on the CPU, an op of its own does.
   *
   * @param starts the first tokens of the parts, where several layers write one each
   */
  heads(
    shape: readonly [batch: number, tokens: number, heads: number],
    type: AttentionType,
    starts: readonly number[] = [],
  ): Heads {
    const [batch, tokens, heads] = shape;
    const packed =
      type !== "bf16" && this.dtype === "bf16" && starts.every((start) => start % HEAD_TOKENS === 0);
    const form = packed ? this.#emptyHeads(shape, type) : this.empty([batch, tokens, 3, heads, 128]);
    return new Heads(type, form, shape);
  }

  /**
   * Unwritten rows [B, T, D] whose columns `attend` of `heads` and `qkvLinear` of `from`, as `mlp`, write for the linear `next`: quantised
   * already, if `next` wants it so, `from` has bounds and `heads` are packed. The row scale then is the bound of `from`'s results, of which v is
   * a part; a result of attention lies between v's.
   */
  joined(
    shape: readonly number[],
    heads: Heads,
    { from, next }: { from: LinearWeights; next: LinearWeights },
  ): Value {
    if (heads.form instanceof Value || !this.#bounded(from, next)) return this.empty(shape);
    return this.#quantised(shape, this.empty([elementsOf(shape) / shape.at(-1)!], "f32"));
  }

  /** softmax(scale·q·kᵀ)·v of what `qkvLinear` wrote → [B, T, H, 128]. `intoScale` is of a quantised `into`, as `joined` gives it. */
  attend(heads: Heads, options: { scale: number; into?: Value; intoScale?: Value | undefined }): Value {
    const { form, type, shape } = heads;
    if (type === "bf16") {
      const [q, k, v] = [0, 1, 2].map((part) => (form as Value).pick(2, part)) as [Value, Value, Value];
      return this.attention(q, k, v, options);
    }
    const [batch, tokens, count] = shape;
    const packed = form instanceof Value ? this.#packHeads(form, heads) : form;
    return this.#emit("attentionPacked", {
      inputs: { ...packed, yScale: options.intoScale },
      outputs: { y: options.into ?? this.empty([batch, tokens, count, 128]) },
      attributes: { scale: options.scale },
      flops: 4 * batch * count * tokens * tokens * 128,
    });
  }

  /** softmax(scale·q·kᵀ + bias)·v. q [B, T, H, D], k and v [B, S, H, D], bias [H, T, S] → [B, T, H, D]. */
  attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    options: { scale: number; causal?: boolean; bias?: Tensor; into?: Value },
  ): Value {
    const query = valueOf(q);
    const key = valueOf(k);
    check(
      query.shape.length === 4 && key.shape.length === 4,
      () => `attention: ${show(query)} with ${show(key)}`,
    );
    check(sameShape(key.shape, valueOf(v).shape), () => `attention: k ${show(key)}, v ${show(valueOf(v))}`);
    const y = options.into ?? this.empty(query.shape);
    const [batch, tokens, heads, depth] = query.shape as [number, number, number, number];
    return this.#emit("attention", {
      inputs: { q, k, v, bias: options.bias },
      outputs: { y },
      attributes: { scale: options.scale, causal: options.causal === true ? 1 : 0 },
      flops: 4 * batch * heads * tokens * key.shape[1]! * depth,
    });
  }

  /**
   * x̂·weight + bias, or with modulation x̂·(1 + scale) + shift (shift, scale [B, D]). x [.., D]. With `for`, the result is
   * quantised on the way out if those weights want it so.
   */
  layerNorm(
    x: Tensor,
    options: {
      eps: number;
      weight?: Tensor;
      bias?: Tensor;
      shift?: Tensor;
      scale?: Tensor;
      for?: LinearWeights | undefined;
    },
  ): Value {
    const { eps, for: weights, ...inputs } = options;
    if (!this.#quantises(weights?.weight)) return this.#pointwise("layerNorm", { x, ...inputs }, { eps }, 8);
    const { shape, elements } = valueOf(x);
    const scale = this.empty([elementsOf(shape.slice(0, -1))], "f32");
    const y = this.#quantised(shape, scale);
    const outputs = { y, yScale: scale };
    return this.#emit("layerNorm", {
      inputs: { x, ...inputs },
      outputs,
      attributes: { eps },
      flops: 8 * elements,
    });
  }

  /** x / √(mean(x²) + eps) · weight. x [.., D], weight [D]. */
  rmsNorm(x: Tensor, weight: Tensor, eps: number): Value {
    return this.#pointwise("rmsNorm", { x, weight }, { eps }, 4);
  }

  /** Over [B, H, W, C] with C cut into `groups`; then the activation. */
  groupNorm(x: Tensor, options: GroupNormWeights & { activation?: Activation }): Value {
    const { weight, bias, groups, eps, activation = "none" } = options;
    if (this.#convolved.has(valueOf(x).storage) && sumsInPairs(valueOf(x), groups)) {
      return this.groupNormApply(x, this.groupNormAffine([this.groupNormSums(x)], options), activation);
    }
    return this.#pointwise(
      "groupNorm",
      { x, weight, bias },
      { groups, eps, activation: ACTIVATIONS[activation] },
      8,
    );
  }

  /**
   * What GroupNorm has to know of x [B, H, W, C]: sums of x and of x² over each pair of channels, in `GROUP_NORM_SUM_PARTS` parts
   * of the pixels. → [B, parts, C / 2, 2]. On a GPU the convolution that writes x adds them up on the way.
   */
  groupNormSums(x: Tensor): GroupNormSums {
    const value = valueOf(x);
    const [batch, height, width, channels] = value.shape as [number, number, number, number];
    const outputs = this.#convolved.get(value.storage);
    const pixels = height * width;
    if (outputs?.sums !== undefined) return { sums: outputs.sums, pixels };
    const sums = this.empty([batch, GROUP_NORM_SUM_PARTS, channels / 2, 2], "f32");
    if (outputs === undefined) {
      this.#emit("groupNormSums", { inputs: { x }, outputs: { sums }, flops: 3 * value.elements });
    } else {
      outputs.sums = sums;
      this.#scopes.set(sums.storage, this.#scopes.get(value.storage)!);
    }
    return { sums, pixels };
  }

  /**
   * GroupNorm as a multiplier and an addend for each channel, [B, C, 2] f32, from the sums of an image, or of all the tiles of
   * one together.
   */
  groupNormAffine(of: readonly GroupNormSums[], weights: GroupNormWeights): Value {
    const { weight, bias, groups, eps } = weights;
    const [batch, , pairs] = of[0]!.sums.shape as [number, number, number];
    const pixels = of.reduce((total, part) => total + part.pixels, 0);
    let { sums } = of[0]!;
    if (of.length > 1) {
      sums = this.empty([batch, of.length * GROUP_NORM_SUM_PARTS, pairs, 2], "f32");
      of.forEach((part, at) => {
        this.copy(part.sums, sums.slice(1, at * GROUP_NORM_SUM_PARTS, GROUP_NORM_SUM_PARTS));
      });
    }
    return this.#emit("groupNormAffine", {
      inputs: { sums, weight, bias },
      outputs: { y: this.empty([batch, 2 * pairs, 2], "f32") },
      attributes: { groups, eps, pixels },
    });
  }

  /** act(x·multiplier + addend) with `affine` from `groupNormAffine`. */
  groupNormApply(x: Tensor, affine: Tensor, activation: Activation): Value {
    return this.#pointwise("groupNormApply", { x, affine }, { activation: ACTIVATIONS[activation] }, 3);
  }

  /**
   * Channels-last convolution. x [B, H, W, Ci] → [B, Ho, Wo, Co]. With `norm`, of the SiLU of the GroupNorm of x; `affine` is such
   * a norm by `groupNormAffine`. `upsample: 2` doubles x by nearest neighbour first.
   */
  conv2d(
    x: Tensor,
    weights: ConvWeights,
    options: {
      stride?: number;
      padding?: readonly [number, number, number, number];
      upsample?: 1 | 2;
      residual?: Tensor;
      norm?: GroupNormWeights;
      affine?: Tensor;
    } = {},
  ): Value {
    const { weight, bias, phases = false } = weights;
    const { norm, ...rest } = options;
    // Only what the kernel has to load once for all taps is worth normalising as it is loaded.
    const fuses = this.fusesNorms && (options.stride ?? 1) === 1 && !phases && weight.shape[1] === 3;
    if (norm !== undefined) {
      if (fuses && sumsInPairs(valueOf(x), norm.groups)) {
        const affine = this.groupNormAffine([this.groupNormSums(x)], norm);
        return this.conv2d(x, weights, { ...rest, affine });
      }
      const { weight, bias, groups, eps } = norm;
      const normalised = this.groupNorm(x, { weight, bias, groups, eps, activation: "silu" });
      return this.conv2d(normalised, weights, rest);
    }
    if (options.affine !== undefined && !fuses) {
      const { affine, ...plain } = rest;
      return this.conv2d(this.groupNormApply(x, affine!, "silu"), weights, plain);
    }
    const input = valueOf(x);
    const [out, kh, kw, channels] = weight.shape as [number, number, number, number];
    const [batch, height, width, last] = input.shape as [number, number, number, number];
    check(
      input.shape.length === 4 && last === channels,
      () => `conv2d: ${show(input)} with ${channels} input channels`,
    );
    const { stride = 1, upsample = 1, padding = [0, 0, 0, 0] } = options;
    const [padTop, padLeft, padBottom, padRight] = padding;
    check(
      !phases || (upsample === 2 && stride === 1 && padding.every((edge) => edge === 1)),
      () => "conv2d: weights by phases are for upsample 2, stride 1 and padding 1",
    );
    const size = phases ? [3, 3] : [kh, kw];
    const outHeight = Math.floor((height * upsample + padTop + padBottom - size[0]!) / stride) + 1;
    const outWidth = Math.floor((width * upsample + padLeft + padRight - size[1]!) / stride) + 1;
    const y = this.empty([batch, outHeight, outWidth, out]);
    return this.#emit("conv2d", {
      inputs: {
        x: this.#activation(input),
        weight,
        bias,
        residual: options.residual,
        affine: options.affine,
      },
      outputs: { y },
      attributes: { stride, upsample, padTop, padLeft, padBottom, padRight, phases: phases ? 1 : 0 },
      inPlace: [["y", "residual"]],
      flops: 2 * y.elements * (phases ? 4 : kh * kw) * channels,
    });
  }

  /** Rows of `table` [V, D] by `ids` [B, T] i32, plus row t of `positions`. → [B, T, D]. */
  embedding(ids: Tensor, table: Tensor, positions?: Tensor): Value {
    const y = this.empty([...valueOf(ids).shape, valueOf(table).shape[1]!]);
    return this.#emit("embedding", { inputs: { ids, table, positions }, outputs: { y } });
  }

  /** Sinusoids of scale·t: cosines, then sines. t [N] → [N, width]. */
  timestepEmbedding(t: Tensor, width: number, scale = 1000): Value {
    const y = this.empty([valueOf(t).shape[0]!, width]);
    return this.#emit("timestepEmbedding", {
      inputs: { t },
      outputs: { y },
      attributes: { scale, maxPeriod: 10000 },
    });
  }

  /** cos and sin of the rotary angles. ids [T, A] → [T, Σ axes / 2, 2], angles id·θ^(−2i/axis) axis after axis. */
  ropeTable(ids: Tensor, axes: readonly number[], theta: number): Value {
    const pairs = axes.reduce((sum, width) => sum + width, 0) / 2;
    const y = this.empty([valueOf(ids).shape[0]!, pairs, 2], "f32");
    const attributes: Record<string, number> = { theta };
    axes.forEach((width, axis) => {
      attributes[`dim${axis}`] = width;
    });
    return this.#emit("ropeTable", { inputs: { ids }, outputs: { y }, attributes });
  }

  /** T5's relative position bias: table [buckets, H] → [H, tokens, tokens]. */
  t5Bias(table: Tensor, tokens: number, maxDistance: number): Value {
    const y = this.empty([valueOf(table).shape[1]!, tokens, tokens], "f32");
    return this.#emit("t5Bias", { inputs: { table }, outputs: { y }, attributes: { maxDistance } });
  }

  add(a: Tensor, b: Tensor, into?: Tensor): Value {
    return this.#sum("add", { a, b }, into);
  }

  /** a − b. */
  subtract(a: Tensor, b: Tensor, into?: Tensor): Value {
    return this.#sum("subtract", { a, b }, into);
  }

  /** x += factor·a, in place; factor [1] f32. With factor 0 a may hold anything. */
  addScaled(x: Tensor, a: Tensor, factor: Tensor): void {
    this.#sum("addScaled", { x, a, factor }, x);
  }

  /** act(a)·b. */
  multiply(a: Tensor, b: Tensor, activation: Activation = "none"): Value {
    check(
      sameShape(valueOf(a).shape, valueOf(b).shape),
      () => `multiply: ${show(valueOf(a))} and ${show(valueOf(b))}`,
    );
    return this.#pointwise("multiply", { a, b }, { activation: ACTIVATIONS[activation] }, 1);
  }

  activation(x: Tensor, activation: Activation): Value {
    return this.#pointwise("activation", { x }, { activation: ACTIVATIONS[activation] }, 1);
  }

  /** Copies x into `into`, which has the same shape; any strides; f32 and bf16 are converted. */
  copy(x: Tensor, into: Tensor): void {
    const y = valueOf(into);
    check(sameShape(valueOf(x).shape, y.shape), () => `copy: ${show(valueOf(x))} into ${show(y)}`);
    this.#emit("copy", { inputs: { x }, outputs: { y } });
  }

  /** table[index]: table [S, ...], index [1] i32 → [...]. */
  takeRow(table: Tensor, index: Tensor): Value {
    const y = this.empty(valueOf(table).shape.slice(1), valueOf(table).dtype);
    return this.#emit("takeRow", { inputs: { table, index }, outputs: { y } });
  }

  /** x[b, index[b]]: x [B, T, D], index [B] i32 → [B, D]. */
  gatherRows(x: Tensor, index: Tensor): Value {
    const [batch, , width] = valueOf(x).shape as [number, number, number];
    return this.#emit("gatherRows", {
      inputs: { x, index },
      outputs: { y: this.empty([batch, width], valueOf(x).dtype) },
    });
  }

  /** counter += 1. */
  increment(counter: Buffer): void {
    this.#emit("increment", { inputs: {}, outputs: { counter: counter.value } });
  }

  /** latents += (σ[step + 1] − σ[step])·velocity, in place. sigmas [S + 1], step [1] i32. */
  eulerStep(latents: Tensor, velocity: Tensor, sigmas: Tensor, step: Tensor): void {
    this.#emit("eulerStep", {
      inputs: { latents, velocity, sigmas, step },
      outputs: { y: valueOf(latents) },
    });
  }

  /** True classifier-free guidance: uncond + scale·(cond − uncond). */
  guide(uncond: Tensor, cond: Tensor, scale: number): Value {
    return this.#pointwise("guide", { uncond, cond }, { scale }, 3);
  }

  /** σ[step]·noise + (1 − σ[step])·x. */
  scaleNoise(x: Tensor, noise: Tensor, sigmas: Tensor, step: Tensor): Value {
    return this.#pointwise("scaleNoise", { x, noise, sigmas, step }, {}, 4);
  }

  /** [B, h, w, C] (or [B, C, h, w]) → [B, (h/2)(w/2), 4C] in FLUX's patch order; (x − shift)·scale on the way. */
  packLatents(
    x: Tensor,
    options: { scale?: number; shift?: number; channelsFirst?: boolean; into?: Value } = {},
  ): Value {
    const { scale = 1, shift = 0, channelsFirst = false } = options;
    const [batch, ...axes] = valueOf(x).shape as [number, number, number, number];
    const [height, width, channels] = channelsFirst ? [axes[1], axes[2], axes[0]] : axes;
    const y = options.into ?? this.empty([batch, (height / 2) * (width / 2), channels * 4]);
    const attributes = { scale, shift, channelsFirst: channelsFirst ? 1 : 0 };
    return this.#emit("packLatents", { inputs: { x }, outputs: { y }, attributes });
  }

  /** [B, (h/2)(w/2), 4C] → [B, h, w, C]; x/scale + shift on the way. */
  unpackLatents(x: Tensor, height: number, width: number, options: { scale: number; shift: number }): Value {
    const [batch, tokens, packed] = valueOf(x).shape as [number, number, number];
    check(tokens * 4 === height * width, () => `unpackLatents: ${tokens} tokens for ${height}×${width}`);
    const y = this.empty([batch, height, width, packed / 4]);
    return this.#emit("unpackLatents", { inputs: { x }, outputs: { y }, attributes: { ...options } });
  }

  /** A sample of the VAE's posterior: mean + exp(½·logvar)·noise; the mean without noise. moments [B, h, w, 2C]. */
  sampleLatents(moments: Tensor, noise?: Tensor): Value {
    const shape = valueOf(moments).shape;
    const y = this.empty(shape.with(-1, shape.at(-1)! / 2));
    return this.#emit("sampleLatents", { inputs: { moments, noise }, outputs: { y } });
  }

  /** [−1, 1] to [0, 1], clamped, written into `into`: as f32, or as u8 with 255·u rounded half to even. */
  toImage(x: Tensor, into: Tensor): void {
    this.#emit("toImage", { inputs: { x }, outputs: { y: valueOf(into) } });
  }

  /**
   * Lays x [B, h, w, C] over `into`, a part of an image: the first `edge` rows stay as they are, over the next `length` x comes in
   * by a linear ramp, and below it is x alone; columns likewise from the left.
   */
  blendTile(x: Tensor, into: Value, { top, left }: { top: TileRamp; left: TileRamp }): void {
    const keeps = [top, left].some((ramp) => ramp.edge + ramp.length > 0);
    this.#emit("blendTile", {
      inputs: keeps ? { x, y: into } : { x },
      outputs: { y: into },
      attributes: { top: top.edge, topRamp: top.length, left: left.edge, leftRamp: left.length },
      flops: 3 * into.elements,
    });
  }

  /** 8 bits to [−1, 1]: x/255·2 − 1. */
  fromImage(x: Tensor): Value {
    return this.#emit("fromImage", { inputs: { x }, outputs: { y: this.empty(valueOf(x).shape) } });
  }

  /** a > b as [1] i32, both [1] f32. */
  greater(a: Tensor, b: Tensor): Value {
    return this.#emit("greater", { inputs: { a, b }, outputs: { y: this.empty([1], "i32") } });
  }

  /** How far a residual moved: Σ|x − base − previous| / Σ|previous| as [1] f32; the three have one shape. */
  relativeDifference(x: Tensor, base: Tensor, previous: Tensor): Value {
    const { shape, elements } = valueOf(x);
    check(
      sameShape(shape, valueOf(base).shape) && sameShape(shape, valueOf(previous).shape),
      () => `relativeDifference: ${show(valueOf(x))}, ${show(valueOf(base))} and ${show(valueOf(previous))}`,
    );
    return this.#emit("relativeDifference", {
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
    this.#emit("cacheDecision", {
      inputs: { difference, threshold, limits },
      outputs: { ...outputs, state: state.value, differences: differences.value, decisions: decisions.value },
    });
    return outputs;
  }

  /** Per-row e4m3: codes like x, carrying their scale [rows] f32 = max|x|/448. */
  quantizeRows(x: Tensor, into?: { codes: Tensor; scale: Tensor }): Value {
    const { shape } = valueOf(x);
    if (into !== undefined) {
      const outputs = { codes: valueOf(into.codes), scale: valueOf(into.scale) };
      return this.#emit("quantizeRows", { inputs: { x }, outputs });
    }
    const scale = this.empty([elementsOf(shape.slice(0, -1))], "f32");
    const codes = this.#quantised(shape, scale);
    return this.#emit("quantizeRows", { inputs: { x }, outputs: { codes, scale } });
  }

  /** What results of a linear with f8e4m3 weights can reach: [2] f32, as `LinearWeights.bounds` wants it. */
  weightBounds({ weight, scale, bias }: LinearWeights, into: Buffer): void {
    this.#emit("weightBounds", {
      inputs: { weight, weightScale: scale, bias },
      outputs: { y: into.value },
    });
  }

  /** What results of a linear can reach with its low-rank branch, from what they can reach without it: [2] f32. */
  branchBounds(
    { scale: weightScale, bounds }: LinearWeights,
    { down, scale, up, starts }: LowRankWeights,
    into: Buffer,
  ): void {
    this.#emit("branchBounds", {
      inputs: { down, scale, up, weightScale, base: bounds },
      outputs: { y: into.value },
      attributes: partsOf(starts),
    });
  }

  #emptyHeads([batch, tokens, heads]: Heads["shape"], type: AttentionType): PackedHeads {
    const codes = type === "int8" ? "i8" : "f8e4m3";
    return {
      q: this.empty([batch, heads, tokens, 128], codes),
      k: this.empty([batch, heads, tokens, 128], codes),
      v: this.empty([batch, heads, Math.ceil(tokens / 16), 128, 16], "f8e4m3"),
      queryRows: this.empty([batch, heads, HEAD_TOKENS * Math.ceil(tokens / HEAD_TOKENS), 2], "f32"),
      keyBlocks: this.empty([batch, heads, 4 * Math.ceil(tokens / HEAD_TOKENS), 4], "f32"),
    };
  }

  /** q, k and v in rows → 8 bits. */
  #packHeads(qkv: Value, { shape, type }: Heads): PackedHeads {
    const packed = this.#emptyHeads(shape, type);
    this.#emit("packHeads", { inputs: { qkv }, outputs: { ...packed } });
    return packed;
  }

  /** Whether what is multiplied with `weight` has to be quantised by an op of its own. */
  #quantises(weight: Buffer | undefined): boolean {
    return this.dtype === "bf16" && weight?.dtype === "f8e4m3";
  }

  /** Whether a result of `weights` can be quantised for `next` as it is written: by a bound. */
  #bounded(weights: LinearWeights, next: LinearWeights | undefined): boolean {
    return boundsOf(weights) !== undefined && this.#quantises(next?.weight);
  }

  /** x as the device multiplies it with `weight`. */
  #factor(x: Value, weight: Buffer): { x: Value; xScale?: Value } {
    if (this.#quantises(weight)) {
      const quantised = x.rowScale === undefined ? this.quantizeRows(x) : x;
      return { x: quantised, xScale: quantised.rowScale! };
    }
    return { x: this.#activation(x) };
  }

  /** x in the activations' dtype. */
  #activation(x: Value): Value {
    if (x.dtype === this.dtype) return x;
    const converted = this.empty(x.shape);
    this.copy(x, converted);
    return converted;
  }

  #quantised(shape: readonly number[], scale: Value): Value {
    const { storage, dtype, stride, offset } = this.empty(shape, "f8e4m3");
    return new Value(storage, dtype, shape, stride, offset, scale);
  }

  /**
   * Records x·downᵀ·scale and gives what the linear takes of the branch. `x` is as the weight is multiplied with it: codes are taken
   * as numbers, and their scales come after both products.
   */
  #lowRank(x: Value, { down, scale, up, starts }: LowRankWeights) {
    const rank = up.shape[1]!;
    check(
      down.shape[0] === starts.length * rank,
      () => `low rank: ${show(down.value)} and ${show(up.value)}`,
    );
    const low = this.empty(x.shape.with(-1, down.shape[0]!));
    this.#emit("linear", {
      inputs: { x, weight: down, weightScale: scale },
      outputs: { y: low },
      attributes: { activation: ACTIVATIONS.none },
      flops: 2 * x.elements * down.shape[0]!,
    });
    return { rank, inputs: { low, lowUp: up }, attributes: partsOf(starts) };
  }

  /** A pointwise op of two values of one shape, written into `into` where that is given. */
  #sum(kind: string, inputs: Readonly<Record<string, Tensor>>, into: Tensor | undefined): Value {
    const [a, b] = Object.values(inputs).map(valueOf) as [Value, Value];
    check(sameShape(a.shape, b.shape), () => `${kind}: ${show(a)} and ${show(b)}`);
    if (into === undefined) return this.#pointwise(kind, inputs, {}, 1);
    const y = valueOf(into);
    check(sameShape(y.shape, a.shape), () => `${kind}: ${show(y)} cannot hold the result`);
    return this.#emit(kind, { inputs, outputs: { y }, flops: y.elements });
  }

  /** An op whose result has the shape of its first input and may take that input's memory. */
  #pointwise(
    kind: string,
    inputs: Readonly<Record<string, Tensor | undefined>>,
    attributes: Readonly<Record<string, number>>,
    flopsPerElement: number,
  ): Value {
    const [first, x] = Object.entries(inputs)[0]!;
    const y = this.empty(valueOf(x!).shape, valueOf(x!).dtype);
    const flops = flopsPerElement * y.elements;
    return this.#emit(kind, { inputs, outputs: { y }, attributes, inPlace: [["y", first]], flops });
  }

  /** Where the next op goes. */
  get #list(): Op[] {
    return this.#chain ?? this.#ops.at(-1)!;
  }

  #emit(kind: string, parts: OpParts): Value {
    const inputs = presentValues(parts.inputs);
    const outputs = presentValues(parts.outputs);
    for (const value of Object.values(inputs)) this.#checkVisible(kind, value);
    for (const value of Object.values(outputs)) {
      if (!this.#scopes.has(value.storage)) this.#scopes.set(value.storage, this.#ops.at(-1)!);
      this.#convolved.delete(value.storage);
    }
    if (kind === "conv2d" && this.fusesNorms) this.#convolved.set(outputs.y!.storage, outputs);
    const { attributes = {}, inPlace = [], flops = 0, body } = parts;
    this.#list.push({ kind, inputs, outputs, attributes, inPlace, flops, ...(body && { body }) });
    return Object.values(outputs)[0]!;
  }

  #checkVisible(kind: string, value: Value): void {
    if (value.storage.buffer !== undefined) return;
    const scope = this.#scopes.get(value.storage);
    if (scope === undefined) throw misuse(`${kind} reads ${show(value)} before anything wrote it`);
    if (!this.#ops.includes(scope as Op[])) {
      throw misuse(`${kind} reads ${show(value)}, which was written only inside a condition`);
    }
  }
}

/** Whether sums of pairs of channels tell groups apart, and a GPU's kernels read x as it lies. */
function sumsInPairs(x: Value, groups: number): boolean {
  const channels = x.shape.at(-1)!;
  return channels % 8 === 0 && channels % (2 * groups) === 0 && x.whole;
}

/** What a linear's results can reach, with the branch that it has. */
function boundsOf({ lowRank, bounds }: LinearWeights): Buffer | undefined {
  return lowRank === undefined ? bounds : lowRank.bounds;
}

/** Where the parts of a branch begin, as attributes. */
function partsOf(starts: readonly number[]): Record<string, number> {
  return Object.fromEntries(starts.slice(1).map((start, i) => [`part${i + 1}`, start]));
}

/** The Value behind an operand. */
export function valueOf(tensor: Tensor): Value {
  return tensor instanceof Buffer ? tensor.value : tensor;
}

function presentValues(tensors: Readonly<Record<string, Tensor | undefined>>): Record<string, Value> {
  const present: Record<string, Value> = {};
  for (const [name, tensor] of Object.entries(tensors)) {
    if (tensor !== undefined) present[name] = valueOf(tensor);
  }
  return present;
}

function matrix(weight: Buffer): [number, number] {
  const [n, k] = weight.shape;
  if (weight.shape.length !== 2)
    throw misuse(`a linear weight has two axes, not [${weight.shape.join(", ")}]`);
  return [n!, k!];
}

function sameShape(a: readonly number[], b: readonly number[]): boolean {
  return a.length === b.length && a.every((length, axis) => length === b[axis]);
}

function check(holds: boolean, message: () => string): void {
  if (!holds) throw misuse(message());
}
