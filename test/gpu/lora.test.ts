// Adapters on the GPU, against diffusers and PEFT in float32. There are no slots yet: adapters act through the weights.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { readClipTextConfig, readFluxTransformerConfig } from "../../dist/loaders/config.js";
import { WeightSource } from "../../dist/loaders/weights.js";
import { Adapters } from "../../dist/lora/adapters.js";
import { sitesOf } from "../../dist/lora/sites.js";
import { CLIPTextEncoder } from "../../dist/models/clip-text-encoder.js";
import { FluxTransformer } from "../../dist/models/flux/transformer.js";
import type { Buffer } from "../../dist/runtime/buffer.js";
import type { Plan } from "../../dist/runtime/plan.js";
import { gpu, relativeL2 } from "./both.js";
import { Golden, goldenPath, needs } from "./golden.js";

const skip = needs("lora/A_kohya.safetensors", "cases/lora.safetensors", "tiny-flux/transformer");
const inputs: Buffer[] = [];
let file: Golden;
let transformer: FluxTransformer;
let adapters: Adapters;
let base: Float32Array;

before(async () => {
  if (skip !== false) return;
  file = await Golden.open("lora");
  const folder = goldenPath("tiny-flux/transformer");
  transformer = new FluxTransformer(gpu, await readFluxTransformerConfig(folder), "bf16");
  await transformer.load(await WeightSource.open(folder));
  const clip = new CLIPTextEncoder(gpu, await readClipTextConfig(goldenPath("tiny-flux/text_encoder")));
  adapters = new Adapters(gpu, sitesOf(transformer, clip), {
    forgetPlans: () => {},
    forgetEmbeddings: () => {},
    originals: () => WeightSource.open(folder),
    hasSlots: false,
  });
  base = await velocity();
});
after(() => {
  adapters?.dispose();
  transformer?.dispose();
  for (const buffer of inputs) buffer.dispose();
});

async function upload(name: string, shape?: readonly number[]): Promise<Buffer<"f32">> {
  const host = await file.f32(name);
  const buffer = gpu.buffer("f32", shape ?? host.shape);
  inputs.push(buffer);
  await buffer.write(host.data);
  return buffer;
}

/** The model's output with what is in the weights now. */
async function velocity(): Promise<Float32Array> {
  const latents = await upload("in.hidden_states");
  const embeds = await upload("in.encoder_hidden_states");
  const pooled = await upload("in.pooled_projections");
  const timesteps = await upload("in.timestep", [1, 1]);
  const guidance = await upload("in.guidance");
  const ids = gpu.buffer("f32", [80, 3]);
  const out = gpu.buffer("f32", [1, 64, 64]);
  inputs.push(ids, out);
  await ids.write((await file.f32("in.txt_ids")).data);
  await ids.write((await file.f32("in.img_ids")).data, 48);
  using plan: Plan = gpu.record("velocity", (g) => {
    const table = g.empty([1, 1, transformer.modulationColumns], "f32");
    transformer.modulate(g, { timesteps, guidance, pooled }, table);
    const text = transformer.embedText(g, embeds);
    const rope = transformer.rope(g, ids);
    g.copy(transformer.forward(g, { latents, text, modulation: table.pick(0, 0), rope }), out);
  });
  await plan.run();
  return out.read();
}

async function check(name: string): Promise<void> {
  const error = relativeL2(await velocity(), (await file.f32(`out.${name}`)).data);
  console.log(`${name}: relative L2 ${error.toExponential(2)}, allowed ${file.allowed(`out.${name}`)}`);
  assert.ok(error <= file.allowed(`out.${name}`), name);
}

async function unload(): Promise<void> {
  await adapters.delete(adapters.list().map(({ name }) => name));
  assert.deepEqual(await velocity(), base);
}

const A = "A/pytorch_lora_weights.safetensors";
const B = "B/pytorch_lora_weights.safetensors";
for (const [path, name] of [
  [A, "A_1.0"],
  [B, "B_1.0"],
  ["B_alpha_keys.safetensors", "B_alpha_keys_1.0"],
  ["C.safetensors", "C_1.0"],
  ["F.safetensors", "F"],
  ["A_kohya.safetensors", "A_kohya"],
  ["B_kohya.safetensors", "B_kohya"],
  ["D_kohya.safetensors", "D_kohya"],
  ["D_comfy.safetensors", "D_comfy"],
  ["A_onetrainer.safetensors", "A_onetrainer"],
] as const) {
  test(`${name} is within bf16_impl, and leaves nothing behind`, { skip }, async () => {
    await adapters.add(await adapters.pool.read(goldenPath(`lora/${path}`)), "it", false);
    await check(name);
    await unload();
  });
}

test("mixtures and weights are within bf16_impl", { skip }, async () => {
  for (const [name, path] of [
    ["A", A],
    ["B", B],
    ["C", "C.safetensors"],
  ] as const) {
    await adapters.add(await adapters.pool.read(goldenPath(`lora/${path}`)), name, false);
  }
  const { allocated } = gpu.memoryUsage();
  for (const [name, choices] of [
    ["A_0.5", [{ name: "A", weight: 0.5 }]],
    ["A_-0.8", [{ name: "A", weight: -0.8 }]],
    [
      "A0.7_B0.3",
      [
        { name: "A", weight: 0.7 },
        { name: "B", weight: 0.3 },
      ],
    ],
    [
      "A0.5_B0.4_C1.1",
      [
        { name: "A", weight: 0.5 },
        { name: "B", weight: 0.4 },
        { name: "C", weight: 1.1 },
      ],
    ],
    ["C_1.0", [{ name: "C" }]],
  ] as const) {
    await adapters.setActive(choices);
    await check(name);
  }
  await gpu.drain();
  console.log(`memory before and after: ${allocated}, ${gpu.memoryUsage().allocated}`);
  await unload();
});
