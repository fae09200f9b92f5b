// Where a model finds the tensors that it is loaded from: in the files of a checkpoint, under its own names or others, or drawn.

import type { SafetensorsDtype } from "./dtype.js";
import type { SafetensorsFile, TensorEntry } from "./safetensors.js";

/** A tensor and the file that holds it. */
export interface LocatedTensor extends TensorEntry {
  readonly file: SafetensorsFile;
  /** What its values are to be multiplied by: one number, or an F32 tensor with one for each row. 1 when absent. */
  readonly scale?: number | LocatedTensor;
}

/** A tensor that is drawn while it is loaded. */
export interface RandomTensor {
  readonly name: string;
  readonly dtype: "BF16";
  readonly shape: readonly number[];
  /** Of the stream of numbers: tensors with different keys are independent. */
  readonly key: bigint;
  readonly mean: number;
  readonly deviation: number;
}

/** A tensor that is put together along its first axis. */
export interface StackedTensor {
  readonly name: string;
  readonly dtype: SafetensorsDtype;
  readonly shape: readonly number[];
  readonly parts: readonly LocatedTensor[];
}

export type StoredTensor = LocatedTensor | RandomTensor | StackedTensor;

/** The tensors of one model by name. */
export interface TensorSource {
  /** For messages. */
  readonly location: string;
  find(name: string): StoredTensor | undefined;
}

/** The pieces that a tensor is loaded in, in order. */
export function piecesOf(tensor: StoredTensor): readonly (LocatedTensor | RandomTensor)[] {
  return "parts" in tensor ? tensor.parts : [tensor];
}

/** Rows [first, first + count) of a tensor in a file. */
export function rowsOf(tensor: LocatedTensor, first: number, count: number): LocatedTensor {
  const { shape, begin, end, scale } = tensor;
  const rowBytes = (end - begin) / shape[0]!;
  return {
    ...tensor,
    shape: [count, ...shape.slice(1)],
    begin: begin + first * rowBytes,
    end: begin + (first + count) * rowBytes,
    ...(typeof scale === "object" && { scale: rowsOf(scale, first, count) }),
  };
}

/** A view of `source` in which a tensor that is not there is looked up by its other names, the first that is there. */
export function withAliases(
  source: TensorSource,
  aliasesOf: (name: string) => readonly string[],
): TensorSource {
  return {
    location: source.location,
    find: (name) => {
      for (const candidate of [name, ...aliasesOf(name)]) {
        const tensor = source.find(candidate);
        if (tensor !== undefined) return tensor;
      }
      return undefined;
    },
  };
}
