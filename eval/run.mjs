// npm run eval -- [options]: brings the clone to readiness, compiles eval/ and judges the model's pictures; --built runs what lies in
// build/ and dist/. The figures go to bench/results/eval.json, on a GPU to eval-gpu.json, those of caches to eval-cache-STEPS.json,
// those of adapters beside none to eval-lora.json.
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { cpus } from "node:os";
import { join } from "node:path";
import { driverVersion } from "../scripts/driver-version.mjs";
import { findModel } from "../scripts/find-model.mjs";
import { main, ready, root, run } from "../scripts/ready.mjs";
import { sourcesDigest } from "../scripts/sources-digest.mjs";

/** Fewer say too little to replace what is in bench/results. */
const KEPT_PICTURES = 64;

await main(async () => {
  const given = process.argv.slice(2).filter((option) => option !== "--built");
  if (given.length === process.argv.length - 2) await compile();
  const { evaluate, parseOptions } = await import("../build/eval/main.js");
  const options = parseOptions(given, findModel());
  const rows = await evaluate(options);
  if (options.n >= KEPT_PICTURES) console.log(`figures: ${await writeReport(rows, options)}`);
  else console.log(`figures of fewer than ${KEPT_PICTURES} pictures are not kept`);
  return 0;
});

async function compile() {
  await ready();
  if (run(process.execPath, ["node_modules/typescript/bin/tsc", "-p", "eval/tsconfig.json"]) !== 0) {
    throw new Error("the TypeScript in eval/ does not compile");
  }
}

/** In the form of bench/results.mjs, with the seed and the folder's name of the model. */
async function writeReport(rows, { seed, setting, comparesCaches, comparesAdapters }) {
  const { deviceInfo } = await import("../dist/index.js");
  const { cpu, cuda } = deviceInfo();
  const onGpu = rows.some((row) => row.case.includes("cuda"));
  const plain = comparesAdapters ? "eval-lora" : onGpu ? "eval-gpu" : "eval";
  const name = comparesCaches ? `eval-cache-${setting.steps}` : plain;
  const report = {
    bench: name,
    gpu: onGpu ? cuda.devices[0].name : null,
    cpu: `${cpu.cores} cores of ${cpus()[0]?.model.trim() ?? "unknown processor"}, ${cpu.simd}`,
    driver: onGpu ? driverVersion() : null,
    date: new Date().toISOString().slice(0, 10),
    sources: sourcesDigest(),
    model: setting.model.replace(/^.*\//, ""),
    seed,
    rows: name === "eval-gpu" ? rows.map((row) => besideCpu(row, { seed, setting })) : rows,
  };
  mkdirSync(join(root, "bench/results"), { recursive: true });
  const file = join(root, `bench/results/${name}.json`);
  writeFileSync(file, `${JSON.stringify(report, null, 2)}\n`);
  return file;
}

/** The same prompts and seeds on the CPU in f32, where bench/results/eval.json has them: its share and the interval of it. */
function besideCpu(row, { seed, setting }) {
  const known = JSON.parse(readFileSync(join(root, "bench/results/eval.json"), "utf8"));
  const [kind] = row.case.split(",");
  const isSame = (other) => other.case === `${kind}, ${setting.steps} steps, f32, cpu` && other.n === row.n;
  const cpu = known.seed === seed ? known.rows.find(isSame) : undefined;
  if (cpu === undefined || row.unit !== cpu.unit) return row;
  const isWithin = row.value >= cpu.low && row.value <= cpu.high;
  return {
    ...row,
    peer: `f32 on the CPU, ${cpu.low} to ${cpu.high} at 95 %`,
    peerValue: cpu.value,
    isWithin,
  };
}
