import { Buffer } from "../buffer.js";
import { misuse, type Value } from "../value.js";

/** What an op takes: a Value of this recording, or a Buffer. */
export type Tensor = Value | Buffer;

/** The Value behind an operand. */
export function valueOf(tensor: Tensor): Value {
  return tensor instanceof Buffer ? tensor.value : tensor;
}

export function sameShape(a: readonly number[], b: readonly number[]): boolean {
  return a.length === b.length && a.every((length, axis) => length === b[axis]);
}

export function check(holds: boolean, message: () => string): void {
  if (!holds) throw misuse(message());
}
