import type { Value } from "./value.js";

/** One recorded step. */
export interface Op {
  readonly kind: string;
  /** A name that is among the outputs too (`residual` and `y` of one Value, say) is written in place. */
  readonly inputs: Readonly<Record<string, Value>>;
  readonly outputs: Readonly<Record<string, Value>>;
  readonly attributes: Readonly<Record<string, number>>;
  /** Pairs [output, input]: the output may take the input's memory when nothing reads the input afterwards. */
  readonly inPlace: readonly (readonly [string, string])[];
  /** Floating-point operations, a multiply-add counted as two. */
  readonly flops: number;
  /**
   * Of kind "if": what runs when input `flag` is not 0. Of kind "together": ops that run side by side; their operands are
   * the op's own too, those of the first under the names "0.x", "0.y" and so on.
   */
  readonly body?: readonly Op[];
}

/** Bytes that an op must at least move: every operand once. */
export function bytesOf(op: Op): number {
  const once = new Set<Value>([...Object.values(op.inputs), ...Object.values(op.outputs)]);
  let bytes = 0;
  for (const value of once) bytes += value.bytes;
  return bytes;
}

/** Visits ops in the order in which they run, an `if` before its body. Ops that run together are one. */
export function* flatten(ops: readonly Op[]): Generator<Op> {
  for (const op of ops) {
    yield op;
    if (op.kind === "if") yield* flatten(op.body ?? []);
  }
}
