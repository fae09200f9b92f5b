// The whole transformer in bf16 and fp8 on the GPU, against diffusers in float32.

import assert from "node:assert/strict";
import { test } from "node:test";
import { readFluxTransformerConfig } from "../../dist/loaders/config.js";
import { WeightSource } from "../../dist/loaders/weights.js";
import { FluxTransformer } from "../../dist/models/flux/transformer.js";
import type { Precision } from "../../dist/nn/scope.js";
import type { Device } from "../../dist/runtime/device.js";
import type { AttentionType } from "../../dist/runtime/heads.js";
import { cpu, gpu, relativeL2 } from "./both.js";
import { Golden, goldenPath, needs } from "./golden.js";

async function forward(
  device: Device,
  folder: string,
  name: string,
  precision: Precision,
  attention?: AttentionType,
): Promise<Float32Array> {
  const path = goldenPath(`${folder}/transformer`);
  const config = await readFluxTransformerConfig(path);
  using transformer = new FluxTransformer(device, config, precision, attention);
  await transformer.load(await WeightSource.open(path));
  const file = await Golden.open(name);
  const upload = async (tensor: string, shape?: readonly number[]) => {
    const host = await file.f32(tensor);
    const buffer = device.buffer("f32", shape ?? host.shape);
    await buffer.write(host.data);
    return buffer;
  };
  const latents = await upload("in.hidden_states");
  const embeds = await upload("in.encoder_hidden_states");
  const pooled = await upload("in.pooled_projections");
  const [batch, imageTokens] = latents.shape as [number, number];
  const timesteps = await upload("in.timestep", [1, batch]);
  const guidance = file.has("in.guidance") ? await upload("in.guidance") : device.buffer("f32", [batch]);
  const textIds = await file.f32("in.txt_ids");
  const imageIds = await file.f32("in.img_ids");
  const ids = device.buffer("f32", [embeds.shape[1]! + imageTokens, 3]);
  await ids.write(textIds.data);
  await ids.write(imageIds.data, textIds.data.length);
  const out = device.buffer("f32", [batch, imageTokens, transformer.config.outChannels]);
  using plan = device.record("forward", (g) => {
    const table = g.empty([1, batch, transformer.modulationColumns], "f32");
    transformer.modulate(g, { timesteps, guidance, pooled }, table);
    const text = transformer.embedText(g, embeds);
    const rope = transformer.rope(g, ids);
    const modulation = table.pick(0, 0);
    g.copy(transformer.forward(g, { latents, text, modulation, rope }), out);
  });
  await plan.run();
  const result = await out.read();
  for (const buffer of [latents, embeds, pooled, timesteps, guidance, ids, out]) buffer.dispose();
  return result;
}

for (const [folder, name] of [
  ["tiny-flux-schnell", "transformer_schnell_a"],
  ["tiny-flux-schnell", "transformer_schnell_b"],
  ["tiny-flux", "transformer_dev_a"],
  ["tiny-flux", "transformer_dev_b"],
  ["tiny-flux", "transformer_dev_c"],
  ["tiny-flux", "transformer_dev_d"],
  ["tiny-flux", "transformer_dev_kontext"],
] as const) {
  const skip = needs(`${folder}/transformer`, `cases/${name}.safetensors`);

  test(`${name} in bf16 is within bf16_impl`, { skip }, async () => {
    const file = await Golden.open(name);
    const expected = (await file.f32("out")).data;
    const error = relativeL2(await forward(gpu, folder, name, "bf16"), expected);
    console.log(`${name}: bf16 relative L2 ${error.toExponential(2)}, allowed ${file.allowed("out")}`);
    assert.ok(error <= file.allowed("out"));
  });

  test(`${name} in fp8 errs no more than fp8 emulated on the CPU`, { skip }, async () => {
    const file = await Golden.open(name);
    const expected = (await file.f32("out")).data;
    const emulated = relativeL2(await forward(cpu, folder, name, "fp8"), expected);
    const error = relativeL2(await forward(gpu, folder, name, "fp8"), expected);
    console.log(`${name}: fp8 relative L2 ${error.toExponential(2)}, emulated ${emulated.toExponential(2)}`);
    assert.ok(error <= 1.1 * emulated);
  });

  test(`${name} in fp8 with int8 attention errs little more than emulated on the CPU`, { skip }, async () => {
    const file = await Golden.open(name);
    const expected = (await file.f32("out")).data;
    const emulated = relativeL2(await forward(cpu, folder, name, "fp8", "int8"), expected);
    const error = relativeL2(await forward(gpu, folder, name, "fp8", "int8"), expected);
    console.log(`${name}: int8 relative L2 ${error.toExponential(2)}, emulated ${emulated.toExponential(2)}`);
    assert.ok(error <= 1.25 * emulated); // P in e4m3, which is not emulated, errs as much as v does
  });
}
