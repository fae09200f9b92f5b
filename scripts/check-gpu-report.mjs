// Fails when test/gpu/report.json is not of the current sources, or tells of failures, unless it says why a run is pending.
import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { sourcesDigest } from "./sources-digest.mjs";

const path = fileURLToPath(new URL("../test/gpu/report.json", import.meta.url));
const report = JSON.parse(readFileSync(path, "utf8"));
const problems = [];
if (report.pending) {
  console.log(`GPU report: pending: ${report.pending}`);
} else {
  if (report.sources !== sourcesDigest()) {
    problems.push(
      "it was made with other sources than these (kernels/, csrc/ or lib/ changed): run npm run test:gpu again",
    );
  }
  if (!(report.passed > 0)) problems.push("no test passed");
  if (report.failed !== 0) problems.push(`${report.failed} tests failed`);
  console.log(
    `GPU report: ${report.device}: ${report.passed} passed, ${report.failed} failed, ${report.skipped} skipped`,
  );
}
for (const problem of problems) console.error(`test/gpu/report.json: ${problem}`);
process.exitCode = problems.length > 0 ? 1 : 0;
