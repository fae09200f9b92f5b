// The first-block cache on the GPU: the decision op against the CPU's, its steps in a graph that no host looks into, and
// diffusers' decisions and latents.

import assert from "node:assert/strict";
import { test } from "node:test";
import { FluxPipeline } from "../../dist/index.js";
import type { Device } from "../../dist/runtime/device.js";
import { cpu, gpu, relativeL2, uniform } from "./both.js";
import { Golden, needs, pipelineFolder } from "./golden.js";

const STEPS = 40;

/** What the op says and keeps at every step when the differences are these. All steps are queued before any is waited for. */
async function decisionsOf(device: Device, differences: Float32Array, limits: readonly [number, number]) {
  const memory = {
    threshold: device.buffer("f32", [1]),
    limits: device.buffer("i32", [2]),
    state: device.buffer("i32", [4]),
    differences: device.buffer("f32", [STEPS]),
    decisions: device.buffer("i32", [STEPS]),
  };
  const counter = device.buffer("i32", [1]);
  const table = device.buffer("f32", [STEPS, 1]);
  const factor = device.buffer("f32", [1]);
  const computed = device.buffer("i32", [1]);
  const skipped = device.buffer("i32", [1]);
  using plan = device.record("decide", (g) => {
    const said = g.cacheDecision(g.takeRow(table, counter), memory);
    g.copy(said.factor, factor);
    g.if(said.compute, () => g.increment(computed));
    g.if(said.skip, () => g.increment(skipped));
    g.increment(counter);
  });
  const zero = Int32Array.of(0);
  const jobs: Promise<unknown>[] = [
    memory.threshold.write(Float32Array.of(0.5)),
    memory.limits.write(Int32Array.from(limits)),
    memory.state.write(new Int32Array(4)),
    table.write(differences),
    ...[counter, computed, skipped].map((buffer) => buffer.write(zero)),
  ];
  const read = [factor, memory.state, computed, skipped];
  const seen: Promise<ArrayLike<number>>[] = [];
  for (let step = 0; step < STEPS; step++) {
    jobs.push(plan.run());
    for (const buffer of read) seen.push(buffer.read());
  }
  for (const buffer of [memory.differences, memory.decisions]) seen.push(buffer.read());
  await Promise.all(jobs);
  const values = (await Promise.all(seen)).map((array) => Array.from(array));
  for (const buffer of [...Object.values(memory), counter, table, factor, computed, skipped]) {
    buffer.dispose();
  }
  return values;
}

test("decisions, factors and what is kept are the CPU's, step by step", async () => {
  const random = uniform(STEPS, 77).map(Math.abs);
  const odd = random.with(5, Number.NaN).with(9, 0.5).with(11, Number.POSITIVE_INFINITY);
  for (const limits of [
    [0, 2 ** 31 - 1],
    [7, 2 ** 31 - 1],
    [0, 1],
    [3, 0],
  ] as const) {
    for (const differences of [random, odd]) {
      const expected = await decisionsOf(cpu, differences, limits);
      assert.deepEqual(await decisionsOf(gpu, differences, limits), expected);
    }
  }
});

/** tiny-flux in bf16 and fp8, each loaded once. */
const loaded = new Map<string, Promise<FluxPipeline>>();
function pipeline(precision: "bf16" | "fp8"): Promise<FluxPipeline> {
  const known = loaded.get(precision);
  const loading = known ?? FluxPipeline.fromPretrained(pipelineFolder("dev"), { device: gpu, precision });
  loaded.set(precision, loading);
  return loading;
}

async function goldenOptions(file: Golden) {
  return {
    promptEmbeds: await file.f32("in.prompt_embeds"),
    pooledPromptEmbeds: await file.f32("in.pooled_prompt_embeds"),
    latents: await file.f32("in.latents"),
    height: 128,
    width: 128,
    numInferenceSteps: 28,
    guidanceScale: 3.5,
    outputType: "latents",
  } as const;
}

/** By how much differences in bf16 may be off: torch's own are off by 0.0516 at the most. */
const BF16_DIFFERENCE = 0.06;
const skip = needs("cases/fbcache.safetensors", "tiny-flux/transformer");

