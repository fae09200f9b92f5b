import { kernelRows } from "./kernels.mjs";

export const bench = (options) => kernelRows("norm", options);
