// What adapters cost on the CPU: a step with slots of several ranks beside one without, swaps, and the host's part of what a swap
// costs with FLUX.1-dev: reading an adapter of rank 64 over all 504 linear layers of the transformer from the page cache.
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { monitorEventLoopDelay } from "node:perf_hooks";
import { writeAdapter } from "../adapter-file.mjs";
import { timeRow } from "../results.mjs";
import { benchModel, SIDE, STEPS } from "./model.mjs";

const RANKS = [16, 64, 128];
const SWAPS = 40;
/** Of times that are taken in turn, so that other work on the machine meets all of them. */
const ROUNDS = 5;

const median = (times) => [...times].sort((a, b) => a - b)[Math.floor(times.length / 2)];

async function time(work) {
  const begin = performance.now();
  await work();
  return performance.now() - begin;
}

/** @param {{ model?: string }} options */
export async function bench(options) {
  const folder = mkdtempSync(join(tmpdir(), "fluxwarp-bench-"));
  try {
    return [...(await steps(options)), ...(await swaps(options, folder)), ...(await reading(folder))];
  } finally {
    rmSync(folder, { recursive: true });
  }
}

async function steps(options) {
  const { FluxPipeline } = await import("../../dist/index.js");
  const { folder, title } = benchModel(options);
  const request = { prompt: "a red circle", seed: 1, width: SIDE, height: SIDE, numInferenceSteps: STEPS };
  const pipes = new Map();
  for (const rank of [0, ...RANKS]) {
    const pipe = await FluxPipeline.fromPretrained(folder, { device: "cpu" });
    if (rank > 0) await pipe.enableLoraHotswap({ targetRank: rank });
    await pipe.generate(request);
    pipes.set(rank, { pipe, times: [] });
  }
  for (let round = 0; round < ROUNDS; round++) {
    for (const { pipe, times } of pipes.values()) {
      times.push((await time(() => pipe.generate({ ...request, outputType: "latents" }))) / STEPS);
    }
  }
  for (const { pipe } of pipes.values()) pipe.dispose();
  return [...pipes].map(([rank, { times }]) =>
    timeRow(
      `${title}, a step ${rank === 0 ? "without slots" : `with slots of rank ${rank} beside all layers`}`,
      median(times),
    ),
  );
}

async function swaps(options, folder) {
  const { FluxPipeline } = await import("../../dist/index.js");
  const model = benchModel(options);
  const pipe = await FluxPipeline.fromPretrained(model.folder, { device: "cpu" });
  await pipe.enableLoraHotswap({ targetRank: 64 });
  const linears = [...pipe.adapters.sites.transformer];
  const files = [0, 1].map((i) => writeAdapter(join(folder, `${i}.safetensors`), linears, 64));
  const fromFile = [];
  for (let i = 0; i < 2; i++) {
    fromFile.push(await time(() => pipe.loadLoraWeights(files[i], { adapterName: String(i) })));
  }
  const fromPool = [];
  for (let i = 0; i < SWAPS; i++) fromPool.push(await time(() => pipe.setAdapters(String(i % 2))));
  const weights = [];
  for (let i = 0; i < SWAPS; i++) weights.push(await time(() => pipe.setAdapters("1", i)));
  pipe.dispose();
  const about = `${model.name}, rank 64 on all layers`;
  return [
    timeRow(`${about}, swap from a file in the page cache`, median(fromFile)),
    timeRow(`${about}, swap from the pool`, median(fromPool)),
    timeRow(`${about}, another weight`, median(weights)),
  ];
}

async function reading(folder) {
  const { Device } = await import("../../dist/index.js");
  const { readClipTextConfig, readFluxTransformerConfig } = await import("../../dist/loaders/config.js");
  const { readAdapter } = await import("../../dist/lora/adapter.js");
  const { openLoraFile } = await import("../../dist/lora/file.js");
  const { sitesOf } = await import("../../dist/lora/sites.js");
  const { FluxTransformer } = await import("../../dist/models/flux/transformer.js");
  const { CLIPTextEncoder } = await import("../../dist/models/clip-text-encoder.js");
  const configs = new URL("../../test/golden/configs/FLUX.1-dev/", import.meta.url).pathname;
  const device = Device.open("cpu");
  // As on a GPU, whose slots are bf16: what is read is copied and checked, not widened.
  Object.defineProperty(device, "dtype", { value: "bf16" });
  const transformer = new FluxTransformer(device, await readFluxTransformerConfig(`${configs}transformer`));
  const clip = new CLIPTextEncoder(device, await readClipTextConfig(`${configs}text_encoder`));
  const sites = sitesOf(transformer, clip);
  const file = writeAdapter(join(folder, "dev.safetensors"), [...sites.transformer], 64);
  const times = [];
  const delays = monitorEventLoopDelay({ resolution: 1 });
  let bytes = 0;
  for (let i = 0; i < 3; i++) {
    delays.enable();
    times.push(
      await time(async () => {
        const adapter = await readAdapter(device, sites, await openLoraFile(file));
        bytes = adapter.bytes;
        adapter.memory.dispose();
      }),
    );
    delays.disable();
  }
  device.dispose();
  const about = `FLUX.1-dev, rank 64 on all layers (${(bytes / 1e6).toFixed(0)} MB)`;
  return [
    timeRow(`${about}, from the page cache into host memory`, median(times)),
    timeRow(`${about}, longest delay of the event loop meanwhile`, delays.max / 1e6),
  ];
}
