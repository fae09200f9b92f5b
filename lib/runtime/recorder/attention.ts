import { elementsOf } from "../dtype.js";
import { type AttentionType, HEAD_TOKENS, Heads, type PackedHeads, type TokenRange } from "../heads.js";
import { Rope } from "../rope.js";
import { show, Value } from "../value.js";
import { ACTIVATIONS, type Activation } from "./activation.js";
import { boundsOf, firstRows, LinearOps, type LinearWeights, matrix } from "./linear.js";
import { check, sameShape, type Tensor, valueOf } from "./tensor.js";

/** Attention, and the projections into it. */
export class AttentionOps extends LinearOps {
  /**
   * Unwritten q, k and v of [B, T, H] for `qkvLinear` to write and `attend` to read. On a GPU `qkvLinear` packs 8-bit types on its way
   * out, when every part that it writes begins at a multiple of 64 tokens; otherwise, and on the CPU, an op of its own does.
   *
   * `starts` are the first tokens of the parts, where several layers write one each. `keyOffset` ([B, H, 128] f32) is for 8-bit types: all k
   * of a head lose it before they are packed, which changes no result but for the codes' errors, and `attend` adds to it the mean of what is left of
   * k. A Buffer of zeros so becomes what centres k when the recording is run again on much the same tokens.
   */
  heads(
    shape: readonly [batch: number, tokens: number, heads: number],
    type: AttentionType,
    { starts = [], keyOffset }: { starts?: readonly number[]; keyOffset?: Tensor | undefined } = {},
  ): Heads {
    const [batch, tokens, heads] = shape;
    const packed =
      type !== "bf16" && this.dtype === "bf16" && starts.every((start) => start % HEAD_TOKENS === 0);
    const form = packed ? this.#emptyHeads(shape, type) : this.empty([batch, tokens, 3, heads, 128]);
    const offset = type === "bf16" || keyOffset === undefined ? undefined : valueOf(keyOffset);
    check(
      offset === undefined || sameShape(offset.shape, [batch, heads, 128]),
      () => `heads: key offset ${show(offset!)} for ${batch} × ${heads} heads`,
    );
    return new Heads(type, form, shape, offset);
  }

  /** A rotary table [T, 64, 2] as `qkvLinear` reads it; on a GPU, this rearranges what has not been. */
  rope(from: Tensor | Rope): Rope {
    const { table, pairs } = from instanceof Rope ? from : new Rope(valueOf(from), undefined);
    if (pairs !== undefined || this.dtype !== "bf16") return new Rope(table, pairs);
    const y = this.empty([Math.ceil(table.shape[0]! / 16), 8, 32, 8], "f16");
    return new Rope(table, this.emit("ropePairs", { inputs: { table }, outputs: { y } }));
  }

