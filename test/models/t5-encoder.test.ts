import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { readT5Config, type T5Config } from "../../lib/loaders/config.js";
import type { TensorSource } from "../../lib/loaders/tensor-source.js";
import { WeightSource } from "../../lib/loaders/weights.js";
import { T5Encoder } from "../../lib/models/t5-encoder.js";
import type { Device } from "../../lib/runtime/device.js";
import { bufferOf, compute, cpuDevice } from "../support/device.js";
import { temporaryFolder, writeWeights } from "../support/fixture-folder.js";
import { golden, goldenPath, maxAbsDifference, relativeL2 } from "../support/golden.js";
import { randomValues } from "../support/random.js";
import { t5Oracle } from "./t5-oracle.js";

const FOLDER = goldenPath("tiny-flux/text_encoder_2");
const cases = golden("cases/text_encoders.safetensors");

async function tinyT5(device: Device, view = (source: TensorSource) => source): Promise<T5Encoder> {
  const model = new T5Encoder(device, await readT5Config(FOLDER));
  await model.load(view(await WeightSource.open(FOLDER)));
  return model;
}

async function lastHidden(device: Device, model: T5Encoder, name: string): Promise<Float32Array> {
  const ids = cases.raw(`${name}.ids`);
  const buffer = bufferOf(device, "i32", ids.shape, ids.data as Int32Array);
  const { hidden } = await compute(device, (g) => ({ hidden: model.forward(g, buffer) }));
  return hidden;
}

describe("T5Encoder", () => {
  it.each(["t5_128", "t5_512"])("gives transformers' output for %s", async (name) => {
    const device = cpuDevice();
    const hidden = await lastHidden(device, await tinyT5(device), name);
    expect(relativeL2(hidden, cases.f32(`${name}.last_hidden`))).toBeLessThan(1e-4);
  });

  it("gives the first block's output", async () => {
    const device = cpuDevice();
    const model = await tinyT5(device);
    const ids = cases.raw("t5_128.ids");
    const buffer = bufferOf(device, "i32", ids.shape, ids.data as Int32Array);
    const { block0 } = await compute(device, (g) => ({
      block0: model.blocks[0].forward(g, model.embed(g, buffer), model.positionBias(g, ids.shape[1])),
    }));
    expect(relativeL2(block0, cases.f32("t5_128.hidden1"))).toBeLessThan(1e-4);
  });

  it("gives the relative position bias exactly", async () => {
    const device = cpuDevice();
    const model = await tinyT5(device);
    const { bias } = await compute(device, (g) => ({ bias: model.positionBias(g, 64) }));
    expect(maxAbsDifference(bias, cases.f32("t5.position_bias"))).toBe(0);
  });

  it("takes a checkpoint that names the embedding encoder.embed_tokens.weight", async () => {
    const device = cpuDevice();
    const model = await tinyT5(device, (source) => ({
      location: source.location,
      find: (name) => {
        if (name === "shared.weight") return undefined;
        return source.find(name === "encoder.embed_tokens.weight" ? "shared.weight" : name);
      },
    }));
    const hidden = await lastHidden(device, model, "t5_128");
    expect(relativeL2(hidden, cases.f32("t5_128.last_hidden"))).toBeLessThan(1e-4);
  });

  it("names shared.weight when neither name is there", async () => {
    const device = cpuDevice();
    const withoutTable = tinyT5(device, (source) => ({
      location: source.location,
      find: (name) => (/shared|embed_tokens/.test(name) ? undefined : source.find(name)),
    }));
    await expect(withoutTable).rejects.toMatchObject({
      code: "ERR_FLUX_BAD_WEIGHTS",
      message: expect.stringContaining("shared.weight"),
    });
  });

  it("lets the heads together be narrower than the model", async () => {
    const weights = randomT5Weights(NARROW_HEADS);
    const ids = [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8, 9, 7, 9, 3, 2, 3, 8, 4, 6, 2, 6, 4];
    const path = join(await temporaryFolder(), "model.safetensors");
    await writeWeights(path, weights);
    const device = cpuDevice();
    const model = new T5Encoder(device, NARROW_HEADS);
    await model.load(await WeightSource.open(path));
    const buffer = bufferOf(device, "i32", [1, ids.length], Int32Array.from(ids));
    const { hidden } = await compute(device, (g) => ({ hidden: model.forward(g, buffer) }));
    expect(relativeL2(hidden, t5Oracle(NARROW_HEADS, weights, ids))).toBeLessThan(1e-5);
  });
});

const NARROW_HEADS: T5Config = {
  vocabSize: 10,
  dModel: 40,
  dKv: 8,
  dFf: 56,
  numLayers: 2,
  numHeads: 3,
  relativeAttentionNumBuckets: 8,
  relativeAttentionMaxDistance: 12,
  layerNormEpsilon: 1e-6,
};

function randomT5Weights(config: T5Config): Record<string, { shape: number[]; data: Float32Array }> {
  const { vocabSize, dModel, dFf, numHeads } = config;
  const inner = numHeads * config.dKv;
  const shapes: Record<string, number[]> = {
    "shared.weight": [vocabSize, dModel],
    "encoder.final_layer_norm.weight": [dModel],
    "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight": [
      config.relativeAttentionNumBuckets,
      numHeads,
    ],
  };
  for (let index = 0; index < config.numLayers; index++) {
    const layer = `encoder.block.${index}.layer`;
    for (const name of ["q", "k", "v"]) shapes[`${layer}.0.SelfAttention.${name}.weight`] = [inner, dModel];
    shapes[`${layer}.0.SelfAttention.o.weight`] = [dModel, inner];
    shapes[`${layer}.0.layer_norm.weight`] = [dModel];
    shapes[`${layer}.1.DenseReluDense.wi_0.weight`] = [dFf, dModel];
    shapes[`${layer}.1.DenseReluDense.wi_1.weight`] = [dFf, dModel];
    shapes[`${layer}.1.DenseReluDense.wo.weight`] = [dModel, dFf];
    shapes[`${layer}.1.layer_norm.weight`] = [dModel];
  }
  return Object.fromEntries(
    Object.entries(shapes).map(([name, shape], seed) => {
      const count = shape.reduce((a, b) => a * b);
      return [name, { shape, data: randomValues(count, seed + 1, shape.length === 1 ? 1 : 0.4) }];
    }),
  );
}
