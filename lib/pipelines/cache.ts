import { checkOptions, type OptionNames, shown } from "../arguments.js";
import { badArgument } from "../errors.js";
import type { CacheHistory, CacheLimits, CacheShape } from "../models/flux/first-block-cache.js";

/**
 * First-block caching: a denoising step whose first blocks change the image nearly as they did at the last computed step
 * skips the others and adds what those added then.
 */
export interface CacheOptions {
  /** `"firstBlock"`, the only one. */
  type?: "firstBlock";
  /**
   * Skip a step when its difference is below this: mean|r − r′| / mean|r′| of what the first blocks add to the image, r′ that
   * of the last computed step. 0.08 by default; 0 skips nothing, `Infinity` all that the limits allow.
   */
  threshold?: number;
  /** Steps computed before any may be skipped: 0 by default. The first is always computed. */
  warmupSteps?: number;
  /** Steps skipped in a row at most: `Infinity` by default. */
  maxConsecutiveHits?: number;
  /** Blocks, double ones first, that always run and are compared: 1 by default (DBCache's F_n). */
  probeBlocks?: number;
  /** Blocks that always run last: 0 by default (DBCache's B_n). */
  finalBlocks?: number;
  /** 1: extrapolate what is added from the last two computed steps (TaylorSeer); 0, the default: as it was. */
  taylorOrder?: 0 | 1;
}

/** Checked, with every default filled in. */
export interface CacheSettings {
  readonly shape: CacheShape;
  readonly limits: CacheLimits;
}

/** What the cache did to one image or batch. */
export interface CacheReport extends CacheCount {
  /** With true classifier-free guidance: the same of the negative prompt, which has a cache of its own. */
  negative?: CacheCount;
}

export interface CacheCount {
  /** Steps in which all blocks ran, and steps in which some were skipped. */
  computedSteps: number;
  skippedSteps: number;
  /** Blocks that ran in all steps, and those that would have without the cache. */
  computedBlocks: number;
  totalBlocks: number;
  steps: CacheStep[];
}

export interface CacheStep {
  computed: boolean;
  /** Relative to the last computed step; absent at the first step, which has none before it. */
  difference?: number;
}

/** Every option; the compiler keeps it complete. */
const NAMES: OptionNames<CacheOptions> = {
  type: true,
  threshold: true,
  warmupSteps: true,
  maxConsecutiveHits: true,
  probeBlocks: true,
  finalBlocks: true,
  taylorOrder: true,
};

/**
 * @param blocks of the transformer, double and single ones.
 * @throws FluxError `ERR_FLUX_BAD_ARGUMENT` with a sentence about the first thing that is wrong.
 */
export function checkCache(options: CacheOptions, blocks: number): CacheSettings {
  checkOptions("the cache", options, NAMES);
  const {
    type = "firstBlock",
    threshold = 0.08,
    warmupSteps = 0,
    maxConsecutiveHits = Infinity,
    probeBlocks = 1,
    finalBlocks = 0,
    taylorOrder = 0,
  } = options;
  if (type !== "firstBlock") throw badArgument(`the cache's type is "firstBlock", not ${shown(type)}`);
  if (!(typeof threshold === "number" && threshold >= 0)) {
    throw badArgument(`the cache's threshold is a number of at least 0, not ${shown(threshold)}`);
  }
  if (taylorOrder !== 0 && taylorOrder !== 1) {
    throw badArgument(`the cache's taylorOrder is 0 or 1, not ${shown(taylorOrder)}`);
  }
  atLeast("warmupSteps", warmupSteps, 0);
  atLeast("maxConsecutiveHits", maxConsecutiveHits, 0);
  atLeast("probeBlocks", probeBlocks, 1);
  atLeast("finalBlocks", finalBlocks, 0);
  if (probeBlocks + finalBlocks >= blocks) {
    throw badArgument(
      `probeBlocks ${probeBlocks} and finalBlocks ${finalBlocks} leave nothing to skip: the model has ${blocks} blocks`,
    );
  }
  return {
    shape: { probeBlocks, finalBlocks, taylorOrder },
    limits: { threshold, warmupSteps, maxConsecutiveHits },
  };
}

export function countOf(
  { differences, computed }: CacheHistory,
  shape: CacheShape,
  blocks: number,
): CacheCount {
  const computedSteps = computed.filter(Boolean).length;
  const skippedSteps = computed.length - computedSteps;
  return {
    computedSteps,
    skippedSteps,
    computedBlocks: computedSteps * blocks + skippedSteps * (shape.probeBlocks + shape.finalBlocks),
    totalBlocks: computed.length * blocks,
    steps: computed.map((all, step) => ({
      computed: all,
      ...(step > 0 && { difference: differences[step]! }),
    })),
  };
}

function atLeast(name: string, value: number, least: number): void {
  if (typeof value === "number" && value >= least && (Number.isInteger(value) || value === Infinity)) return;
  throw badArgument(`the cache's ${name} is a whole number of at least ${least}, not ${shown(value)}`);
}
