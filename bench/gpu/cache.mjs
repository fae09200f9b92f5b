// What first-block caching costs and saves on the GPU: FLUX.1-dev's transformer with made-up weights in fp8, 1024×1024, 28 steps.
// Decisions do not depend on the weights here: a cache that never hits (threshold 0) has to take as long as none, and one that
// is made to skip every second step as long as the steps that it computes and one block for each of the others.
//
// Every figure is the median of rounds in which all are measured in turn, so that a clock that drifts shows in none. One block is
// the difference between a step of one double block and a step of none.
import { timeRow } from "../results.mjs";

const DEV = {
  config: "flux1-dev",
  side: 1024,
  textTokens: 512,
  steps: 28,
  precision: "fp8",
  device: "cuda:0",
};
const ROUNDS = 3;
const NEVER = { threshold: 0, warmupSteps: 0, maxConsecutiveHits: Infinity };
const HALF = { threshold: Infinity, warmupSteps: 0, maxConsecutiveHits: 1 };
const FIRST_BLOCK = { probeBlocks: 1, finalBlocks: 0, taylorOrder: 0 };

/** @param {Partial<typeof DEV>} [changes] of what is measured */
export async function bench({ precision = DEV.precision, ...changes } = {}) {
  const setting = { ...DEV, ...changes, precision };
  const { side, steps } = setting;
  const { transformer, denoisers, extra } = await prepare(setting);
  const { plain, cached, oneBlock, noBlock } = denoisers;
  const runs = {
    plain: () => loop(plain, steps),
    revocable: () => loop(plain, steps, undefined, { revocable: true }),
    never: () => loop(cached, steps, NEVER),
    half: () => loop(cached, steps, HALF),
    oneBlock: () => loop(oneBlock, steps),
    noBlock: () => loop(noBlock, steps),
  };
  const times = Object.fromEntries(Object.keys(runs).map((name) => [name, []]));
  for (let round = 0; round <= ROUNDS; round++) {
    for (const [name, run] of Object.entries(runs)) {
      const ms = await run();
      if (round > 0) times[name].push(ms); // the first warms up
    }
  }
  const { plain: all, revocable, never, half, oneBlock: one, noBlock: none } = mapValues(times, median);
  const { computedSteps, skippedSteps } = await reportOf(cached, HALF, steps);
  const step = all / steps;
  const block = (one - none) / steps;
  const due = computedSteps * step + skippedSteps * block;
  const title = `${setting.config} ${setting.precision} ${side}×${side}`;
  const rows = [
    timeRow(`cache, ${title}, a step without one`, step),
    timeRow(`cache, ${title}, a double block`, block),
    beside(
      `cache, ${title}, ${steps} steps, each revocable, as generate() runs them for a call with a signal`,
      revocable,
      "given ahead",
      all,
    ),
    beside(`cache, ${title}, ${steps} steps, never hitting`, never, "no cache", all),
    beside(
      `cache, ${title}, ${steps} steps, ${skippedSteps} skipped`,
      half,
      `${computedSteps} steps and ${skippedSteps} blocks`,
      due,
    ),
    beside(
      `cache, ${title}, ${steps} steps, ${skippedSteps} skipped, beside all computed`,
      half,
      "no cache",
      all,
    ),
    megabytes(`cache, ${title}, memory it keeps`, extra.kept),
    megabytes(`cache, ${title}, memory in the arena`, extra.arena),
  ];
  for (const denoiser of Object.values(denoisers)) denoiser.dispose();
  transformer.dispose();
  transformer.device.dispose();
  return rows;
}

