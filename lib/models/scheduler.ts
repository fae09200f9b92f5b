// Flow-match Euler scheduler: the noise levels sigma of a run. The step itself, x += (sigma[i+1] − sigma[i])·velocity, is an
// op of the device. Reference: diffusers' FlowMatchEulerDiscreteScheduler as FluxPipeline drives it.

import { badArgument } from "../errors.js";
import type { SchedulerConfig } from "../loaders/config.js";

export interface ScheduleOptions {
  /** Steps of a whole run. Default: the length of `sigmas`. */
  readonly numInferenceSteps?: number;
  /** Image tokens, (height/16)·(width/16): dynamic shifting depends on it. */
  readonly imageSeqLen: number;
  /** Sigmas before shifting, falling, each in (0, 1]. Default: evenly spaced from 1 to 1/numInferenceSteps. */
  readonly sigmas?: readonly number[];
  /** How much of an input image is noised away, in (0, 1]; 1, the default, starts from noise alone. */
  readonly strength?: number;
}

export interface Schedule {
  /** Shifted sigmas of the whole run with the terminal 0: one more than there are steps. */
  readonly sigmas: Float32Array;
  /** numTrainTimesteps · sigma for each step; the transformer reads timestep / 1000, which is sigma. */
  readonly timesteps: Float32Array;
  /** First step to run: 0 unless strength is below 1. */
  readonly startIndex: number;
  /** The dynamic shift; undefined with a static one. */
  readonly mu: number | undefined;
}

export class FlowMatchEulerScheduler {
  readonly config: SchedulerConfig;

  constructor(config: SchedulerConfig) {
    this.config = config;
  }

  /**
   * The noise levels of one run.
   *
   * @throws FluxError ERR_FLUX_BAD_ARGUMENT naming the option that is wrong.
   */
  schedule(options: ScheduleOptions): Schedule {
    const unshifted = unshiftedSigmas(options);
    const steps = unshifted.length;
    const mu = this.config.useDynamicShifting ? this.#dynamicShift(options.imageSeqLen) : undefined;
    const sigmas = new Float32Array(steps + 1);
    unshifted.forEach((sigma, step) => {
      sigmas[step] = mu === undefined ? this.#shiftStatically(sigma) : this.#shiftDynamically(sigma, mu);
    });
    const timesteps = sigmas.subarray(0, steps).map((sigma) => sigma * this.config.numTrainTimesteps);
    return { sigmas, timesteps, startIndex: startIndex(steps, options.strength ?? 1), mu };
  }

  /** mu grows linearly with the image tokens, from baseShift at baseImageSeqLen to maxShift at maxImageSeqLen. */
  #dynamicShift(imageSeqLen: number): number {
    const { baseShift, maxShift, baseImageSeqLen, maxImageSeqLen } = this.config;
    const slope = (maxShift - baseShift) / (maxImageSeqLen - baseImageSeqLen);
    return baseShift + slope * (imageSeqLen - baseImageSeqLen);
  }

  #shiftDynamically(sigma: number, mu: number): number {
    const factor = this.config.timeShiftType === "exponential" ? Math.exp(mu) : mu;
    return factor / (factor + (1 / sigma - 1));
  }

  #shiftStatically(sigma: number): number {
    const { shift } = this.config;
    return (shift * sigma) / (1 + (shift - 1) * sigma);
  }
}

function unshiftedSigmas({ numInferenceSteps, imageSeqLen, sigmas }: ScheduleOptions): readonly number[] {
  if (!Number.isSafeInteger(imageSeqLen) || imageSeqLen < 1) {
    throw badArgument(`imageSeqLen must be a whole number of at least 1, but it is ${imageSeqLen}.`);
  }
  const steps = numInferenceSteps ?? sigmas?.length;
  if (!Number.isSafeInteger(steps) || steps === undefined || steps < 1 || steps > 1000) {
    throw badArgument(`numInferenceSteps must be a whole number from 1 to 1000, but it is ${steps}.`);
  }
  if (sigmas === undefined) {
    const last = 1 / steps;
    return Array.from({ length: steps }, (_, i) => (steps === 1 ? 1 : 1 + (i * (last - 1)) / (steps - 1)));
  }
  if (sigmas.length !== steps) {
    throw badArgument(
      `sigmas has ${sigmas.length} values for ${steps} steps. Give one per step, without the terminal 0.`,
    );
  }
  sigmas.forEach((sigma, step) => {
    const isFalling = step === 0 || sigma < sigmas[step - 1];
    if (!(sigma > 0 && sigma <= 1 && isFalling)) {
      throw badArgument(`sigmas must fall and lie in (0, 1], but sigmas[${step}] is ${sigma}.`);
    }
  });
  return sigmas;
}

function startIndex(steps: number, strength: number): number {
  if (!(strength > 0 && strength <= 1)) {
    throw badArgument(`strength must be above 0 and at most 1, but it is ${strength}.`);
  }
  const stepsToRun = Math.min(steps * strength, steps);
  return Math.floor(steps - stepsToRun);
}
