/** Confidence intervals, and how far two pictures are apart. */
import type { Picture } from "./components.js";

export const mean = (values: readonly number[]) => values.reduce((a, b) => a + b, 0) / values.length;

/** Wilson's score interval of a share at 95 % (Wilson 1927): `right` of `count`, count at least 1. */
export function wilson(right: number, count: number): { low: number; high: number } {
  const z = 1.959964;
  const share = right / count;
  const middle = (share + z ** 2 / (2 * count)) / (1 + z ** 2 / count);
  const half =
    (z / (1 + z ** 2 / count)) * Math.sqrt((share * (1 - share)) / count + z ** 2 / (4 * count ** 2));
  return { low: Math.max(0, middle - half), high: Math.min(1, middle + half) };
}

/** Peak signal-to-noise ratio in dB over all channels of 8 bits; Infinity for equal pictures. Sizes must agree. */
export function psnr(a: Picture, b: Picture): number {
  let sum = 0;
  for (let i = 0; i < a.data.length; i++) sum += (a.data[i]! - b.data[i]!) ** 2;
  return 10 * Math.log10(255 ** 2 / (sum / a.data.length));
}

/**
 * Structural similarity of the luminances (Wang et al. 2004): mean over windows of 8×8 pixels, 4 apart, with uniform
 * weights; K1 = 0.01, K2 = 0.03. 1 for equal pictures. Sizes must agree and be at least 8.
 */
export function ssim(a: Picture, b: Picture): number {
  const [la, lb] = [luminance(a), luminance(b)];
  const [c1, c2, n] = [(0.01 * 255) ** 2, (0.03 * 255) ** 2, 64];
  let [total, windows] = [0, 0];
  for (let top = 0; top + 8 <= a.height; top += 4) {
    for (let left = 0; left + 8 <= a.width; left += 4) {
      let [sa, sb, saa, sbb, sab] = [0, 0, 0, 0, 0];
      for (let y = top; y < top + 8; y++) {
        for (let x = left; x < left + 8; x++) {
          const [va, vb] = [la[y * a.width + x]!, lb[y * a.width + x]!];
          sa += va;
          sb += vb;
          saa += va * va;
          sbb += vb * vb;
          sab += va * vb;
        }
      }
      const [ma, mb] = [sa / n, sb / n];
      const [varA, varB, covariance] = [saa / n - ma * ma, sbb / n - mb * mb, sab / n - ma * mb];
      total += ((2 * ma * mb + c1) * (2 * covariance + c2)) / ((ma * ma + mb * mb + c1) * (varA + varB + c2));
      windows++;
    }
  }
  return total / windows;
}

function luminance({ data }: Picture): Float64Array {
  return Float64Array.from({ length: data.length / 3 }, (_, i) => {
    return 0.299 * data[3 * i]! + 0.587 * data[3 * i + 1]! + 0.114 * data[3 * i + 2]!;
  });
}