for (const threshold of [0, 0.07, 0.08, 0.12, 0.2, 10]) {
  test(`threshold ${threshold} decides as diffusers does, in bf16`, { skip }, async () => {
    const file = await Golden.open("fbcache");
    const pipe = await pipeline("bf16");
    const { latents, cache } = await pipe.generate({ ...(await goldenOptions(file)), cache: { threshold } });
    const compute = (await file.tensor(`th_${threshold}.compute`)).data as Uint8Array;
    const differences = (await file.tensor(`th_${threshold}.diff`)).data as Float64Array;
    const steps = cache!.steps;
    const flipped = steps.findIndex(({ computed }, step) => computed !== (compute[step] === 1));
    // After a flip the residuals are others: only what came before it can be compared.
    const compared = flipped < 0 ? steps.length : flipped + 1;
    for (let step = 1; step < compared; step++) {
      const error = Math.abs(steps[step]!.difference! / differences[step]! - 1);
      assert.ok(error <= BF16_DIFFERENCE, `step ${step}: the difference is off by ${error}`);
    }
    if (flipped >= 0) {
      const margin = Math.abs(differences[flipped]! / threshold - 1);
      console.log(`threshold ${threshold}: step ${flipped} is flipped, its margin is ${margin.toFixed(3)}`);
      assert.ok(margin <= BF16_DIFFERENCE, `step ${flipped} is flipped, though its margin is ${margin}`);
      const others = steps.filter(({ computed }, step) => computed !== (compute[step] === 1));
      assert.ok(others.length <= 1, `${others.length} steps are flipped`);
    }
    const error = relativeL2(latents!.data, (await file.f32(`th_${threshold}.latents`)).data);
    const allowed = file.allowed(`th_${threshold}.latents`);
    console.log(`threshold ${threshold}: latents ${error.toExponential(2)}, allowed ${allowed}`);
    assert.ok(error <= allowed);
  });
}

test("a cache that never hits changes no bit", { skip }, async () => {
  const options = await goldenOptions(await Golden.open("fbcache"));
  for (const precision of ["bf16", "fp8"] as const) {
    const pipe = await pipeline(precision);
    const plain = await pipe.generate(options);
    for (const taylorOrder of [0, 1] as const) {
      const { latents, cache } = await pipe.generate({ ...options, cache: { threshold: 0, taylorOrder } });
      assert.equal(cache!.skippedSteps, 0);
      assert.deepEqual(latents!.data, plain.latents!.data);
    }
  }
});

test("forced halves, final blocks, extrapolation and true guidance run, each time with the same bytes", {
  skip,
}, async () => {
  const file = await Golden.open("fbcache");
  const options = {
    ...(await goldenOptions(file)),
    negativePromptEmbeds: await file.f32("truecfg.in.negative_prompt_embeds"),
    negativePooledPromptEmbeds: await file.f32("truecfg.in.negative_pooled_prompt_embeds"),
    trueCfgScale: 2.5,
  };
  const half = { threshold: Infinity, maxConsecutiveHits: 1 };
  const alternating = Array.from({ length: 28 }, (_, step) => step % 2 === 0);
  for (const precision of ["bf16", "fp8"] as const) {
    const pipe = await pipeline(precision);
    for (const more of [{}, { finalBlocks: 1 }, { taylorOrder: 1 }, { probeBlocks: 2 }] as const) {
      const first = await pipe.generate({ ...options, cache: { ...half, ...more } });
      const again = await pipe.generate({ ...options, cache: { ...half, ...more } });
      for (const count of [first.cache!, first.cache!.negative!]) {
        assert.deepEqual(
          count.steps.map(({ computed }) => computed),
          alternating,
        );
      }
      assert.deepEqual(again.latents!.data, first.latents!.data);
      assert.deepEqual(again.cache, first.cache);
    }
  }
});

test("true guidance decides for each branch as diffusers does, in bf16", { skip }, async () => {
  const file = await Golden.open("fbcache");
  const pipe = await pipeline("bf16");
  const { latents, cache } = await pipe.generate({
    ...(await goldenOptions(file)),
    negativePromptEmbeds: await file.f32("truecfg.in.negative_prompt_embeds"),
    negativePooledPromptEmbeds: await file.f32("truecfg.in.negative_pooled_prompt_embeds"),
    trueCfgScale: 2.5,
    cache: { threshold: 0.12 },
  });
  for (const [name, { steps }] of [
    ["cond", cache!],
    ["uncond", cache!.negative!],
  ] as const) {
    const compute = (await file.tensor(`truecfg.${name}.compute`)).data as Uint8Array;
    const flipped = steps.filter(({ computed }, step) => computed !== (compute[step] === 1)).length;
    assert.ok(flipped <= 1, `${name}: ${flipped} steps are flipped`);
  }
  const error = relativeL2(latents!.data, (await file.f32("truecfg.latents")).data);
  assert.ok(error <= file.allowed("truecfg.latents"), `latents ${error}`);
});

test("a profiled step with a cache shows its conditions", { skip }, async () => {
  const pipe = await pipeline("bf16");
  const plan = await pipe.profile({ height: 128, width: 128, cache: {} });
  const ops = plan.describe().ops.filter(({ depth }) => depth === 0);
  assert.ok(ops.some(({ kind }) => kind === "cacheDecision"));
  for (const { kind, ms } of ops) assert.ok(ms! >= 0, kind);
});
