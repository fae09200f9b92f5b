// What adapters cost on the GPU: steps of FLUX.1-dev with made-up weights in fp8, 1024×1024, without slots and with slots of several
// ranks beside every linear layer of the blocks; swaps of an adapter of rank 64 on all of them; and many random swaps in a row, whose images
// have to be those made right after a fresh load, byte for byte, while nothing grows.
//
//   npm run bench -- lora [--parts steps,swaps] [--precision bf16]
//   npm run bench -- lora --tiny                  the small model on the CPU: does this program work?
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { findModel } from "../../scripts/find-model.mjs";
import { writeAdapter } from "../adapter-file.mjs";
import { timeRow } from "../results.mjs";

/** Every linear layer of the blocks but their modulation, and the last layer, which is called as a single block's. */
const TARGETS = [
  ...["to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out"],
  ...["ff.net.0.proj", "ff.net.2", "ff_context.net.0.proj", "ff_context.net.2", "proj_mlp", "proj_out"],
];
const SIZE = {
  side: 1024,
  ranks: [16, 64, 128],
  /** Of the adapters that are swapped. */
  rank: 64,
  warmSteps: 8,
  timedSteps: 20,
  timedSwaps: 20,
  randomSwaps: 1000,
  swapsPerImage: 50,
};
const TINY = { ...SIZE, side: 64, ranks: [16], rank: 16, timedSteps: 4, randomSwaps: 20, swapsPerImage: 5 };

/**
 * @param {{ device?: string, config?: string, precision?: string, parts?: string[], tiny?: boolean }} [setting] `parts` are steps
 *   and swaps
 */
export async function* bench(setting = {}) {
  const { tiny = false, parts = ["steps", "swaps"] } = setting;
  const { device = tiny ? "cpu" : "cuda:0", precision = tiny ? "f32" : "fp8" } = setting;
  const { FluxPipeline } = await import("../../dist/index.js");
  const folder = mkdtempSync(join(tmpdir(), "fluxwarp-bench-"));
  const config = setting.config ?? (tiny ? findModel() : "flux1-dev");
  const pipe = tiny
    ? await FluxPipeline.fromPretrained(config, { device, precision })
    : await FluxPipeline.fromConfig(config, { weights: "random", device, precision });
  try {
    const layers = [...pipe.adapters.sites.transformer].filter(([name]) =>
      TARGETS.some((target) => name === target || name.endsWith(`.${target}`)),
    );
    const files = new Map();
    const file = (rank, seed) => {
      const path = join(folder, `${rank}-${seed}.safetensors`);
      if (!files.has(path)) files.set(path, writeAdapter(path, layers, rank, seed));
      return path;
    };
    const what = { ...(tiny ? TINY : SIZE), title: `${tiny ? "tiny" : config} ${precision}` };
    if (parts.includes("steps")) yield* steps(pipe, file, what);
    if (parts.includes("swaps")) yield* swaps(pipe, file, what);
  } finally {
    pipe.dispose();
    rmSync(folder, { recursive: true });
  }
}

async function* steps(pipe, file, what) {
  const { side, ranks } = what;
  const title = `${what.title} ${side}×${side}, a step`;
  const without = await stepMs(pipe, what);
  yield timeRow(`${title} without slots`, without);
  for (const rank of ranks) {
    await pipe.unloadLoraWeights();
    await pipe.enableLoraHotswap({ targetRank: rank, targets: TARGETS });
    await pipe.loadLoraWeights(file(rank, 1), { adapterName: "it" });
    const ms = await stepMs(pipe, what);
    yield beside(`${title} with rank ${rank} beside all linears of its blocks`, ms, "without slots", without);
  }
  await pipe.unloadLoraWeights();
}

/** Milliseconds of a step in the middle of a run: the GPU is warm, and the host has queued ahead. */
async function stepMs(pipe, { side, warmSteps, timedSteps }) {
  const times = [];
  await pipe.generate({
    prompt: "a harbour at dawn",
    width: side,
    height: side,
    numInferenceSteps: warmSteps + timedSteps,
    outputType: "latents",
    onStep: () => times.push(performance.now()),
  });
  return (times.at(-1) - times[warmSteps - 1]) / timedSteps;
}

async function* swaps(pipe, file, { title, rank, timedSwaps, randomSwaps, swapsPerImage }) {
  await pipe.enableLoraHotswap({ targetRank: rank, targets: TARGETS });
  const names = ["0", "1", "2"];
  const image = { prompt: "a harbour at dawn", width: 256, height: 256, numInferenceSteps: 2, seed: 1 };
  const draw = async () => Buffer.from((await pipe.generate(image)).images[0].data);
  const paths = names.map((name) => file(rank, 1 + Number(name)));
  const fromFile = [];
  const fresh = new Map();
  for (const [i, name] of names.entries()) {
    fromFile.push(await time(() => pipe.loadLoraWeights(paths[i], { adapterName: name })));
    fresh.set(name, await draw());
  }
  const bytes = pipe.adapters.pool.bytes / names.length;
  const about = `${title}, rank ${rank} on all linears of the blocks (${(bytes / 1e6).toFixed(0)} MB)`;
  yield timeRow(`${about}, swap from a file in the page cache`, median(fromFile));
  const fromPool = [];
  for (let i = 0; i < timedSwaps; i++)
    fromPool.push(await time(() => pipe.setAdapters(names[i % names.length])));
  yield timeRow(`${about}, swap from the pool`, median(fromPool));
  const weights = [];
  for (let i = 0; i < timedSwaps; i++) weights.push(await time(() => pipe.setAdapters("0", 1 + i / 64)));
  yield timeRow(`${about}, another weight`, median(weights));
  const before = pipe.device.memoryUsage();
  const captured = pipe.device.captures;
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
  const now = pipe.device.memoryUsage();
  const after = `${title}, ${randomSwaps} random swaps`;
  yield count(`${after}, of ${drawn} images those that differ from a fresh load's`, other, "images");
  yield count(`${after}, captures`, pipe.device.captures - captured, "graphs");
  yield count(`${after}, growth on the device`, now.allocated - before.allocated, "bytes");
  yield count(`${after}, growth of the pool`, now.host - before.host, "bytes");
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
