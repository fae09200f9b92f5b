// What adapters cost on the GPU: steps of FLUX.1-dev with made-up weights in fp8, 1024×1024, without slots and with slots of several
// ranks beside every linear layer of the blocks; swaps of an adapter of rank 64 on all of them; and many random swaps in a row, whose images
// have to be those made right after a fresh load, byte for byte, while nothing grows.
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { writeAdapter } from "../adapter-file.mjs";
import { timeRow } from "../results.mjs";

/** Every linear layer of the blocks but their modulation, and the last layer, which is called as a single block's. */
const TARGETS = [
  ...["to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out"],
  ...["ff.net.0.proj", "ff.net.2", "ff_context.net.0.proj", "ff_context.net.2", "proj_mlp", "proj_out"],
];
const DEFAULTS = {
  config: "flux1-dev",
  device: "cuda:0",
  side: 1024,
  ranks: [16, 64, 128],
  /** Of the adapters that are swapped. */
  rank: 64,
  timedSteps: 28,
  timedSwaps: 20,
  randomSwaps: 1000,
  swapsPerImage: 50,
};
const WARM_STEPS = 14;

/** @param {Partial<typeof DEFAULTS> & { precision?: string }} [changes] of what is measured */
export async function bench({ precision = "fp8", ...changes } = {}) {
  const setting = { ...DEFAULTS, ...changes, precision };
  const { FluxPipeline } = await import("../../dist/index.js");
  const folder = mkdtempSync(join(tmpdir(), "fluxwarp-bench-"));
  const pipe = await FluxPipeline.fromConfig(setting.config, {
    weights: "random",
    device: setting.device,
    precision,
  });
  try {
    const layers = [...pipe.adapters.sites.transformer].filter(([name]) =>
      TARGETS.some((target) => name === target || name.endsWith(`.${target}`)),
    );
    const file = (rank, seed) =>
      writeAdapter(join(folder, `${rank}-${seed}.safetensors`), layers, rank, seed);
    return [...(await steps(pipe, file, setting)), ...(await swaps(pipe, file, setting))];
  } finally {
    pipe.dispose();
    rmSync(folder, { recursive: true });
  }
}

async function steps(pipe, file, setting) {
  const { config, precision, side, ranks, timedSteps } = setting;
  const title = `${config} ${precision} ${side}×${side}, a step`;
  const without = await stepMs(pipe, side, timedSteps);
  const rows = [timeRow(`${title} without slots`, without)];
  for (const rank of ranks) {
    await pipe.deleteAdapters(pipe.listAdapters().map(({ name }) => name));
    await pipe.enableLoraHotswap({ targetRank: rank, targets: TARGETS });
    await pipe.loadLoraWeights(file(rank, 1), { adapterName: "it" });
    const ms = await stepMs(pipe, side, timedSteps);
    rows.push(
      beside(`${title} with rank ${rank} beside all linears of its blocks`, ms, "without slots", without),
    );
  }
  await pipe.deleteAdapters("it");
  return rows;
}

/** Milliseconds of a step in the middle of a run: the GPU is warm, and the host has queued ahead. */
async function stepMs(pipe, side, count) {
  const times = [];
  await pipe.generate({
    prompt: "a harbour at dawn",
    width: side,
    height: side,
    numInferenceSteps: WARM_STEPS + count,
    outputType: "latents",
    onStep: () => times.push(performance.now()),
  });
  return (times.at(-1) - times[WARM_STEPS - 1]) / count;
}

async function swaps(pipe, file, { config, rank, timedSwaps, randomSwaps, swapsPerImage }) {
  await pipe.enableLoraHotswap({ targetRank: rank, targets: TARGETS });
  const names = ["0", "1", "2"];
  const image = { prompt: "a harbour at dawn", width: 256, height: 256, numInferenceSteps: 2, seed: 1 };
  const draw = async () => Buffer.from((await pipe.generate(image)).images[0].data);
  const fromFile = [];
  const fresh = new Map();
  for (const name of names) {
    const path = file(rank, 1 + Number(name));
    fromFile.push(await time(() => pipe.loadLoraWeights(path, { adapterName: name })));
    fresh.set(name, await draw());
  }
  const fromPool = [];
  for (let i = 0; i < timedSwaps; i++)
    fromPool.push(await time(() => pipe.setAdapters(names[i % names.length])));
  const weights = [];
  for (let i = 0; i < timedSwaps; i++) weights.push(await time(() => pipe.setAdapters("0", 1 + i / 64)));
  const before = pipe.device.memoryUsage().allocated;
  let other = 0;
  let drawn = 0;
  let state = 7;
  for (let i = 1; i <= randomSwaps; i++) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    const name = names[(state >>> 16) % names.length];
    await pipe.setAdapters(name);
    if (i % swapsPerImage > 0) continue;
    drawn++;
    if (!(await draw()).equals(fresh.get(name))) other++;
  }
  const growth = pipe.device.memoryUsage().allocated - before;
  const bytes = pipe.adapters.pool.bytes / names.length;
  const about = `${config}, rank ${rank} on all linears of the blocks (${(bytes / 1e6).toFixed(0)} MB)`;
  return [
    timeRow(`${about}, swap from a file in the page cache`, median(fromFile)),
    timeRow(`${about}, swap from the pool`, median(fromPool)),
    timeRow(`${about}, another weight`, median(weights)),
    count(`${randomSwaps} random swaps, images of ${drawn} that differ from a fresh load's`, other, "images"),
    count(`${randomSwaps} random swaps, growth on the device`, growth, "bytes"),
  ];
}

function beside(name, ms, peer, peerMs) {
  const ratio = Number((peerMs / ms).toFixed(4));
  return { ...timeRow(name, ms), peer, peerValue: Number(peerMs.toPrecision(4)), ratio };
}

function count(name, value, unit) {
  return { ...timeRow(name, 0), ms: null, value, unit };
}

const median = (times) => [...times].sort((a, b) => a - b)[Math.floor(times.length / 2)];

async function time(work) {
  const begin = performance.now();
  await work();
  return performance.now() - begin;
}
