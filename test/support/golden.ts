// Golden data for tests: tensors made by diffusers and transformers in float32, read by name, and the distances to them.
//
// What every test needs is in test/golden. Larger data (trained vocabularies, published configs, some cases) is read from
// the folder ../shared beside the checkout where it exists; a test of it says so with `it.skipIf(!hasShared(...))`.

import { existsSync, readFileSync } from "node:fs";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { decodeValues, type HostValues } from "../../lib/loaders/dtype.js";
import { parseHeader, parseHeaderLength, type TensorEntry } from "../../lib/loaders/safetensors-header.js";

const REPOSITORY = resolve(dirname(fileURLToPath(import.meta.url)), "../..");
const GOLDEN = join(REPOSITORY, "test/golden");
const SHARED = resolve(REPOSITORY, "../shared");

/** Path of a file in ../shared, whether it exists or not. */
export function sharedPath(relative: string): string {
  return join(SHARED, relative);
}

export function hasShared(relative: string): boolean {
  return existsSync(sharedPath(relative));
}

/** Path of golden data: from test/golden, else from ../shared/golden. */
export function goldenPath(relative: string): string {
  const own = join(GOLDEN, relative);
  return existsSync(own) ? own : sharedPath(join("golden", relative));
}

/** Whether golden data can be read here, from either place. */
export function hasGolden(relative: string): boolean {
  return existsSync(goldenPath(relative));
}

export function goldenJson<T>(relative: string): T {
  return JSON.parse(readFileSync(goldenPath(relative), "utf8")) as T;
}

/** A golden tensor: row-major data; f16, bf16 and fp8 widened to f32. */
export interface GoldenTensor<T extends HostValues = Float32Array> {
  readonly shape: readonly number[];
  readonly data: T;
}

/** One safetensors file of golden data, held in memory. */
export class GoldenFile {
  readonly #bytes: Uint8Array;
  readonly #tensors: ReadonlyMap<string, TensorEntry>;

  constructor(readonly path: string) {
    this.#bytes = readFileSync(path);
    const headerBytes = parseHeaderLength(this.#bytes, this.#bytes.length, path);
    this.#tensors = parseHeader(this.#bytes.subarray(8, 8 + headerBytes), this.#bytes.length, path).tensors;
  }

  names(): string[] {
    return [...this.#tensors.keys()];
  }

  has(name: string): boolean {
    return this.#tensors.has(name);
  }

  shape(name: string): readonly number[] {
    return this.#entry(name).shape;
  }

  /** A floating-point tensor as f32. */
  tensor(name: string): GoldenTensor {
    const { shape, data } = this.raw(name);
    if (!(data instanceof Float32Array)) throw new Error(`${name} of ${this.path} is not floating point`);
    return { shape, data };
  }

  /** A floating-point tensor's values as f32. */
  f32(name: string): Float32Array {
    return this.tensor(name).data;
  }

  /** A tensor of any dtype (U8 as Uint8Array, I32 as Int32Array, …). */
  raw(name: string): GoldenTensor<HostValues> {
    const { dtype, shape, begin, end } = this.#entry(name);
    const data = decodeValues(dtype, this.#bytes.subarray(begin, end));
    if (data === undefined) throw new Error(`${name} of ${this.path} is ${dtype}`);
    return { shape, data };
  }

  #entry(name: string): TensorEntry {
    const entry = this.#tensors.get(name);
    if (entry === undefined) throw new Error(`${this.path} has no tensor ${name}`);
    return entry;
  }
}

const opened = new Map<string, GoldenFile>();

/** Golden data by its path relative to the golden folder, e.g. "cases/packing.safetensors"; read once a process. */
export function golden(relative: string): GoldenFile {
  let file = opened.get(relative);
  if (file === undefined) {
    file = new GoldenFile(goldenPath(relative));
    opened.set(relative, file);
  }
  return file;
}

/** What cases.json says of one tensor. */
export interface GoldenCase {
  readonly shape: readonly number[];
  readonly dtype: string;
  readonly role: "input" | "expected" | "intermediate" | "info";
  readonly desc: string;
  readonly tolerance?: Readonly<Record<string, number | string>>;
}

/** The index of the golden data: parameters and tolerances of one file, e.g. "cases/vae.safetensors". */
export function goldenIndex(relative: string): {
  readonly title: string;
  readonly params: Readonly<Record<string, unknown>>;
  readonly tensors: Readonly<Record<string, GoldenCase>>;
} {
  const index = goldenJson<{ files: Record<string, ReturnType<typeof goldenIndex>> }>("cases/cases.json");
  const entry = index.files[relative];
  if (entry === undefined) throw new Error(`cases.json has no ${relative}`);
  return entry;
}

/** ‖actual − expected‖₂ / ‖expected‖₂ in f64; NaN when lengths differ or a value is NaN, so that every comparison fails. */
export function relativeL2(actual: ArrayLike<number>, expected: ArrayLike<number>): number {
  if (actual.length !== expected.length) return Number.NaN;
  let error = 0;
  let norm = 0;
  for (let i = 0; i < expected.length; i++) {
    error += (actual[i] - expected[i]) ** 2;
    norm += expected[i] ** 2;
  }
  return norm === 0 ? Math.sqrt(error) : Math.sqrt(error / norm);
}

/** max |actual − expected|; NaN when lengths differ or a value is NaN. */
export function maxAbsDifference(actual: ArrayLike<number>, expected: ArrayLike<number>): number {
  if (actual.length !== expected.length) return Number.NaN;
  let worst = 0;
  for (let i = 0; i < expected.length; i++) {
    const difference = Math.abs(actual[i] - expected[i]);
    if (!(difference <= worst)) worst = difference;
    if (Number.isNaN(worst)) return Number.NaN;
  }
  return worst;
}
