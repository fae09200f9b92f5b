import { expect, it } from "vitest";

const file = new URL("../../scripts/memcheck-cases.mjs", import.meta.url).href;
const { memcheckCases }: { memcheckCases: (tests: { name: string; seconds: number }[]) => string[] } =
  await import(file);

it("takes every short case and leaves the long ones", () => {
  const tests = [
    { name: "gemv/3x16x16", seconds: 0.01 },
    { name: "gemv/28x18432x3072", seconds: 3.7 },
    { name: "norm/rms_norm/1x1x128", seconds: 0.2 },
  ];
  expect(memcheckCases(tests)).toEqual(["gemv/3x16x16", "norm/rms_norm/1x1x128"]);
});

it("leaves no family out: where all are long, or launch nothing, it takes the shortest that launches", () => {
  const tests = [
    { name: "conv/refusals", seconds: 0.001 },
    { name: "conv/norms/100x150", seconds: 0.9 },
    { name: "conv/norms/20x70", seconds: 0.5 },
    { name: "norm/refusals", seconds: 0.001 },
  ];
  expect(memcheckCases(tests)).toEqual(["conv/refusals", "norm/refusals", "conv/norms/20x70"]);
});
