import type { Op } from "./op.js";
import { misuse, show, type Value } from "./value.js";

/** Ops that must not be members of one: what they do is decided, or joined, already. */
const ALONE: ReadonlySet<string> = new Set(["if", "together"]);

/**
 * Joins chains of ops that touch nothing of each other's: the first ops of all chains become one op, the second ones, and so
 * on, as long as they are of one kind. Where chains differ, their remaining ops follow chain after chain.
 */
export function joinChains(chains: readonly (readonly Op[])[]): Op[] {
  if (chains.length < 2) return chains.flat();
  checkApart(chains);
  const joined: Op[] = [];
  const shortest = Math.min(...chains.map((chain) => chain.length));
  let at = 0;
  for (; at < shortest; at++) {
    const members = chains.map((chain) => chain[at]!);
    const { kind } = members[0]!;
    if (ALONE.has(kind) || members.some((op) => op.kind !== kind)) break;
    joined.push(join(members));
  }
  return [...joined, ...chains.flatMap((chain) => chain.slice(at))];
}

/** One op whose operands are the members', so that the planner keeps all of them apart while it runs. */
function join(members: readonly Op[]): Op {
  const named = (operands: (op: Op) => Readonly<Record<string, Value>>) =>
    Object.fromEntries(
      members.flatMap((op, index) =>
        Object.entries(operands(op)).map(([name, value]) => [`${index}.${name}`, value]),
      ),
    );
  return {
    kind: "together",
    inputs: named((op) => op.inputs),
    outputs: named((op) => op.outputs),
    attributes: {},
    inPlace: members.flatMap((op, index) =>
      op.inPlace.map(([output, input]) => [`${index}.${output}`, `${index}.${input}`] as const),
    ),
    flops: members.reduce((sum, op) => sum + op.flops, 0),
    body: members,
  };
}

function checkApart(chains: readonly (readonly Op[])[]): void {
  const written = chains.map((chain) => operandsOf(chain, (op) => op.outputs));
  const touched = chains.map((chain) => operandsOf(chain, (op) => ({ ...op.inputs, ...op.outputs })));
  written.forEach((values, writer) => {
    touched.forEach((others, reader) => {
      if (reader === writer) return;
      for (const value of values) {
        const other = others.find((candidate) => overlaps(value, candidate));
        if (other === undefined) continue;
        throw misuse(`what runs together must be apart, but one writes ${show(value)} over ${show(other)}`);
      }
    });
  });
}

/** The operands of a chain, conditions' bodies included. */
function operandsOf(ops: readonly Op[], operands: (op: Op) => Readonly<Record<string, Value>>): Value[] {
  return ops.flatMap((op) => [
    ...Object.values(operands(op)),
    ...(op.body === undefined ? [] : operandsOf(op.body, operands)),
  ]);
}

/**
 * Whether two views of one storage have an element in common. Exact for parts of one value, which have its strides; views of
 * different strides are taken to overlap.
 */
function overlaps(a: Value, b: Value): boolean {
  if (a.storage !== b.storage) return false;
  if (a.dtype !== b.dtype || a.stride.join() !== b.stride.join()) return true;
  const [startA, startB] = [firstOf(a), firstOf(b)];
  return a.shape.every(
    (length, axis) =>
      startA[axis]! < startB[axis]! + b.shape[axis]! && startB[axis]! < startA[axis]! + length,
  );
}

/** Where a view begins on each axis of the value that it is a part of. */
function firstOf({ offset, stride }: Value): number[] {
  let rest = offset;
  return stride.map((step) => {
    const index = step === 0 ? 0 : Math.floor(rest / step);
    rest -= index * step;
    return index;
  });
}
