import { checkSeed } from "../runtime/generator.js";
import type { RandomTensor, TensorSource } from "./tensor-source.js";

/** Of norms' weights around 1, and of biases around 0: small, but enough that a mix-up of two of them shows. */
const VECTOR_DEVIATION = 0.03;
/** T5 does not divide q·k by √width; its weights make up for it. */
const T5_QUERY = 1 / 8;

/**
 * Made-up weights for benchmarks and tests: the same seed and name give the same bf16 numbers everywhere. A matrix or convolution with K inputs has
 * deviation 1/√K, so that what it computes is about as large as what it is given; norms have weights near 1, biases are near 0.
 */
export class RandomWeights implements TensorSource {
  readonly location = "random weights";
  readonly #shapes: ReadonlyMap<string, readonly number[]>;
  readonly #seed: bigint;

  /**
   * @param tensors that are to be there
   * @param seed a whole number from 0, or a bigint below 2^64
   */
  constructor(
    tensors: Iterable<{ readonly name: string; readonly shape: readonly number[] }>,
    seed: number | bigint,
  ) {
    this.#shapes = new Map(Array.from(tensors, ({ name, shape }) => [name, shape]));
    this.#seed = BigInt(checkSeed(seed));
  }

  find(name: string): RandomTensor | undefined {
    const shape = this.#shapes.get(name);
    if (shape === undefined) return undefined;
    return { name, dtype: "BF16", shape, key: keyOf(name, this.#seed), ...distributionOf(name, shape) };
  }
}

function distributionOf(name: string, shape: readonly number[]): { mean: number; deviation: number } {
  if (shape.length === 1) return { mean: name.endsWith(".bias") ? 0 : 1, deviation: VECTOR_DEVIATION };
  const inputs = shape.slice(1).reduce((product, length) => product * length, 1);
  const gain = name.endsWith("SelfAttention.q.weight") ? T5_QUERY : 1;
  return { mean: 0, deviation: gain / Math.sqrt(inputs) };
}

/** FNV-1a of seed and name, in 64 bits. */
function keyOf(name: string, seed: bigint): bigint {
  const seedBytes = Array.from({ length: 8 }, (_, i) => Number((seed >> BigInt(8 * i)) & 0xffn));
  let hash = 0xcbf29ce484222325n;
  for (const byte of [...seedBytes, ...new TextEncoder().encode(name)]) {
    hash = BigInt.asUintN(64, (hash ^ BigInt(byte)) * 0x100000001b3n);
  }
  return hash;
}
