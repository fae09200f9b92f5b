import { execFile } from "node:child_process";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { describe, expect, test } from "vitest";

// flux_cpu_tests holds every op of the CPU backend against a slow reference. It ends with 77 where the processor has not got
// the instruction set. Under the sanitizers it is their build that runs, once for each FLUX_SIMD.
const SKIPPED = 77;
const folder = process.env.FLUX_NATIVE_BUILD ?? fileURLToPath(new URL("../../build/cmake", import.meta.url));
const variants = process.env.FLUX_SIMD ? [process.env.FLUX_SIMD] : ["baseline", "avx2", "avx512"];

describe("the ops of the CPU backend", () => {
  test.for(variants)(
    "agree with their references in %s",
    { timeout: 600_000 }, // minutes under the sanitizers
    async (variant, { skip }) => {
      const run = promisify(execFile)(`${folder}/flux_cpu_tests`, ["--variant", variant], {
        env: { ...process.env, FLUX_SIMD: variant },
      });
      const { code, output } = await run.then(
        ({ stdout }) => ({ code: 0, output: stdout }),
        (error) => ({ code: error.code, output: `${error.stdout}${error.stderr}` }),
      );
      if (code === SKIPPED) skip(output.trim());
      expect(code, output).toBe(0);
    },
  );
});
