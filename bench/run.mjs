// npm run bench -- NAME… [--model PATH] [--precision NAME]: brings the clone to readiness and runs benchmarks, in the order given. Without a name
// it lists them. The model is that of `npm start` unless one is named. --built runs what lies in build/ and dist/.
import { parseArgs } from "node:util";
import { main, ready } from "../scripts/ready.mjs";
import { formatRows, writeResults } from "./results.mjs";

/** What each name runs: modules whose `bench` gives rows; `writes` puts them into bench/results/NAME.json. */
const benches = {
  cpu: {
    about: "startup and event-loop, written to bench/results/cpu.json",
    parts: ["cpu/startup", "cpu/event-loop"],
    writes: true,
  },
  startup: { about: "from the start of the process to a PNG, on the CPU", parts: ["cpu/startup"] },
  "event-loop": { about: "how long Node's event loop is held up, on the CPU", parts: ["cpu/event-loop"] },
  lora: {
    about: "steps with slots for adapters, swaps and reading, on the CPU, written to bench/results/lora.json",
    parts: ["cpu/lora"],
    writes: true,
  },
  load: {
    about:
      "loading onto the GPU and the first image, of --model in --precision, written to bench/results/load.json",
    parts: ["gpu/load"],
    writes: true,
    gpu: true,
  },
  gemm: {
    about:
      "matrix products with their epilogues, kernel by kernel beside PyTorch, written to bench/results/gemm.json",
    parts: ["gpu/gemm"],
    writes: true,
    gpu: true,
  },
  attention: {
    about:
      "attention in bf16 and 8 bits, kernel by kernel beside PyTorch, written to bench/results/attention.json",
    parts: ["gpu/attention"],
    writes: true,
    gpu: true,
  },
  norm: {
    about:
      "norms, quantising and small products, kernel by kernel beside PyTorch, written to bench/results/norm.json",
    parts: ["gpu/norm"],
    writes: true,
    gpu: true,
  },
  image: {
    about: "steps and whole images on the GPU beside PyTorch, written to bench/results/image.json",
    parts: ["gpu/image"],
    writes: true,
    gpu: true,
  },
  "step-profile": {
    about: "where a step goes on the GPU, written to bench/results/step-profile.json",
    parts: ["gpu/step-profile"],
    writes: true,
    gpu: true,
  },
  memory: {
    about: "device memory and its growth, written to bench/results/memory.json",
    parts: ["gpu/memory"],
    writes: true,
    gpu: true,
  },
  vae: {
    about: "the autoencoder on the GPU beside PyTorch, written to bench/results/vae.json",
    parts: ["gpu/vae"],
    writes: true,
    gpu: true,
  },
  cache: {
    about: "first-block caching on the GPU, written to bench/results/cache.json",
    parts: ["gpu/cache"],
    writes: true,
    gpu: true,
  },
};

await main(async () => {
  const { positionals: names, values: options } = parseArgs({
    options: {
      model: { type: "string" },
      precision: { type: "string" },
      built: { type: "boolean" },
      filter: { type: "string", multiple: true },
    },
    allowPositionals: true,
  });
  const unknown = names.filter((name) => !Object.hasOwn(benches, name));
  if (names.length === 0 || unknown.length > 0) {
    if (unknown.length > 0) console.error(`there is no benchmark ${unknown.join(", ")}`);
    console.error("npm run bench -- NAME… [--model PATH] [--precision NAME] [--filter CASE]… [--built]");
    for (const [name, { about }] of Object.entries(benches)) console.error(`  ${name.padEnd(12)} ${about}`);
    return unknown.length > 0 ? 2 : 0;
  }
  if (!options.built) await ready();
  for (const name of names) {
    const { parts, writes, gpu } = benches[name];
    const rows = [];
    for (const part of parts) rows.push(...(await (await import(`./${part}.mjs`)).bench(options)));
    console.log(formatRows(rows));
    if (writes) console.error(`written to ${await writeResults(name, rows, { gpu })}`);
  }
  return 0;
});
