import { CacheOps } from "./recorder/cache.js";

export type { Activation } from "./recorder/activation.js";
export type { CacheDecision, CacheDecisionMemory } from "./recorder/cache.js";
export type { ConvWeights } from "./recorder/convolution.js";
export type { LinearWeights, LowRankWeights } from "./recorder/linear.js";
export type { GroupNormSums, GroupNormWeights } from "./recorder/norm.js";
export type { TileRamp } from "./recorder/sampler.js";
export { type Tensor, valueOf } from "./recorder/tensor.js";

/**
 * Records ops. Nothing is computed here: each method checks shapes, appends an op and returns its result as a Value. What
 * every op means, element by element, is written in csrc/cpu/ops.h. `into` writes a given Value (a slice of a joint buffer,
 * say) instead of a new one. The methods lie in recorder/, a family a file: each class there adds to the one before it.
 */
export class Recorder extends CacheOps {}
