// Reads JSON config files field by field, so that a wrong type is reported with the file and the path of the field.

import { readFile } from "node:fs/promises";
import { FluxError } from "../errors.js";
import { fileError } from "./file-error.js";

/** Of a kind in a model. */
const MOST_LAYERS = 1000;

/**
 * A JSON object whose fields are read with their types checked. A field that is absent takes its default; without a default
 * it is an error. `null` counts as absent only where a method says so.
 */
export class JsonFields {
  readonly #fields: Readonly<Record<string, unknown>>;

  constructor(
    value: unknown,
    /** The file, for messages. */
    readonly file: string,
    /** Path of this object in the file; empty for the root. */
    readonly path = "",
  ) {
    if (typeof value !== "object" || value === null || Array.isArray(value)) {
      const what = path === "" ? "The content" : `"${path}"`;
      throw badConfig(file, `${what} must be an object, but it is ${describe(value)}`);
    }
    this.#fields = value as Record<string, unknown>;
  }

  keys(): string[] {
    return Object.keys(this.#fields);
  }

  /** The value as it is; undefined when absent. */
  raw(key: string): unknown {
    return Object.hasOwn(this.#fields, key) ? this.#fields[key] : undefined;
  }

  /** A whole number of at least `minimum`. */
  integer(key: string, fallback?: number, minimum = 1): number {
    const isValid = (value: unknown) => Number.isSafeInteger(value) && (value as number) >= minimum;
    return this.#field(key, `a whole number of at least ${minimum}`, isValid, fallback);
  }

  /** How many layers of a kind there are: objects are made for each before the first weight is looked for. */
  layers(key: string, fallback?: number): number {
    const isValid = (value: unknown) =>
      Number.isSafeInteger(value) && Number(value) >= 1 && Number(value) <= MOST_LAYERS;
    return this.#field(key, `a whole number of at least 1 and at most ${MOST_LAYERS}`, isValid, fallback);
  }

  /** A finite number. */
  number(key: string, fallback?: number): number {
    return this.#field(key, "a number", Number.isFinite, fallback);
  }

  /** A finite number above zero. */
  positive(key: string, fallback?: number): number {
    const isValid = (value: unknown) => Number.isFinite(value) && (value as number) > 0;
    return this.#field(key, "a number above 0", isValid, fallback);
  }

  /** A finite number, or null where it is null or absent. */
  numberOrNull(key: string): number | null {
    const value = this.raw(key);
    return value === undefined || value === null ? null : this.number(key);
  }

  boolean(key: string, fallback?: boolean): boolean {
    return this.#field(key, "true or false", (value) => typeof value === "boolean", fallback);
  }

  string(key: string, fallback?: string): string {
    return this.#field(key, "a string", (value) => typeof value === "string", fallback);
  }

  /** A non-empty list of whole numbers of at least 1. */
  integers(key: string, fallback?: readonly number[]): readonly number[] {
    const isValid = (value: unknown) =>
      Array.isArray(value) &&
      value.length > 0 &&
      value.every((item) => Number.isSafeInteger(item) && item >= 1);
    return this.#field(key, "a list of whole numbers of at least 1", isValid, fallback);
  }

  /** A non-empty list of strings. */
  strings(key: string, fallback?: readonly string[]): readonly string[] {
    const isValid = (value: unknown) =>
      Array.isArray(value) && value.length > 0 && value.every((item) => typeof item === "string");
    return this.#field(key, "a list of strings", isValid, fallback);
  }

  /** A field that must be an object. */
  object(key: string): JsonFields {
    return new JsonFields(this.raw(key), this.file, this.#pathOf(key));
  }

  /** The error for a field whose value is valid JSON of the right type, but asks for something that is not supported. */
  unsupported(key: string, supported: string): FluxError {
    return new FluxError(
      "ERR_FLUX_UNSUPPORTED",
      `${this.file}: "${this.#pathOf(key)}" is ${describe(this.raw(key))}, which is not supported. Supported: ${supported}.`,
    );
  }

  /** The error for a value that contradicts another. */
  invalid(key: string, expected: string): FluxError {
    const value = this.raw(key);
    const found = value === undefined ? "is missing" : `is ${describe(value)}`;
    return badConfig(this.file, `"${this.#pathOf(key)}" must be ${expected}, but it ${found}`);
  }

  #field<T>(key: string, expected: string, isValid: (value: unknown) => boolean, fallback: T | undefined): T {
    const value = this.raw(key);
    if (value === undefined && fallback !== undefined) return fallback;
    if (!isValid(value)) throw this.invalid(key, expected);
    return value as T;
  }

  #pathOf(key: string): string {
    return this.path === "" ? key : `${this.path}.${key}`;
  }
}

/**
 * Reads a JSON file.
 *
 * @throws FluxError ERR_FLUX_BAD_WEIGHTS when it is missing or not JSON, ERR_FLUX_IO when it cannot be read.
 */
export async function readJson(path: string): Promise<unknown> {
  let text: string;
  try {
    text = await readFile(path, "utf8");
  } catch (error) {
    throw fileError(path, error, "ERR_FLUX_BAD_WEIGHTS");
  }
  try {
    return JSON.parse(text);
  } catch (error) {
    throw badConfig(path, `It is not valid JSON (${(error as Error).message})`);
  }
}

function badConfig(file: string, what: string): FluxError {
  return new FluxError("ERR_FLUX_BAD_WEIGHTS", `${file}: ${what}. Correct the file, or download it again.`);
}

function describe(value: unknown): string {
  const text = value === undefined ? "missing" : JSON.stringify(value);
  return text.length > 80 ? `${text.slice(0, 80)}…` : text;
}
