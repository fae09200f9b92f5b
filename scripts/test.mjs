// npm test: brings the clone to readiness, then runs vitest. Options go on to vitest; without --project the tests are those
// that run everywhere ("unit").
import { main, ready, run } from "./ready.mjs";

await main(async () => {
  await ready({ tests: true });
  const options = process.argv.slice(2);
  const project = options.some((option) => option.startsWith("--project")) ? [] : ["--project", "unit"];
  return run(process.execPath, ["node_modules/vitest/vitest.mjs", "run", ...project, ...options]);
});
