/** Element types of Buffers and Values. `f8e4m3` is e4m3fn: no infinities, largest finite value 448. */
export type DType = "f32" | "bf16" | "f16" | "f8e4m3" | "i32" | "i8" | "u8";

const SIZES: Readonly<Record<DType, number>> = { f32: 4, bf16: 2, f16: 2, f8e4m3: 1, i32: 4, i8: 1, u8: 1 };

/** Bytes of one element. */
export function sizeOf(dtype: DType): number {
  return SIZES[dtype];
}

/** The product of a shape; 1 for a scalar. */
export function elementsOf(shape: readonly number[]): number {
  return shape.reduce((product, length) => product * length, 1);
}
