import { describe, expect, it } from "vitest";
import { FLUX_ERROR_CODES, FluxError } from "../lib/errors.js";

describe("FluxError", () => {
  it("is an Error with a code, a name and a cause", () => {
    const cause = new Error("disk");
    const error = new FluxError("ERR_FLUX_IO", "cannot be written", { cause });
    expect(error).toBeInstanceOf(Error);
    expect(error).toMatchObject({
      name: "FluxError",
      code: "ERR_FLUX_IO",
      message: "cannot be written",
      cause,
    });
    expect(String(error)).toBe("FluxError: cannot be written");
    expect("cause" in new FluxError("ERR_FLUX_IO", "no cause")).toBe(false);
  });

  it("is told by its code, also when it comes from another copy of the class", () => {
    const foreign = Object.assign(new Error("lost"), { code: "ERR_FLUX_CUDA" });
    expect(FluxError.is(foreign)).toBe(true);
    expect(FluxError.is(foreign, "ERR_FLUX_CUDA")).toBe(true);
    expect(FluxError.is(foreign, "ERR_FLUX_IO")).toBe(false);
    expect(FluxError.is(Object.assign(new Error("no"), { code: "ENOENT" }))).toBe(false);
    expect(FluxError.is({ code: "ERR_FLUX_IO" })).toBe(false);
    for (const code of FLUX_ERROR_CODES) expect(FluxError.is(new FluxError(code, ""), code)).toBe(true);
  });
});
