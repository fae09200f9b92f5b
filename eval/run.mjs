// npm run eval -- [options]: brings the clone to readiness, compiles eval/ and judges the model's pictures. The figures go to
// bench/results/eval.json, those of caches to bench/results/eval-cache-STEPS.json, those of adapters beside none to
// bench/results/eval-lora.json.
import { mkdirSync, writeFileSync } from "node:fs";
import { cpus } from "node:os";
import { join } from "node:path";
import { findModel } from "../scripts/find-model.mjs";
import { main, ready, root, run } from "../scripts/ready.mjs";
import { sourcesDigest } from "../scripts/sources-digest.mjs";

/** Fewer say too little to replace what is in bench/results. */
const KEPT_PICTURES = 64;

await main(async () => {
  await ready();
  if (run(process.execPath, ["node_modules/typescript/bin/tsc", "-p", "eval/tsconfig.json"]) !== 0) {
    throw new Error("the TypeScript in eval/ does not compile");
  }
  const { evaluate, parseOptions } = await import("../build/eval/main.js");
  const options = parseOptions(process.argv.slice(2), findModel());
  const rows = await evaluate(options);
  if (options.n >= KEPT_PICTURES) console.log(`figures: ${await writeReport(rows, options)}`);
  else console.log(`figures of fewer than ${KEPT_PICTURES} pictures are not kept`);
  return 0;
});

/** In the form of bench/results.mjs, with the seed and the folder's name of the model. */
async function writeReport(rows, { seed, setting, comparesCaches, comparesAdapters }) {
  const { deviceInfo } = await import("../dist/index.js");
  const { cpu, cuda } = deviceInfo();
  const onGpu = rows.some((row) => row.case.includes("cuda"));
  const plain = comparesAdapters ? "eval-lora" : "eval";
  const name = comparesCaches ? `eval-cache-${setting.steps}` : plain;
  const report = {
    bench: name,
    gpu: onGpu ? cuda.devices[0].name : null,
    cpu: `${cpu.cores} cores of ${cpus()[0]?.model.trim() ?? "unknown processor"}, ${cpu.simd}`,
    driver: onGpu ? String(cuda.driver) : null,
    date: new Date().toISOString().slice(0, 10),
    sources: sourcesDigest(),
    model: setting.model.replace(/^.*\//, ""),
    seed,
    rows,
  };
  mkdirSync(join(root, "bench/results"), { recursive: true });
  const file = join(root, `bench/results/${name}.json`);
  writeFileSync(file, `${JSON.stringify(report, null, 2)}\n`);
  return file;
}
