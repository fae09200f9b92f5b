import { defineConfig } from "vitest/config";

// Two projects: "unit" runs everywhere; "gpu" (test/gpu) needs an NVIDIA GPU and runs one file at a time.
export default defineConfig({
  test: {
    pool: "forks",
    testTimeout: 120_000,
    hookTimeout: 120_000,
    projects: [
      {
        extends: true,
        test: { name: "unit", include: ["test/**/*.test.ts"], exclude: ["test/gpu/**"] },
      },
      {
        extends: true,
        test: { name: "gpu", include: ["test/gpu/**/*.test.ts"], fileParallelism: false },
      },
    ],
  },
});
