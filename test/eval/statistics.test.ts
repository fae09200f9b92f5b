import { expect, it } from "vitest";
import { psnr, ssim, wilson } from "../../eval/statistics.js";

/** 16×16 pixels of one grey. */
const flat = (level: number) => ({ width: 16, height: 16, data: new Uint8Array(16 * 16 * 3).fill(level) });

it("gives Wilson's interval", () => {
  // Newcombe 1998, table I, method 3: 81 of 263, 15 of 148, 0 of 20 and 1 of 29.
  const published: [number, number, number, number][] = [
    [81, 263, 0.2553, 0.3662],
    [15, 148, 0.0624, 0.1605],
    [0, 20, 0, 0.1611],
    [1, 29, 0.0061, 0.1718],
  ];
  for (const [right, count, low, high] of published) {
    const found = wilson(right, count);
    expect(found.low).toBeCloseTo(low, 4);
    expect(found.high).toBeCloseTo(high, 4);
  }
});

it("gives the ratio of a known error", () => {
  // All samples differ by 5: 20 log10(255 / 5).
  expect(psnr(flat(100), flat(105))).toBeCloseTo(34.1514, 3);
  expect(psnr(flat(7), flat(7))).toBe(Number.POSITIVE_INFINITY);
});

it("gives SSIM by its definition", () => {
  // Without structure only the luminance term is left: (2ab + C1) / (a² + b² + C1), C1 = 6.5025.
  expect(ssim(flat(100), flat(120))).toBeCloseTo(
    (2 * 100 * 120 + 6.5025) / (100 ** 2 + 120 ** 2 + 6.5025),
    9,
  );
  expect(ssim(flat(31), flat(31))).toBeCloseTo(1, 12);
  // A checkerboard against its inverse about the same mean: covariance is minus the variance, 10² in each.
  const board = (sign: number) => {
    const data = Uint8Array.from({ length: 16 * 16 * 3 }, (_, i) => {
      const pixel = Math.floor(i / 3);
      return 100 + 10 * sign * ((pixel + Math.floor(pixel / 16)) % 2 === 0 ? 1 : -1);
    });
    return { width: 16, height: 16, data };
  };
  expect(ssim(board(1), board(-1))).toBeCloseTo((-200 + 58.5225) / (200 + 58.5225), 9);
});
