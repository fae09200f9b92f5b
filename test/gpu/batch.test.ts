// Concurrent calls that are drawn as one batch on the GPU. The oracle is a batch of two that diffusers drew in float32: its rows come as two
// calls, and each gets its own.

import assert from "node:assert/strict";
import { after, type TestContext, test } from "node:test";
import { FluxPipeline, type GenerateOptions } from "../../dist/index.js";
import { Plan } from "../../dist/runtime/plan.js";
import { gpu, relativeL2 } from "./both.js";
import { Golden, needs, pipelineFolder } from "./golden.js";

const CASE = "e2e_dev_8";
const skip = needs(`cases/${CASE}.safetensors`, "tiny-flux/transformer");

let shared: Promise<FluxPipeline> | undefined;
const pipeline = () => {
  shared ??= FluxPipeline.fromPretrained(pipelineFolder("dev"), { device: gpu, batchConcurrent: 4 });
  return shared;
};
after(async () => (await shared)?.dispose());

type Rows = { shape: readonly number[]; data: Float32Array };
const rowOf = ({ shape, data }: Rows, row: number): Rows => {
  const length = data.length / shape[0]!;
  return { shape: shape.with(0, 1), data: data.slice(row * length, (row + 1) * length) };
};

/** The case's rows as calls, and what each is to give. */
async function rowsOfCase() {
  const file = await Golden.open(CASE);
  const { height, width, steps, guidance_scale: guidanceScale } = file.params;
  const last = `latents.${steps! - 1}`;
  const [latents, promptEmbeds, pooledPromptEmbeds, expected] = await Promise.all(
    ["in.latents", "in.prompt_embeds", "in.pooled_prompt_embeds", last].map((name) => file.f32(name)),
  );
  const call = (row: number): GenerateOptions => ({
    ...{ height: height!, width: width!, numInferenceSteps: steps!, guidanceScale: guidanceScale! },
    latents: rowOf(latents!, row),
    promptEmbeds: rowOf(promptEmbeds!, row),
    pooledPromptEmbeds: rowOf(pooledPromptEmbeds!, row),
    outputType: "latents",
  });
  assert.equal(expected!.shape[0], 2);
  return { steps: steps!, calls: [call(0), call(1)], expected: expected!, allowed: file.allowed(last) };
}

function countSteps(context: TestContext) {
  const counted = { steps: 0 };
  const { run } = Plan.prototype;
  context.mock.method(Plan.prototype, "run", function (this: Plan, how?: { revocable?: boolean }) {
    if (this.name === "step") counted.steps++;
    return run.call(this, how);
  });
  return counted;
}

test("calls that agree are one batch, and each gets what diffusers draws for its row", {
  skip,
}, async (context) => {
  const { steps, calls, expected, allowed } = await rowsOfCase();
  const pipe = await pipeline();
  const counted = countSteps(context);
  const results = await Promise.all(calls.map((call) => pipe.generate(call)));
  assert.equal(counted.steps, steps, "one batch");
  for (const [row, { latents }] of results.entries()) {
    const error = relativeL2(latents!.data, rowOf(expected, row).data);
    console.log(`row ${row} of ${CASE}: ${error.toExponential(2)}, allowed ${allowed}`);
    assert.ok(error <= allowed, `row ${row}`);
  }
});

test("a call in a batch gets what it gets alone, within bf16_impl", { skip }, async (context) => {
  const { calls, steps, allowed } = await rowsOfCase();
  const pipe = await pipeline();
  const { latents: _, ...first } = calls[0]!;
  const { latents: __, ...second } = calls[1]!;
  const drawn: GenerateOptions[] = [
    { ...first, seed: 11 },
    { ...second, seed: 12, guidanceScale: 7 },
    { ...first, seed: 13, numImagesPerPrompt: 2 },
  ];
  const alone: Float32Array[] = [];
  for (const call of drawn) alone.push((await pipe.generate(call)).latents!.data);
  const counted = countSteps(context);
  const together = await Promise.all(drawn.map((call) => pipe.generate(call)));
  assert.equal(counted.steps, steps, "one batch");
  for (const [index, { latents, seed }] of together.entries()) {
    assert.equal(seed, drawn[index]!.seed);
    assert.equal(latents!.data.length, alone[index]!.length);
    assert.ok(relativeL2(latents!.data, alone[index]!) <= allowed, `call ${index}`);
    const other = alone[(index + 1) % 2]!; // a mix-up of rows would show
    assert.ok(relativeL2(latents!.data.subarray(0, other.length), other) > 10 * allowed);
  }
});

test("calls settle in the order of arrival, and none passes one that does not agree", {
  skip,
}, async (context) => {
  const { calls, steps } = await rowsOfCase();
  const pipe = await pipeline();
  const order: number[] = [];
  const counted = countSteps(context);
  const other: GenerateOptions = { ...calls[0]!, numInferenceSteps: 2 };
  const arriving = [calls[0]!, calls[1]!, other, calls[0]!];
  await Promise.all(arriving.map((call, index) => pipe.generate(call).then(() => order.push(index))));
  assert.deepEqual(order, [0, 1, 2, 3]);
  assert.equal(counted.steps, steps + 2 + steps);
});

test("a call that is aborted leaves its batch, and the other one gets its image", {
  skip,
}, async (context) => {
  const { calls, steps, expected, allowed } = await rowsOfCase();
  const pipe = await pipeline();
  const stop = new AbortController();
  const counted = countSteps(context);
  const [first, second] = await Promise.allSettled([
    pipe.generate({ ...calls[0]!, onStep: ({ step }) => step === 2 && stop.abort(new Error("enough")) }),
    pipe.generate({ ...calls[1]!, signal: stop.signal }),
  ]);
  assert.equal(counted.steps, steps, "one batch, to its end");
  assert.equal(second!.status, "rejected");
  assert.ok(first!.status === "fulfilled");
  assert.ok(relativeL2(first.value.latents!.data, rowOf(expected, 0).data) <= allowed);
});
