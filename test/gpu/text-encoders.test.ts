// CLIP and T5 on the GPU in bf16, against transformers in float32.

import assert from "node:assert/strict";
import { test } from "node:test";
import { readClipTextConfig, readT5Config } from "../../dist/loaders/config.js";
import { WeightSource } from "../../dist/loaders/weights.js";
import { CLIPTextEncoder, pooledTokenIndices } from "../../dist/models/clip-text-encoder.js";
import { T5Encoder } from "../../dist/models/t5-encoder.js";
import type { Recorder } from "../../dist/runtime/recorder.js";
import type { Value } from "../../dist/runtime/value.js";
import { gpu, relativeL2 } from "./both.js";
import { Golden, goldenPath } from "./golden.js";

const cases = await Golden.open("text_encoders");

async function ids(name: string) {
  const { shape, data } = await cases.tensor(`${name}.ids`);
  const buffer = gpu.buffer("i32", shape);
  await buffer.write(data as Int32Array);
  return { buffer, data: data as Int32Array, shape };
}

/** What a recording gives, compared with a golden tensor. */
async function within(name: string, record: (g: Recorder) => Value): Promise<void> {
  const expected = await cases.f32(name);
  const out = gpu.buffer("f32", expected.shape);
  using plan = gpu.record(name, (g) => g.copy(record(g), out));
  await plan.run();
  const error = relativeL2(await out.read(), expected.data);
  console.log(`${name}: bf16 relative L2 ${error.toExponential(2)}, allowed ${cases.allowed(name)}`);
  assert.ok(error <= cases.allowed(name));
  out.dispose();
}

test("CLIP gives hidden states and pooled output", async () => {
  const folder = goldenPath("tiny-flux/text_encoder");
  using model = new CLIPTextEncoder(gpu, await readClipTextConfig(folder));
  await model.load(await WeightSource.open(folder));
  const { buffer, data, shape } = await ids("clip");
  const index = gpu.buffer("i32", [shape[0]!]);
  await index.write(pooledTokenIndices(data, shape[1]!, 2));
  await within("clip.last_hidden", (g) => model.forward(g, buffer, index).hidden);
  await within("clip.pooled", (g) => model.forward(g, buffer, index).pooled);
});

for (const name of ["t5_128", "t5_512"]) {
  test(`T5 gives ${name}`, async () => {
    const folder = goldenPath("tiny-flux/text_encoder_2");
    using model = new T5Encoder(gpu, await readT5Config(folder), "bf16");
    await model.load(await WeightSource.open(folder));
    const { buffer } = await ids(name);
    await within(`${name}.last_hidden`, (g) => model.forward(g, buffer));
  });
}
