// Element types of safetensors files: their sizes, and the conversions to f32 that define them on the host.

/** Bits per element of every dtype that the safetensors format knows. */
export const DTYPE_BITS = {
  BOOL: 8,
  F4: 4,
  F6_E2M3: 6,
  F6_E3M2: 6,
  U8: 8,
  I8: 8,
  F8_E5M2: 8,
  F8_E4M3: 8,
  F8_E8M0: 8,
  I16: 16,
  U16: 16,
  F16: 16,
  BF16: 16,
  I32: 32,
  U32: 32,
  F32: 32,
  C64: 64,
  F64: 64,
  I64: 64,
  U64: 64,
} as const;

/** A dtype as a safetensors header names it. */
export type SafetensorsDtype = keyof typeof DTYPE_BITS;

export function isSafetensorsDtype(name: unknown): name is SafetensorsDtype {
  return typeof name === "string" && Object.hasOwn(DTYPE_BITS, name);
}

/** Values of a small tensor on the host: floats of up to 32 bits are widened to f32, the rest keep their own width. */
export type HostValues =
  | Float32Array
  | Float64Array
  | Int8Array
  | Uint8Array
  | Int16Array
  | Uint16Array
  | Int32Array
  | Uint32Array
  | BigInt64Array
  | BigUint64Array;

/**
 * Decodes little-endian tensor bytes into host values. BOOL gives a Uint8Array of 0 and 1.
 *
 * @returns undefined for a dtype that has no decoding on the host (F4, F6, F8_E8M0, C64).
 */
export function decodeValues(dtype: SafetensorsDtype, bytes: Uint8Array): HostValues | undefined {
  // A copy is aligned to any element size, whatever the offset of `bytes` in its buffer.
  const own = new Uint8Array(bytes).buffer;
  switch (dtype) {
    case "F32":
      return new Float32Array(own);
    case "BF16":
      return decodeBf16(new Uint16Array(own));
    case "F16":
      return decodeByTable(new Uint16Array(own), f16Table());
    case "F8_E4M3":
      return decodeByTable(new Uint8Array(own), E4M3_TABLE);
    case "F8_E5M2":
      return decodeByTable(new Uint8Array(own), E5M2_TABLE);
    case "F64":
      return new Float64Array(own);
    case "I64":
      return new BigInt64Array(own);
    case "U64":
      return new BigUint64Array(own);
    case "I32":
      return new Int32Array(own);
    case "U32":
      return new Uint32Array(own);
    case "I16":
      return new Int16Array(own);
    case "U16":
      return new Uint16Array(own);
    case "I8":
      return new Int8Array(own);
    case "U8":
    case "BOOL":
      return new Uint8Array(own);
    default:
      return undefined;
  }
}

/** bf16 bits → f32: a bf16 is the upper half of an f32. */
function decodeBf16(bits: Uint16Array): Float32Array {
  const words = new Uint32Array(bits.length);
  for (let i = 0; i < bits.length; i++) words[i] = bits[i] << 16;
  return new Float32Array(words.buffer);
}

function decodeByTable(codes: Uint8Array | Uint16Array, table: Float32Array): Float32Array {
  const values = new Float32Array(codes.length);
  for (let i = 0; i < codes.length; i++) values[i] = table[codes[i]];
  return values;
}

/** Value of a small IEEE-like float: sign, exponent and mantissa fields, subnormals included, special values left to the caller. */
function smallFloat(code: number, exponentBits: number, mantissaBits: number): number {
  const bias = 2 ** (exponentBits - 1) - 1;
  const mantissa = code & (2 ** mantissaBits - 1);
  const exponent = (code >> mantissaBits) & (2 ** exponentBits - 1);
  const sign = code >> (exponentBits + mantissaBits) ? -1 : 1;
  const fraction = mantissa / 2 ** mantissaBits;
  return sign * (exponent === 0 ? fraction * 2 ** (1 - bias) : (1 + fraction) * 2 ** (exponent - bias));
}

/** As smallFloat, with the topmost exponent kept for infinities and NaNs. */
function ieeeFloat(code: number, exponentBits: number, mantissaBits: number): number {
  const magnitude = code & (2 ** (exponentBits + mantissaBits) - 1);
  const infinity = (2 ** exponentBits - 1) << mantissaBits;
  if (magnitude > infinity) return Number.NaN;
  if (magnitude === infinity) return code === magnitude ? Number.POSITIVE_INFINITY : Number.NEGATIVE_INFINITY;
  return smallFloat(code, exponentBits, mantissaBits);
}

// e4m3fn: bias 7, no infinities, 0x7f and 0xff are NaN, largest value 448.
const E4M3_TABLE = Float32Array.from({ length: 256 }, (_, code) =>
  (code & 0x7f) === 0x7f ? Number.NaN : smallFloat(code, 4, 3),
);
const E5M2_TABLE = Float32Array.from({ length: 256 }, (_, code) => ieeeFloat(code, 5, 2));

// 256 KiB, so it is made only when a file holds f16.
let f16Values: Float32Array | undefined;
function f16Table(): Float32Array {
  f16Values ??= Float32Array.from({ length: 65536 }, (_, code) => ieeeFloat(code, 5, 10));
  return f16Values;
}
