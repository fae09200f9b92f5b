// Which recorded loops stay when there are more of them than are kept: the one that a call runs, as long as it runs.

import { afterAll, afterEach, beforeAll, expect, it, vi } from "vitest";
import { FluxPipeline } from "../../lib/index.js";
import { Denoiser } from "../../lib/pipelines/denoiser.js";
import { goldenPath } from "../support/golden.js";

/** Of pipelines/kept.ts, MOST_ENTRIES. */
const KEPT = 32;
const REQUEST = { prompt: "a", height: 16, width: 16, maxSequenceLength: 4, outputType: "latents" } as const;

let pipe: FluxPipeline;
beforeAll(async () => {
  pipe = await FluxPipeline.fromConfig(goldenPath("configs/tiny-flux"), { weights: "random", device: "cpu" });
});
afterAll(() => pipe.dispose());
afterEach(() => vi.restoreAllMocks());

/** Numbers of steps, by which the loops here differ, of those that went. */
function disposedSteps(): number[] {
  const steps: number[] = [];
  const dispose = Denoiser.prototype.dispose;
  vi.spyOn(Denoiser.prototype, "dispose").mockImplementation(function (this: Denoiser) {
    steps.push(this.shape.steps);
    dispose.call(this);
  });
  return steps;
}

function plan(first: number, count: number): void {
  for (let steps = first; steps < first + count; steps++) pipe.plan({ ...REQUEST, numInferenceSteps: steps });
}

it("keeps the loop that runs, whatever is planned meanwhile, and gives it up as the oldest afterwards", async () => {
  const gone = disposedSteps();
  let during: number[] = [];
  const onStep = ({ step }: { step: number }) => {
    if (step > 1) return;
    plan(100, KEPT + 2);
    during = [...gone];
  };
  const { latents } = await pipe.generate({ ...REQUEST, numInferenceSteps: 2, onStep });
  expect(latents!.data.every(Number.isFinite)).toBe(true);
  expect(during).toEqual([100, 101, 102]);
  gone.length = 0;
  plan(200, 1);
  expect(gone).toEqual([2]);
});

it("gives the loop of a call that failed up, too", async () => {
  const gone = disposedSteps();
  const onStep = () => {
    throw new Error("enough");
  };
  await expect(pipe.generate({ ...REQUEST, numInferenceSteps: 3, onStep })).rejects.toThrow("enough");
  await pipe.profile({ ...REQUEST, numInferenceSteps: 4 });
  plan(300, KEPT);
  expect(gone.slice(-2)).toEqual([3, 4]);
});
