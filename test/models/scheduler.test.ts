import { describe, expect, it } from "vitest";
import { readSchedulerConfig } from "../../lib/loaders/config.js";
import { FlowMatchEulerScheduler } from "../../lib/models/scheduler.js";
import {
  golden,
  goldenIndex,
  goldenJson,
  goldenPath,
  maxAbsDifference,
  relativeL2,
} from "../support/golden.js";

interface ScheduleCase {
  key: string;
  model: "dev" | "schnell";
  height: number;
  width: number;
  steps: number;
  image_seq_len: number;
  mu: number;
  sigmas: number[];
  img2img: { strength: number; t_start: number; steps_run: number }[];
}

const FILE = "cases/scheduler.safetensors";
const schedulerOf = async (model: "dev" | "schnell") =>
  new FlowMatchEulerScheduler(await readSchedulerConfig(goldenPath(`configs/FLUX.1-${model}/scheduler`)));

describe("FlowMatchEulerScheduler", () => {
  it.each(goldenJson<ScheduleCase[]>("cases/scheduler.json"))("equals diffusers: $key", async (expected) => {
    const { model, key, steps, image_seq_len: imageSeqLen } = expected;
    const scheduler = await schedulerOf(model);
    const { sigmas, timesteps, mu, startIndex } = scheduler.schedule({
      numInferenceSteps: steps,
      imageSeqLen,
    });

    const { tolerance } = goldenIndex(FILE).tensors[`${key}.sigmas`];
    expect(maxAbsDifference(sigmas, golden(FILE).f32(`${key}.sigmas`))).toBeLessThanOrEqual(
      Number(tolerance?.sigmas),
    );
    expect(maxAbsDifference(sigmas, expected.sigmas)).toBeLessThanOrEqual(Number(tolerance?.sigmas));
    expect(maxAbsDifference(timesteps, golden(FILE).f32(`${key}.timesteps`))).toBeLessThanOrEqual(
      Number(tolerance?.timesteps),
    );
    if (model === "dev") expect(mu).toBeCloseTo(expected.mu, 6);
    else expect(mu).toBeUndefined();
    expect(startIndex).toBe(0);

    for (const { strength, t_start, steps_run } of expected.img2img) {
      const partial = scheduler.schedule({ numInferenceSteps: steps, imageSeqLen, strength });
      expect(partial.startIndex, `strength ${strength}`).toBe(t_start);
      expect(partial.timesteps.length - partial.startIndex, `strength ${strength}`).toBe(steps_run);
      expect(partial.sigmas).toEqual(sigmas);
    }
  });

  it("shifts a caller's sigmas as diffusers does", async () => {
    const scheduler = await schedulerOf("dev");
    const sigmasIn = [...golden(FILE).f32("custom.sigmas_in")];
    const { sigmas, timesteps } = scheduler.schedule({ sigmas: sigmasIn, imageSeqLen: 1024 });
    const tolerance = Number(goldenIndex(FILE).tensors["custom.sigmas"].tolerance?.fp32_impl);
    expect(relativeL2(sigmas, golden(FILE).f32("custom.sigmas"))).toBeLessThanOrEqual(tolerance);
    expect(relativeL2(timesteps, golden(FILE).f32("custom.timesteps"))).toBeLessThanOrEqual(tolerance);
  });

  it("gives the sigmas of diffusers' Euler steps", async () => {
    const scheduler = await schedulerOf("dev");
    // step.* in the golden data: five steps of x += (sigma[i+1] − sigma[i])·v·(1 + 0.1·i) over the custom schedule.
    const { sigmas } = scheduler.schedule({
      sigmas: [...golden(FILE).f32("custom.sigmas_in")],
      imageSeqLen: 1024,
    });
    const velocity = golden(FILE).f32("step.model_output");
    let sample = golden(FILE).f32("step.sample");
    for (let step = 0; step < 5; step++) {
      const delta = (sigmas[step + 1] - sigmas[step]) * (1 + 0.1 * step);
      sample = sample.map((x, i) => x + delta * velocity[i]);
      const { tolerance } = goldenIndex(FILE).tensors[`step.${step}`];
      expect(relativeL2(sample, golden(FILE).f32(`step.${step}`)), `step ${step}`).toBeLessThanOrEqual(
        Number(tolerance?.fp32_impl),
      );
    }
  });

  it("shifts statically by s·σ / (1 + (s − 1)·σ), and linearly where the config says so", async () => {
    const { config } = await schedulerOf("dev");
    const shifted = new FlowMatchEulerScheduler({ ...config, useDynamicShifting: false, shift: 3 });
    expect([...shifted.schedule({ sigmas: [1, 0.5], imageSeqLen: 1 }).sigmas]).toEqual([1, 0.75, 0]);
    const linear = new FlowMatchEulerScheduler({ ...config, timeShiftType: "linear" });
    // mu is 1.15 at 4096 tokens: 1.15 / (1.15 + 1) at sigma 0.5.
    expect(linear.schedule({ sigmas: [1, 0.5], imageSeqLen: 4096 }).sigmas[1]).toBeCloseTo(1.15 / 2.15, 6);
  });

  it.each<[string, Parameters<FlowMatchEulerScheduler["schedule"]>[0]]>([
    ["numInferenceSteps", { numInferenceSteps: 0, imageSeqLen: 64 }],
    ["numInferenceSteps", { numInferenceSteps: 2.5, imageSeqLen: 64 }],
    ["numInferenceSteps", { numInferenceSteps: 1001, imageSeqLen: 64 }],
    ["numInferenceSteps", { imageSeqLen: 64 }],
    ["numInferenceSteps", { sigmas: [], imageSeqLen: 64 }],
    ["imageSeqLen", { numInferenceSteps: 4, imageSeqLen: 0 }],
    ["one per step", { numInferenceSteps: 4, sigmas: [1, 0.5], imageSeqLen: 64 }],
    ["sigmas\\[1\\]", { sigmas: [0.5, 1], imageSeqLen: 64 }],
    ["sigmas\\[1\\]", { sigmas: [1, 1], imageSeqLen: 64 }],
    ["sigmas\\[1\\]", { sigmas: [1, 0], imageSeqLen: 64 }],
    ["sigmas\\[0\\]", { sigmas: [1.5], imageSeqLen: 64 }],
    ["sigmas\\[1\\]", { sigmas: [1, Number.NaN], imageSeqLen: 64 }],
    ["strength", { numInferenceSteps: 4, imageSeqLen: 64, strength: 0 }],
    ["strength", { numInferenceSteps: 4, imageSeqLen: 64, strength: 1.1 }],
    ["strength", { numInferenceSteps: 4, imageSeqLen: 64, strength: Number.NaN }],
  ])("refuses a wrong option, naming %s: %j", async (says, options) => {
    const scheduler = await schedulerOf("dev");
    expect(() => scheduler.schedule(options)).toThrow(
      expect.objectContaining({ code: "ERR_FLUX_BAD_ARGUMENT", message: expect.stringMatching(says) }),
    );
  });
});
