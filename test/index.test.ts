// What a user of the package imports.

import { expect, it } from "vitest";
import * as fluxwarp from "../lib/index.js";

it("exports these values", () => {
  expect(Object.keys(fluxwarp).sort()).toEqual([
    "Device",
    "FLUX_ERROR_CODES",
    "FluxError",
    "FluxImage",
    "FluxPipeline",
    "deviceInfo",
  ]);
});
