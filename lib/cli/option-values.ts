import { InvalidArgumentError } from "commander";

/** A whole number of at least `minimum`, from an option's text. */
export function wholeNumber(minimum: number): (text: string) => number {
  return (text) => {
    const value = /^\d+$/.test(text) ? Number(text) : Number.NaN;
    if (!Number.isSafeInteger(value) || value < minimum) {
      throw new InvalidArgumentError(`It must be a whole number of at least ${minimum}.`);
    }
    return value;
  };
}

/** A finite number, from an option's text. */
export function decimal(text: string): number {
  const value = text.trim() === "" ? Number.NaN : Number(text);
  if (!Number.isFinite(value)) throw new InvalidArgumentError("It must be a number.");
  return value;
}

/** A seed: any whole number of 64 bits, as torch.Generator takes it. */
export function seed(text: string): bigint {
  const value = /^\d+$/.test(text) ? BigInt(text) : -1n;
  if (value < 0n || value >= 2n ** 64n) {
    throw new InvalidArgumentError("It must be a whole number from 0 to 18446744073709551615.");
  }
  return value;
}
