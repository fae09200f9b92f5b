import type { Buffer } from "../buffer.js";
import { show, type Value } from "../value.js";
import { ACTIVATIONS, type Activation } from "./activation.js";
import { RecordingCore } from "./core.js";
import { check, sameShape, type Tensor, valueOf } from "./tensor.js";

/** Ops that work element by element, and ones that move elements. */
export class ElementwiseOps extends RecordingCore {
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
    return this.pointwise("multiply", { a, b }, { activation: ACTIVATIONS[activation] }, 1);
  }

  activation(x: Tensor, activation: Activation): Value {
    return this.pointwise("activation", { x }, { activation: ACTIVATIONS[activation] }, 1);
  }

  /** Copies x into `into`, which has the same shape; any strides; f32 and bf16 are converted. */
  copy(x: Tensor, into: Tensor): void {
    const y = valueOf(into);
    check(sameShape(valueOf(x).shape, y.shape), () => `copy: ${show(valueOf(x))} into ${show(y)}`);
    this.emit("copy", { inputs: { x }, outputs: { y } });
  }

  /** table[index]: table [S, ...], index [1] i32 → [...]. */
  takeRow(table: Tensor, index: Tensor): Value {
    const y = this.empty(valueOf(table).shape.slice(1), valueOf(table).dtype);
    return this.emit("takeRow", { inputs: { table, index }, outputs: { y } });
  }

  /** x[b, index[b]]: x [B, T, D], index [B] i32 → [B, D]. */
  gatherRows(x: Tensor, index: Tensor): Value {
    const [batch, , width] = valueOf(x).shape as [number, number, number];
    return this.emit("gatherRows", {
      inputs: { x, index },
      outputs: { y: this.empty([batch, width], valueOf(x).dtype) },
    });
  }

  /** counter += 1. */
  increment(counter: Buffer): void {
    this.emit("increment", { inputs: {}, outputs: { counter: counter.value } });
  }

  /** a > b as [1] i32, both [1] f32. */
  greater(a: Tensor, b: Tensor): Value {
    return this.emit("greater", { inputs: { a, b }, outputs: { y: this.empty([1], "i32") } });
  }

  /** A pointwise op of two values of one shape, written into `into` where that is given. */
  #sum(kind: string, inputs: Readonly<Record<string, Tensor>>, into: Tensor | undefined): Value {
    const [a, b] = Object.values(inputs).map(valueOf) as [Value, Value];
    check(sameShape(a.shape, b.shape), () => `${kind}: ${show(a)} and ${show(b)}`);
    if (into === undefined) return this.pointwise(kind, inputs, {}, 1);
    const y = valueOf(into);
    check(sameShape(y.shape, a.shape), () => `${kind}: ${show(y)} cannot hold the result`);
    return this.emit(kind, { inputs, outputs: { y }, flops: y.elements });
  }
}
