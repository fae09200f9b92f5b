// Adapters on the GPU, against diffusers and PEFT in float32: in slots, and fused into the weights.

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

/** The golden model with its adapters. */
class Bench {
  #plan: Plan | undefined;
  #out: Buffer<"f32"> | undefined;
  /** Recordings so far. */
  recorded = 0;
  readonly adapters: Adapters;

  private constructor(
    readonly transformer: FluxTransformer,
    clip: CLIPTextEncoder,
    originals: () => Promise<WeightSource>,
  ) {
    this.adapters = new Adapters(gpu, sitesOf(transformer, clip), {
      forgetPlans: () => this.#forget(),
      forgetEmbeddings: () => {},
      originals,
    });
  }

  static async open(precision: "bf16" | "fp8"): Promise<Bench> {
    const folder = goldenPath("tiny-flux/transformer");
    const transformer = new FluxTransformer(gpu, await readFluxTransformerConfig(folder), precision);
    await transformer.load(await WeightSource.open(folder));
    const clip = new CLIPTextEncoder(gpu, await readClipTextConfig(goldenPath("tiny-flux/text_encoder")));
    return new Bench(transformer, clip, () => WeightSource.open(folder));
  }

  async load(path: string, name: string): Promise<void> {
    await this.adapters.add(await this.adapters.pool.read(goldenPath(`lora/${path}`)), name, false);
  }

  async unload(): Promise<void> {
    await this.adapters.unfuse();
    await this.adapters.delete(this.adapters.list().map(({ name }) => name));
  }

  /** The model's output with what is in effect now. */
  async velocity(): Promise<Float32Array> {
    this.#plan ??= await this.#record();
    await this.#plan.run();
    return this.#out!.read();
  }

  dispose(): void {
    this.#forget();
    this.adapters.dispose();
    this.transformer.dispose();
  }

  #forget(): void {
    this.#plan?.dispose();
    this.#plan = undefined;
  }

  async #record(): Promise<Plan> {
    this.recorded++;
    const { transformer } = this;
    const latents = await upload("in.hidden_states");
    const embeds = await upload("in.encoder_hidden_states");
    const pooled = await upload("in.pooled_projections");
    const timesteps = await upload("in.timestep", [1, 1]);
    const guidance = await upload("in.guidance");
    const ids = gpu.buffer("f32", [80, 3]);
    const out = gpu.buffer("f32", [1, 64, 64]);
    inputs.push(ids, out);
    this.#out = out;
    await ids.write((await file.f32("in.txt_ids")).data);
    await ids.write((await file.f32("in.img_ids")).data, 48);
    return gpu.record("velocity", (g) => {
      const table = g.empty([1, 1, transformer.modulationColumns], "f32");
      transformer.modulate(g, { timesteps, guidance, pooled }, table);
      const text = transformer.embedText(g, embeds);
      const rope = transformer.rope(g, ids);
      g.copy(transformer.forward(g, { latents, text, modulation: table.pick(0, 0), rope }), out);
    });
  }
}

let bench: Bench;
let adapters: Adapters;
let base: Float32Array;

before(async () => {
  if (skip !== false) return;
  file = await Golden.open("lora");
  bench = await Bench.open("bf16");
  adapters = bench.adapters;
  base = await bench.velocity();
});
after(() => {
  bench?.dispose();
  for (const buffer of inputs) buffer.dispose();
});

async function upload(name: string, shape?: readonly number[]): Promise<Buffer<"f32">> {
  const host = await file.f32(name);
  const buffer = gpu.buffer("f32", shape ?? host.shape);
  inputs.push(buffer);
  await buffer.write(host.data);
  return buffer;
}

async function check(name: string): Promise<void> {
  const error = relativeL2(await bench.velocity(), (await file.f32(`out.${name}`)).data);
  console.log(`${name}: relative L2 ${error.toExponential(2)}, allowed ${file.allowed(`out.${name}`)}`);
  assert.ok(error <= file.allowed(`out.${name}`), name);
}

async function unload(): Promise<void> {
  await bench.unload();
  assert.deepEqual(await bench.velocity(), base);
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
    await bench.load(path, "it");
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
    await bench.load(path, name);
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

test("fused into the weights, beside others in slots, adapters are within bf16_impl", { skip }, async () => {
  await bench.load(A, "A");
  await adapters.fuse(undefined, 0.7);
  await bench.load(B, "B");
  await adapters.setActive([{ name: "B", weight: 0.3 }]);
  await check("A0.7_B0.3");
  await unload();
});

test("slots of fixed size: swaps write memory alone, and leave nothing behind", { skip }, async () => {
  const other = await Bench.open("bf16");
  try {
    await other.adapters.enableHotswap({ targetRank: 32 });
    const empty = await other.velocity();
    assert.ok(relativeL2(empty, base) < 5e-3); // sums in another order
    for (const [name, path] of [
      ["A", A],
      ["B", B],
      ["C", "C.safetensors"],
    ] as const) {
      await other.load(path, name);
    }
    await other.adapters.setActive([{ name: "A" }]);
    const fresh = await other.velocity();
    await gpu.drain();
    const { allocated } = gpu.memoryUsage();
    for (let i = 0; i < 100; i++) {
      await other.adapters.setActive([{ name: "B", weight: i / 100 }, { name: "C" }]);
      await other.adapters.setActive([{ name: "A" }]);
      if (i % 25 === 0) assert.deepEqual(await other.velocity(), fresh);
    }
    await gpu.drain();
    assert.equal(gpu.memoryUsage().allocated, allocated);
    await other.unload();
    assert.deepEqual(await other.velocity(), empty);
    assert.equal(other.recorded, 1);
  } finally {
    other.dispose();
  }
});

test("beside fp8 weights adapters err about as the weights do, in slots and fused", { skip }, async () => {
  const quantised = await Bench.open("fp8");
  try {
    const distance = async (name: string) =>
      relativeL2(await quantised.velocity(), (await file.f32(`out.${name}`)).data);
    const without = await distance("base");
    await quantised.load(B, "B");
    const slots = await distance("B_1.0");
    await quantised.adapters.fuse(undefined, 1);
    const fused = await distance("B_1.0");
    console.log(`fp8: relative L2 without ${without}, in slots ${slots}, fused ${fused}`);
    assert.ok(slots <= 1.5 * without && fused <= 1.5 * without);
    // Slots are divided by the scales of the weights that they are beside, which change with what is fused.
    await quantised.adapters.unfuse();
    await quantised.load(A, "A");
    await quantised.adapters.setActive([{ name: "B" }]);
    assert.ok(Math.abs((await distance("B_1.0")) / slots - 1) < 0.05);
    await quantised.adapters.fuse(["A"], 0.7);
    await quantised.adapters.setActive([{ name: "B", weight: 0.3 }]);
    assert.ok((await distance("A0.7_B0.3")) <= 1.5 * without);
    await quantised.unload();
    assert.equal(await distance("base"), without);
  } finally {
    quantised.dispose();
  }
});
