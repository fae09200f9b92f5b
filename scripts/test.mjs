// npm test: brings the clone to readiness, then runs vitest over everything that needs no GPU. Options go on to vitest.
import { main, ready, run } from "./ready.mjs";

await main(async () => {
  await ready({ tests: true });
  return run(process.execPath, ["node_modules/vitest/vitest.mjs", "run", ...process.argv.slice(2)]);
});
