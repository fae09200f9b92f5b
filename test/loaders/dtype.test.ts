import { describe, expect, it } from "vitest";
import { decodeValues } from "../../lib/loaders/dtype.js";
import { golden } from "../support/golden.js";

const bytesOf = (...values: number[]) => Uint8Array.from(values);

describe("decodeValues", () => {
  it("decodes every e4m3fn code as PyTorch does", () => {
    const table = golden("cases/numeric.safetensors").f32("fp8.table");
    const codes = Uint8Array.from({ length: 256 }, (_, code) => code);
    const decoded = decodeValues("F8_E4M3", codes) as Float32Array;
    for (let code = 0; code < 256; code++) {
      // The golden table gives the two NaN codes as 0.
      if ((code & 0x7f) === 0x7f) expect(decoded[code]).toBeNaN();
      else expect(decoded[code], `code ${code}`).toBe(table[code]);
    }
  });

  it("decodes e5m2 as the upper byte of an IEEE half", () => {
    for (let code = 0; code < 256; code++) {
      const wide = decodeValues("F16", bytesOf(0, code)) as Float32Array;
      expect(decodeValues("F8_E5M2", bytesOf(code)), `code ${code}`).toEqual(wide);
    }
  });

  it("decodes halves at their edges: IEEE 754-2008 binary16", () => {
    const cases: [number, number][] = [
      [0x0000, 0],
      [0x8000, -0],
      [0x0001, 2 ** -24],
      [0x03ff, 2 ** -14 - 2 ** -24],
      [0x0400, 2 ** -14],
      [0x3555, 0.333251953125],
      [0x3c00, 1],
      [0xc000, -2],
      [0x7bff, 65504],
      [0x7c00, Number.POSITIVE_INFINITY],
      [0xfc00, Number.NEGATIVE_INFINITY],
      [0x7e00, Number.NaN],
    ];
    for (const [bits, value] of cases) {
      expect(decodeValues("F16", bytesOf(bits & 255, bits >> 8)), bits.toString(16)).toEqual(
        Float32Array.of(value),
      );
    }
  });

  it("decodes bf16 as the upper half of an f32", () => {
    expect(decodeValues("BF16", bytesOf(0x80, 0x3f, 0x49, 0xc0, 0x80, 0x7f, 0x01, 0x00))).toEqual(
      Float32Array.of(1, -3.140625, Number.POSITIVE_INFINITY, 2 ** -133),
    );
  });

  it("keeps integers and doubles in their own width, from any alignment", () => {
    const unaligned = new Uint8Array(new Uint8Array([9, 1, 0, 0, 0, 0, 0, 0, 0x80]).buffer, 1);
    expect(decodeValues("I64", unaligned)).toEqual(BigInt64Array.of(-(2n ** 63n) + 1n));
    expect(decodeValues("U64", unaligned)).toEqual(BigUint64Array.of(2n ** 63n + 1n));
    expect(decodeValues("I32", bytesOf(255, 255, 255, 255))).toEqual(Int32Array.of(-1));
    expect(decodeValues("U32", bytesOf(255, 255, 255, 255))).toEqual(Uint32Array.of(0xffffffff));
    expect(decodeValues("I16", bytesOf(254, 255))).toEqual(Int16Array.of(-2));
    expect(decodeValues("U16", bytesOf(254, 255))).toEqual(Uint16Array.of(65534));
    expect(decodeValues("I8", bytesOf(128))).toEqual(Int8Array.of(-128));
    expect(decodeValues("F64", bytesOf(0, 0, 0, 0, 0, 0, 0xf8, 0x3f))).toEqual(Float64Array.of(1.5));
    expect(decodeValues("BOOL", bytesOf(0, 1))).toEqual(Uint8Array.of(0, 1));
  });

  it("has no host form for the packed and the complex dtypes", () => {
    for (const dtype of ["F4", "F6_E2M3", "F6_E3M2", "F8_E8M0", "C64"] as const) {
      expect(decodeValues(dtype, new Uint8Array(8)), dtype).toBeUndefined();
    }
  });
});
