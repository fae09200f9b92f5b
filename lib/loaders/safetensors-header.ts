// The header of a safetensors file: eight bytes of length, then JSON. Nothing in it is trusted: every field is checked
// against the format and against the size of the file before any offset is used.
// Format: https://github.com/huggingface/safetensors#format

import { FluxError } from "../errors.js";
import { DTYPE_BITS, isSafetensorsDtype, type SafetensorsDtype } from "./dtype.js";

/** The longest header that the format allows, in bytes. */
export const MAX_HEADER_BYTES = 100_000_000;

/** One tensor of a file. `begin` and `end` are offsets in the file, not in its data section. */
export interface TensorEntry {
  readonly name: string;
  readonly dtype: SafetensorsDtype;
  readonly shape: readonly number[];
  /** Offset of the first byte in the file. */
  readonly begin: number;
  /** Offset one past the last byte in the file. */
  readonly end: number;
}

export interface SafetensorsHeader {
  readonly metadata: ReadonlyMap<string, string>;
  /** In the order of their data in the file. */
  readonly tensors: ReadonlyMap<string, TensorEntry>;
}

/**
 * Length of the JSON header, from the first eight bytes of a file.
 *
 * @throws FluxError ERR_FLUX_BAD_WEIGHTS when it is zero, over the format's limit, or reaches beyond the file.
 */
export function parseHeaderLength(prefix: Uint8Array, fileBytes: number, path: string): number {
  if (prefix.length < 8) {
    throw damaged(path, `it has ${fileBytes} bytes, and even an empty safetensors file has 10`);
  }
  const length = new DataView(prefix.buffer, prefix.byteOffset, 8).getBigUint64(0, true);
  if (length > BigInt(MAX_HEADER_BYTES)) {
    throw damaged(
      path,
      `its first eight bytes ask for a header of ${length} bytes, over the format's limit of 100 MB`,
    );
  }
  if (length < 2n) throw damaged(path, `its header length is ${length}, and the shortest header is {}`);
  if (8n + length > BigInt(fileBytes)) {
    throw damaged(
      path,
      `its header of ${length} bytes reaches beyond the end of the file (${fileBytes} bytes)`,
    );
  }
  return Number(length);
}

/**
 * Parses and checks the JSON header.
 *
 * @param json The header's bytes, without the eight bytes of length.
 * @param fileBytes Size of the whole file: the data section must fill it exactly.
 * @throws FluxError ERR_FLUX_BAD_WEIGHTS naming file and tensor.
 */
export function parseHeader(json: Uint8Array, fileBytes: number, path: string): SafetensorsHeader {
  if (json[0] !== 0x7b) throw damaged(path, "its header does not begin with {");
  const text = decodeUtf8(json, path);
  const root = parseJson(text, path);
  rejectDuplicateKeys(text, path);

  const dataOffset = 8 + json.length;
  const dataBytes = fileBytes - dataOffset;
  let metadata: ReadonlyMap<string, string> = new Map();
  const entries: TensorEntry[] = [];
  for (const [name, value] of Object.entries(root)) {
    if (name === "__metadata__") metadata = checkMetadata(value, path);
    else entries.push(checkEntry(name, value, dataOffset, dataBytes, path));
  }
  entries.sort((a, b) => a.begin - b.begin || a.end - b.end);
  checkCoverage(entries, dataOffset, fileBytes, path);
  return { metadata, tensors: new Map(entries.map((entry) => [entry.name, entry])) };
}

/** The error of a file that is not what it should be. */
export function damaged(path: string, what: string): FluxError {
  return new FluxError(
    "ERR_FLUX_BAD_WEIGHTS",
    `${path} is not a usable safetensors file: ${what}. Download or export it again.`,
  );
}

/** A name out of an untrusted file, fit for one line of a message. */
export function quoted(name: string): string {
  const shown = name.length > 120 ? `${name.slice(0, 120)}…` : name;
  return JSON.stringify(shown);
}

function decodeUtf8(json: Uint8Array, path: string): string {
  try {
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(json);
  } catch {
    throw damaged(path, "its header is not valid UTF-8");
  }
}

function parseJson(text: string, path: string): object {
  let root: unknown;
  try {
    root = JSON.parse(text);
  } catch (error) {
    // Also a RangeError: JSON nested deeper than the parser's stack.
    throw damaged(path, `its header is not valid JSON (${(error as Error).message.slice(0, 120)})`);
  }
  if (!isObject(root)) throw damaged(path, "its header is not a JSON object");
  return root;
}

