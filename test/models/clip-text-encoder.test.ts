import { describe, expect, it } from "vitest";
import { readClipTextConfig } from "../../lib/loaders/config.js";
import { WeightSource } from "../../lib/loaders/weights.js";
import { CLIPTextEncoder, pooledTokenIndices } from "../../lib/models/clip-text-encoder.js";
import type { Device } from "../../lib/runtime/device.js";
import { bufferOf, compute, cpuDevice } from "../support/device.js";
import { golden, goldenPath, relativeL2 } from "../support/golden.js";

const FOLDER = goldenPath("tiny-flux/text_encoder");
const cases = golden("cases/text_encoders.safetensors");
const ids = cases.raw("clip.ids").data as Int32Array;
const [prompts, tokens] = cases.shape("clip.ids");

async function tinyClip(device: Device): Promise<CLIPTextEncoder> {
  const model = new CLIPTextEncoder(device, await readClipTextConfig(FOLDER));
  await model.load(await WeightSource.open(FOLDER));
  return model;
}

describe("CLIPTextEncoder", () => {
  it("gives transformers' hidden states and pooled output for eight prompts", async () => {
    const device = cpuDevice();
    const model = await tinyClip(device);
    const idsBuffer = bufferOf(device, "i32", [prompts, tokens], ids);
    const pooledIndex = bufferOf(device, "i32", [prompts], pooledTokenIndices(ids, tokens, 2));
    const { hidden, pooled } = await compute(device, (g) => model.forward(g, idsBuffer, pooledIndex));
    expect(relativeL2(hidden, cases.f32("clip.last_hidden"))).toBeLessThan(1e-4);
    expect(relativeL2(pooled, cases.f32("clip.pooled"))).toBeLessThan(1e-4);
  });

  it("gives the embeddings and the first layer's output", async () => {
    const device = cpuDevice();
    const model = await tinyClip(device);
    const idsBuffer = bufferOf(device, "i32", [prompts, tokens], ids);
    const { embedded, layer0 } = await compute(device, (g) => {
      const x = model.embed(g, idsBuffer);
      return { embedded: x, layer0: model.layers[0].forward(g, x) };
    });
    expect(relativeL2(embedded, cases.f32("clip.hidden0"))).toBeLessThan(1e-4);
    expect(relativeL2(layer0, cases.f32("clip.hidden1"))).toBeLessThan(1e-4);
  });

  it("takes a checkpoint whose names lack text_model.", async () => {
    const device = cpuDevice();
    const model = new CLIPTextEncoder(device, await readClipTextConfig(FOLDER));
    const source = await WeightSource.open(FOLDER);
    await model.load({
      location: source.location,
      find: (name) => (name.startsWith("text_model.") ? undefined : source.find(`text_model.${name}`)),
    });
    const idsBuffer = bufferOf(device, "i32", [prompts, tokens], ids);
    const index = bufferOf(device, "i32", [prompts], pooledTokenIndices(ids, tokens, 2));
    const { pooled } = await compute(device, (g) => ({ pooled: model.forward(g, idsBuffer, index).pooled }));
    expect(relativeL2(pooled, cases.f32("clip.pooled"))).toBeLessThan(1e-4);
  });

  it("keeps the causal order: later tokens do not move earlier hidden states", async () => {
    const device = cpuDevice();
    const model = await tinyClip(device);
    const changed = ids.slice(0, 2 * tokens);
    changed.copyWithin(tokens, 0, tokens);
    changed.fill(7, tokens + 40);
    const idsBuffer = bufferOf(device, "i32", [2, tokens], changed);
    const index = bufferOf(device, "i32", [2], Int32Array.of(0, 0));
    const { hidden } = await compute(device, (g) => ({ hidden: model.forward(g, idsBuffer, index).hidden }));
    const width = hidden.length / 2 / tokens;
    const [first, second] = [hidden.subarray(0, tokens * width), hidden.subarray(tokens * width)];
    expect(second.subarray(0, 40 * width)).toEqual(first.subarray(0, 40 * width));
    expect(second.subarray(40 * width)).not.toEqual(first.subarray(40 * width));
  });
});

describe("pooledTokenIndices", () => {
  it("takes the first largest id under the eos_token_id 2 of old configs", () => {
    const rows = Int32Array.of(8, 3, 9, 9, 9, /**/ 8, 9, 1, 9, 1, /**/ 9, 2, 2, 2, 2);
    expect([...pooledTokenIndices(rows, 5, 2)]).toEqual([2, 1, 0]);
  });

  it("takes the first end-of-text token otherwise, whatever larger ids come before", () => {
    const rows = Int32Array.of(8, 99, 9, 9, 9, /**/ 8, 3, 4, 5, 9);
    expect([...pooledTokenIndices(rows, 5, 9)]).toEqual([2, 4]);
  });

  it("takes row 0 where there is none", () => {
    expect([...pooledTokenIndices(Int32Array.of(5, 6, 7), 3, 9)]).toEqual([0]);
  });
});
