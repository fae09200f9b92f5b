import { kernelRows } from "./kernels.mjs";

export const bench = (options) => kernelRows("gemm", options);