  /**
   * The projections of attention in one op: rows q, k, v of `weights` (each heads·128), then, where `mlp` is given, the
   * rows of the MLP's first layer; without it these are left out. q and k are RMS-normalised per head and rotated. `qkv` is
   * [B, T, 3, heads, 128], or what `heads` gave.
   */
  qkvLinear(
    x: Tensor,
    stacked: LinearWeights,
    options: {
      qkv: Value | Heads;
      normQ: Tensor;
      normK: Tensor;
      rope: Tensor | Rope;
      eps: number;
      mlp?: Value;
      /** Of a quantised `mlp`, as `joined` gives it. */
      mlpScale?: Value | undefined;
      activation?: Activation;
    },
  ): void {
    const { qkv, mlp, mlpScale, normQ, normK } = options;
    const input = valueOf(x);
    const form = qkv instanceof Heads ? qkv.form : qkv;
    const heads = qkv instanceof Heads ? qkv.shape[2] : qkv.shape[3]!;
    const width = 3 * heads * 128 + (mlp?.shape.at(-1) ?? 0);
    const more = mlp === undefined && matrix(stacked.weight)[0] > width;
    const weights = more ? firstRows(stacked, width) : stacked;
    const { weight, scale, bias } = weights;
    const [n, k] = matrix(weight);
    check(
      input.shape.at(-1) === k && n === width,
      () => `qkvLinear: ${show(input)}, weight [${n}, ${k}], ${width} columns`,
    );
    const { table: rope, pairs } = this.rope(options.rope);
    check(rope.shape[0] === input.shape[1], () => `qkvLinear: rope ${show(rope)} for ${show(input)}`);
    const factor = this.factor(input, weight);
    const low = weights.lowRank && this.lowRank(factor.x, weights.lowRank);
    const activation = ACTIVATIONS[options.activation ?? "none"];
    this.emit("qkvLinear", {
      inputs: {
        ...factor,
        weight,
        weightScale: scale,
        bias,
        ...low?.inputs,
        normQ,
        normK,
        rope,
        ropePairs: pairs,
        bounds: mlpScale && boundsOf(weights),
        keyOffset: qkv instanceof Heads && !(form instanceof Value) ? qkv.keyOffset : undefined,
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
   * Unwritten rows [B, T, D] whose columns `attend` of `heads` and `qkvLinear` of `from`, as `mlp`, write for the linear `next`: quantised
   * already, if `next` wants it so, `from` has bounds and `heads` are packed. The row scale then is the bound of `from`'s results, of which v is
   * a part; a result of attention lies between v's.
   */
  joined(
    shape: readonly number[],
    heads: Heads,
    { from, next }: { from: LinearWeights; next: LinearWeights },
  ): Value {
    if (heads.form instanceof Value || !this.bounded(from, next)) return this.empty(shape);
    return this.quantised(shape, this.empty([elementsOf(shape) / shape.at(-1)!], "f32"));
  }

  /**
   * softmax(scale·q·kᵀ)·v of what `qkvLinear` wrote → [B, T, H, 128], or of the tokens `queries` alone. `intoScale` is of a quantised `into`,
   * as `joined` gives it; `ownScale` [B, T] is written, see `attendRows`.
   */
  attend(
    heads: Heads,
    options: {
      scale: number;
      queries?: TokenRange;
      into?: Value;
      intoScale?: Value | undefined;
      ownScale?: Value | undefined;
    },
  ): Value {
    const { form, type, shape } = heads;
    const [batch, tokens, count] = shape;
    const { start, length } = options.queries ?? { start: 0, length: tokens };
    if (type === "bf16") {
      const [q, k, v] = [0, 1, 2].map((part) => (form as Value).pick(2, part)) as [Value, Value, Value];
      return this.attention(q.slice(1, start, length), k, v, options);
    }
    const packed = form instanceof Value ? this.#packHeads(form, heads) : form;
    const { q, queryRows } = packed;
    const asking = { q: q.slice(2, start, length), queryRows: queryRows.slice(2, start, length) };
    return this.emit("attentionPacked", {
      inputs: { ...packed, ...asking, yScale: options.intoScale },
      outputs: {
        y: options.into ?? this.empty([batch, length, count, 128]),
        ownScale: options.ownScale,
        keyOffset: heads.keyOffset,
      },
      attributes: { scale: options.scale },
      flops: 4 * batch * count * length * tokens * 128,
    });
  }

  /**
   * The same as rows [B, T, H·128] for the linear `next`, in 8-bit attention quantised already if `next` wants it so: by a scale for each batch
   * entry, of the most that its v reach, since a result lies between v's.
   */
  attendRows(heads: Heads, { scale, next }: { scale: number; next: LinearWeights }): Value {
    const [batch, tokens, count] = heads.shape;
    const shape = [batch, tokens, count * 128];
    if (heads.type === "bf16" || !this.quantises(next.weight))
      return this.attend(heads, { scale }).reshape(shape);
    const ownScale = this.empty([batch, tokens], "f32");
    const rows = this.quantised(shape, ownScale);
    this.attend(heads, { scale, into: rows.split(2, [count, 128]), ownScale });
    return rows;
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
    return this.emit("attention", {
      inputs: { q, k, v, bias: options.bias },
      outputs: { y },
      attributes: { scale: options.scale, causal: options.causal === true ? 1 : 0 },
      flops: 4 * batch * heads * tokens * key.shape[1]! * depth,
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
  #packHeads(qkv: Value, { shape, type, keyOffset }: Heads): PackedHeads {
    const packed = this.#emptyHeads(shape, type);
    this.emit("packHeads", { inputs: { qkv, keyOffset }, outputs: { ...packed } });
    return packed;
  }
}