/** The transformer, and the loops that are measured, ready to run. */
async function prepare({ config, side, textTokens, steps, precision, device: name }) {
  const { Device } = await import("../../dist/runtime/device.js");
  const { resolveConfig } = await import("../../dist/loaders/pipeline-configs.js");
  const { RandomWeights } = await import("../../dist/loaders/random-weights.js");
  const { FluxTransformer } = await import("../../dist/models/flux/transformer.js");
  const { Denoiser } = await import("../../dist/pipelines/denoiser.js");
  const { attentionType } = await import("../../dist/pipelines/attention-type.js");
  const device = Device.open(name);
  const configs = await resolveConfig(config);
  const attention = attentionType(undefined, precision, device);
  const transformer = new FluxTransformer(device, configs.transformer, precision, attention);
  await transformer.load(new RandomWeights(transformer.tensors(), 0));
  const shape = { batch: 1, textTokens, rows: side / 16, columns: side / 16, steps, trueCfgScale: 1 };
  const plain = new Denoiser(transformer, shape);
  const before = device.memoryUsage().allocated;
  const cached = new Denoiser(transformer, { ...shape, cache: FIRST_BLOCK });
  const both = device.memoryUsage().allocated;
  // The same transformer with fewer blocks: a recording holds those that are there while it is made.
  const withBlocks = (count) => {
    const { doubleBlocks, singleBlocks } = transformer;
    const [doubles, singles] = [doubleBlocks.splice(count), singleBlocks.splice(0)];
    const denoiser = new Denoiser(transformer, shape);
    doubleBlocks.push(...doubles);
    singleBlocks.push(...singles);
    return denoiser;
  };
  const denoisers = { plain, cached, oneBlock: withBlocks(1), noBlock: withBlocks(0) };
  for (const denoiser of Object.values(denoisers)) await fill(denoiser);
  const arena = cached.step.arenaBytes - plain.step.arenaBytes;
  // Both loops have the same other Buffers, so what is left over is the cache's.
  const kept = both - before - buffersOf(plain);
  return { transformer, denoisers, extra: { kept, arena } };
}

/** Bytes of a loop's Buffers. */
function buffersOf(denoiser) {
  const { noise, latents, timesteps, sigmas, guidance, ids, counter, positive, transformer } = denoiser;
  const { promptEmbeds, pooled, text, table } = positive;
  const rope = (ids.shape[0] * transformer.config.attentionHeadDim * 4) | 0;
  const buffers = [
    noise,
    latents,
    timesteps,
    sigmas,
    guidance,
    ids,
    counter,
    promptEmbeds,
    pooled,
    text,
    table,
  ];
  return rope + buffers.reduce((sum, { bytes }) => sum + bytes, 0);
}

/** Everything that a loop reads, made up. */
async function fill(denoiser) {
  const { Generator } = await import("../../dist/runtime/generator.js");
  const { device } = denoiser.transformer;
  const { steps, rows, columns, textTokens } = denoiser.shape;
  const generator = new Generator(1);
  for (const buffer of [denoiser.noise, denoiser.positive.promptEmbeds, denoiser.positive.pooled]) {
    await buffer.write(await generator.normal(device, buffer.elements));
  }
  const sigmas = Float32Array.from({ length: steps + 1 }, (_, step) => 1 - step / steps);
  await denoiser.sigmas.write(sigmas);
  await denoiser.timesteps.write(sigmas.subarray(0, steps));
  await denoiser.guidance.write(Float32Array.of(3.5));
  const ids = new Float32Array(denoiser.ids.elements);
  for (let token = 0; token < rows * columns; token++) {
    ids.set([0, Math.floor(token / columns), token % columns], 3 * (textTokens + token));
  }
  await denoiser.ids.write(ids);
  await denoiser.prepare.run();
}

/** Milliseconds of all steps, queued at once: nothing on the host comes between them. */
async function loop(denoiser, steps, limits, how) {
  await Promise.all([
    denoiser.pack.run(),
    denoiser.counter.write(Int32Array.of(0)),
    denoiser.resetCache(limits),
  ]);
  const begin = performance.now();
  await Promise.all(Array.from({ length: steps }, () => denoiser.step.run(how)));
  return performance.now() - begin;
}

async function reportOf(denoiser, limits, steps) {
  await loop(denoiser, steps, limits);
  const report = await denoiser.cacheReport();
  if (report.skippedSteps !== Math.floor(steps / 2))
    throw new Error("the cache did not skip every second step");
  return report;
}

function mapValues(object, change) {
  return Object.fromEntries(Object.entries(object).map(([name, value]) => [name, change(value)]));
}

function median(values) {
  return values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)];
}

function beside(name, ms, peer, peerMs) {
  const round = (value) => Number(value.toPrecision(4));
  return { ...timeRow(name, ms), peer, peerValue: round(peerMs), ratio: round(peerMs / ms) };
}

function megabytes(name, bytes) {
  return { ...timeRow(name, 0), ms: null, value: Number((bytes / 1e6).toFixed(2)), unit: "MB" };
}
