/** Pointwise functions that ops can apply on the way out. `gelu` is the tanh form; `quickGelu` is x·σ(1.702x), as CLIP has it. */
export type Activation = "none" | "gelu" | "silu" | "quickGelu";

/** By what number an op has each. */
export const ACTIVATIONS: Readonly<Record<Activation, number>> = { none: 0, gelu: 1, silu: 2, quickGelu: 3 };
