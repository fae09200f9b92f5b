// Writes test/gpu/report.json, which says what ran on a GPU and with which sources. CI has no GPU: it checks this report.
//
//   npm run test:gpu -- --reporter=default --reporter=json --outputFile.json=gpu.json     on the machine with the GPU
//   node scripts/gpu-report.mjs --results gpu.json --device "NVIDIA H200"
//   node scripts/gpu-report.mjs --pending "why the current sources have not run on a GPU yet"
import { readFileSync, writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { sourcesDigest } from "./sources-digest.mjs";

const { values } = parseArgs({
  options: { results: { type: "string" }, device: { type: "string" }, pending: { type: "string" } },
});
if ((values.results === undefined) === (values.pending === undefined)) {
  throw new Error('give either --results FILE with --device NAME, or --pending "reason"');
}
const path = fileURLToPath(new URL("../test/gpu/report.json", import.meta.url));
const report = { sources: sourcesDigest(), pending: values.pending ?? "" };
if (values.results !== undefined) {
  if (!values.device) throw new Error("--device NAME is missing");
  const results = JSON.parse(readFileSync(values.results, "utf8"));
  report.device = values.device;
  report.passed = results.numPassedTests;
  report.failed = results.numFailedTests;
  report.skipped = results.numPendingTests + results.numTodoTests;
}
writeFileSync(path, `${JSON.stringify(report, null, 2)}\n`);
console.log(`${path}: ${report.pending || `${report.passed} passed, ${report.failed} failed`}`);