/** JSON.parse keeps the last of two equal keys; here they mean a forged or broken file. `text` is valid JSON. */
function rejectDuplicateKeys(text: string, path: string): void {
  const open: Set<string>[] = [];
  const token = /[{}]|"(?:[^"\\]|\\.)*"(\s*:)?/gs;
  for (let match = token.exec(text); match !== null; match = token.exec(text)) {
    const [found, colon] = match;
    if (found === "{") open.push(new Set());
    else if (found === "}") open.pop();
    else if (colon !== undefined) {
      const key = JSON.parse(found.slice(0, -colon.length)) as string;
      const keys = open.at(-1);
      if (keys?.has(key)) throw damaged(path, `its header has ${quoted(key)} twice`);
      keys?.add(key);
    }
  }
}

function checkMetadata(value: unknown, path: string): ReadonlyMap<string, string> {
  if (!isObject(value)) throw damaged(path, "__metadata__ is not an object");
  const metadata = new Map<string, string>();
  for (const [key, text] of Object.entries(value)) {
    if (typeof text !== "string")
      throw damaged(path, `__metadata__ has a ${quoted(key)} that is not a string`);
    metadata.set(key, text);
  }
  return metadata;
}

function checkEntry(
  name: string,
  value: unknown,
  dataOffset: number,
  dataBytes: number,
  path: string,
): TensorEntry {
  const wrong = (what: string) => damaged(path, `tensor ${quoted(name)} ${what}`);
  if (!isObject(value)) throw wrong("is not described by an object");
  const fields = value as Record<string, unknown>;
  for (const key of Object.keys(fields)) {
    if (key !== "dtype" && key !== "shape" && key !== "data_offsets")
      throw wrong(`has an unknown field ${quoted(key)}`);
  }

  const { dtype, shape, data_offsets: offsets } = fields;
  if (!isSafetensorsDtype(dtype))
    throw wrong(`has an unknown dtype ${quoted(String(JSON.stringify(dtype)))}`);
  if (!Array.isArray(shape) || !shape.every(isSize)) throw wrong("has a shape that is not a list of sizes");
  if (!Array.isArray(offsets) || offsets.length !== 2 || !offsets.every(isSize)) {
    throw wrong("has data_offsets that are not two byte offsets");
  }

  const [begin, end] = offsets as [number, number];
  if (begin > end) throw wrong(`ends (${end}) before it begins (${begin})`);
  if (end > dataBytes) {
    throw wrong(
      `reaches byte ${end} of a data section of ${dataBytes} bytes: the file is truncated or its header is wrong`,
    );
  }
  const bits = tensorBits(shape, dtype);
  if (bits !== (end - begin) * 8) {
    const needed = bits === undefined ? "more bytes than a file can have" : `${bits / 8} bytes`;
    throw wrong(
      `of shape [${shape.slice(0, 16)}] and dtype ${dtype} needs ${needed}, but has ${end - begin}`,
    );
  }
  return {
    name,
    dtype,
    shape: shape.map((size: number) => size + 0),
    begin: dataOffset + begin,
    end: dataOffset + end,
  };
}

/** Size in bits, or undefined where a product is beyond the exact integers. */
function tensorBits(shape: readonly number[], dtype: SafetensorsDtype): number | undefined {
  let bits: number = DTYPE_BITS[dtype];
  for (const size of shape) {
    bits *= size;
    if (!Number.isSafeInteger(bits)) return undefined;
  }
  return bits;
}

/** The tensors must fill the data section with neither gaps nor overlaps. `entries` are sorted by their begin. */
function checkCoverage(
  entries: readonly TensorEntry[],
  dataOffset: number,
  fileBytes: number,
  path: string,
): void {
  let reached = dataOffset;
  let previous = "";
  for (const { name, begin, end } of entries) {
    if (begin < reached) throw damaged(path, `tensors ${quoted(previous)} and ${quoted(name)} overlap`);
    if (begin > reached)
      throw damaged(path, `${begin - reached} bytes before tensor ${quoted(name)} belong to no tensor`);
    reached = end;
    previous = name;
  }
  if (reached !== fileBytes) {
    throw damaged(path, `${fileBytes - reached} bytes after the last tensor belong to no tensor`);
  }
}

function isObject(value: unknown): value is object {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function isSize(value: unknown): value is number {
  return Number.isSafeInteger(value) && (value as number) >= 0;
}
