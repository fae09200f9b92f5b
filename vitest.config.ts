import { defineConfig } from "vitest/config";

// test/gpu needs an NVIDIA GPU and runs by node's own test runner: see scripts/test-gpu.mjs.
export default defineConfig({
  test: {
    pool: "forks",
    testTimeout: 120_000,
    hookTimeout: 120_000,
    include: ["test/**/*.test.ts"],
    exclude: ["test/gpu/**"],
  },
});
