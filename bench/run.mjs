// npm run bench -- NAME… [options]: brings the clone to readiness and runs benchmarks, in the order given. Without a name it lists them. The model
// is that of `npm start` unless one is named. --built runs what lies in build/ and dist/. Rows are printed, and written, as they come.
import { parseArgs } from "node:util";
import { main, ready } from "../scripts/ready.mjs";
import { formatRow, resultsFile } from "./results.mjs";

/**
 * What each name runs: modules whose `bench` gives rows; `writes` puts them into bench/results/NAME.json, `merges` beside those that
 * another call measured with the same sources.
 */
const benches = {
  cpu: {
    about: "startup and event-loop, written to bench/results/cpu.json",
    parts: ["cpu/startup", "cpu/event-loop"],
    writes: true,
  },
  startup: { about: "from the start of the process to a PNG, on the CPU", parts: ["cpu/startup"] },
  "event-loop": { about: "how long Node's event loop is held up, on the CPU", parts: ["cpu/event-loop"] },
  lora: {
    about: "steps with slots for adapters, and swaps, on the GPU, written to bench/results/lora.json",
    parts: ["gpu/lora"],
    writes: true,
    gpu: true,
  },
  "lora-cpu": {
    about:
      "steps with slots for adapters, swaps and reading, on the CPU, written to bench/results/lora-cpu.json",
    parts: ["cpu/lora"],
    writes: true,
  },
  load: {
    about:
      "loading onto the GPU and the first image, of --model in --precision, written to bench/results/load.json",
    parts: ["gpu/load"],
    writes: true,
    merges: true,
    gpu: true,
  },
  gemm: {
    about:
      "matrix products with their epilogues, kernel by kernel beside PyTorch, written to bench/results/gemm.json",
    parts: ["gpu/gemm"],
    writes: true,
    merges: true,
    gpu: true,
  },
  attention: {
    about:
      "attention in bf16 and 8 bits, kernel by kernel beside PyTorch, written to bench/results/attention.json",
    parts: ["gpu/attention"],
    writes: true,
    merges: true,
    gpu: true,
  },
  norm: {
    about:
      "norms, quantising and small products, kernel by kernel beside PyTorch, written to bench/results/norm.json",
    parts: ["gpu/norm"],
    writes: true,
    merges: true,
    gpu: true,
  },
  image: {
    about: "steps and whole images on the GPU beside PyTorch, written to bench/results/image.json",
    parts: ["gpu/image"],
    writes: true,
    merges: true,
    gpu: true,
  },
  "step-profile": {
    about: "where a step goes on the GPU, written to bench/results/step-profile.json",
    parts: ["gpu/step-profile"],
    writes: true,
    gpu: true,
  },
  accuracy: {
    about: "a noise prediction's error beside PyTorch's, written to bench/results/accuracy.json",
    parts: ["gpu/accuracy"],
    writes: true,
    gpu: true,
  },
  memory: {
    about: "device memory and its growth, written to bench/results/memory.json",
    parts: ["gpu/memory"],
    writes: true,
    merges: true,
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

const OPTIONS = {
  model: { type: "string" },
  precision: { type: "string" },
  device: { type: "string" },
  filter: { type: "string", multiple: true },
  shapes: { type: "string" },
  parts: { type: "string" },
  peers: { type: "string" },
  "no-peers": { type: "boolean" },
  tiny: { type: "boolean" },
  built: { type: "boolean" },
};
const USAGE = `npm run bench -- NAME… [--model PATH] [--precision NAME] [--device NAME] [--filter CASE]… [--shapes NAME,…] [--parts NAME,…]
    [--peers NAME,… | --no-peers] [--tiny] [--built]`;

await main(async () => {
  const { positionals: names, values } = parseArgs({ options: OPTIONS, allowPositionals: true });
  const unknown = names.filter((name) => !Object.hasOwn(benches, name));
  if (names.length === 0 || unknown.length > 0) {
    if (unknown.length > 0) console.error(`there is no benchmark ${unknown.join(", ")}`);
    console.error(USAGE);
    for (const [name, { about }] of Object.entries(benches)) console.error(`  ${name.padEnd(12)} ${about}`);
    return unknown.length > 0 ? 2 : 0;
  }
  if (!values.built) await ready();
  for (const name of names) {
    const { parts, writes, ...form } = benches[name];
    const kept = writes && !values.tiny ? await resultsFile(name, form) : undefined; // nobody wants the small model's
    for (const part of parts) {
      const { bench } = await import(`./${part}.mjs`);
      for await (const row of await bench(settingOf(values))) {
        console.log(formatRow(row));
        kept?.add(row);
      }
    }
    if (kept !== undefined) console.error(`written to ${kept.file}`);
  }
  return 0;
});

/** The options as a benchmark takes them: lists as arrays, and only those that were given. */
function settingOf({ "no-peers": noPeers, ...values }) {
  const setting = { ...values };
  for (const name of ["shapes", "parts", "peers"]) {
    if (values[name] !== undefined) setting[name] = values[name].split(",");
  }
  return noPeers ? { ...setting, peers: [] } : setting;
}
