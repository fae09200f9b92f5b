import { type DType, elementsOf, sizeOf } from "../dtype.js";
import type { Op } from "../op.js";
import { joinChains } from "../together.js";
import { contiguousStride, misuse, Storage, show, Value } from "../value.js";
import { type Tensor, valueOf } from "./tensor.js";

interface OpParts {
  readonly inputs: Readonly<Record<string, Tensor | undefined>>;
  readonly outputs: Readonly<Record<string, Value | undefined>>;
  readonly attributes?: Readonly<Record<string, number>>;
  readonly inPlace?: readonly (readonly [string, string])[];
  readonly flops?: number;
  readonly body?: readonly Op[];
}

/** The list that ops are appended to, its nesting, and what a method needs to append one. */
export class RecordingCore {
  readonly #ops: Op[][] = [[]];
  /** While `together` records one of its chains. */
  #chain: Op[] | undefined;
  /** The nesting of conditions in which each storage was first written. */
  protected readonly scopes = new Map<Storage, readonly Op[]>();
  /** Outputs of the convolution that wrote a storage: it can add up, on the way out, what a norm wants of it. */
  protected readonly convolved = new Map<Storage, Record<string, Value>>();

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
    this.emit("if", { inputs: { flag }, outputs: {}, body: ops });
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

  protected emit(kind: string, parts: OpParts): Value {
    const inputs = presentValues(parts.inputs);
    const outputs = presentValues(parts.outputs);
    for (const value of Object.values(inputs)) this.#checkVisible(kind, value);
    for (const value of Object.values(outputs)) {
      if (!this.scopes.has(value.storage)) this.scopes.set(value.storage, this.#ops.at(-1)!);
      this.convolved.delete(value.storage);
    }
    if (kind === "conv2d" && this.fusesNorms) this.convolved.set(outputs.y!.storage, outputs);
    const { attributes = {}, inPlace = [], flops = 0, body } = parts;
    this.#list.push({ kind, inputs, outputs, attributes, inPlace, flops, ...(body && { body }) });
    return Object.values(outputs)[0]!;
  }

  /** An op whose result has the shape of its first input and may take that input's memory. */
  protected pointwise(
    kind: string,
    inputs: Readonly<Record<string, Tensor | undefined>>,
    attributes: Readonly<Record<string, number>>,
    flopsPerElement: number,
  ): Value {
    const [first, x] = Object.entries(inputs)[0]!;
    const y = this.empty(valueOf(x!).shape, valueOf(x!).dtype);
    const flops = flopsPerElement * y.elements;
    return this.emit(kind, { inputs, outputs: { y }, attributes, inPlace: [["y", first]], flops });
  }

  /** Where the next op goes. */
  get #list(): Op[] {
    return this.#chain ?? this.#ops.at(-1)!;
  }

  #checkVisible(kind: string, value: Value): void {
    if (value.storage.buffer !== undefined) return;
    const scope = this.scopes.get(value.storage);
    if (scope === undefined) throw misuse(`${kind} reads ${show(value)} before anything wrote it`);
    if (!this.#ops.includes(scope as Op[])) {
      throw misuse(`${kind} reads ${show(value)}, which was written only inside a condition`);
    }
  }
}

function presentValues(tensors: Readonly<Record<string, Tensor | undefined>>): Record<string, Value> {
  const present: Record<string, Value> = {};
  for (const [name, tensor] of Object.entries(tensors)) {
    if (tensor !== undefined) present[name] = valueOf(tensor);
  }
  return present;
}
