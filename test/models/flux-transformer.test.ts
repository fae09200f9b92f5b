import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { readFluxTransformerConfig } from "../../lib/loaders/config.js";
import { WeightSource } from "../../lib/loaders/weights.js";
import { FluxTransformer } from "../../lib/models/flux/transformer.js";
import type { Buffer } from "../../lib/runtime/buffer.js";
import { Device } from "../../lib/runtime/device.js";
import { type GoldenFile, golden, goldenPath, hasGolden, relativeL2 } from "../support/golden.js";

const TOLERANCE = 1e-4;

let device: Device;
beforeAll(() => {
  device = Device.open("cpu");
});
afterAll(() => device.dispose());

async function load(folder: string): Promise<FluxTransformer> {
  const path = goldenPath(`${folder}/transformer`);
  const transformer = new FluxTransformer(device, await readFluxTransformerConfig(path));
  await transformer.load(await WeightSource.open(path));
  return transformer;
}

function upload(file: GoldenFile, name: string, shape = file.shape(name)): Buffer<"f32"> {
  const buffer = device.buffer("f32", shape);
  buffer.write(file.f32(name));
  return buffer;
}

/** The model's output for a golden case's inputs, and the joint stream [B, T, D] after each block. */
async function forward(transformer: FluxTransformer, file: GoldenFile) {
  const latents = upload(file, "in.hidden_states");
  const embeds = upload(file, "in.encoder_hidden_states");
  const pooled = upload(file, "in.pooled_projections");
  const batch = latents.shape[0]!;
  const timesteps = upload(file, "in.timestep", [1, batch]);
  const guidance = file.has("in.guidance") ? upload(file, "in.guidance") : device.buffer("f32", [batch]);
  const textTokens = embeds.shape[1]!;
  const tokens = textTokens + latents.shape[1]!;
  const ids = device.buffer("f32", [tokens, 3]);
  ids.write(file.f32("in.txt_ids"));
  ids.write(file.f32("in.img_ids"), textTokens * 3);
  const step = device.buffer("i32", [1]);
  step.write(Int32Array.of(0));
  const out = device.buffer("f32", [batch, latents.shape[1]!, transformer.config.outChannels]);
  const streams = new Map<string, Buffer<"f32">>();
  const watch = (name: string, block: { forward: (typeof transformer.singleBlocks)[0]["forward"] }) => {
    const original = block.forward.bind(block);
    const stream = device.buffer("f32", [batch, tokens, transformer.width]);
    streams.set(name, stream);
    block.forward = (g, hidden, context) => {
      original(g, hidden, context);
      g.copy(hidden, stream);
    };
  };
  transformer.doubleBlocks.forEach((block, index) => {
    watch(`double.${index}`, block);
  });
  transformer.singleBlocks.forEach((block, index) => {
    watch(`single.${index}`, block);
  });
  using plan = device.record("forward", (g) => {
    const table = g.empty([1, batch, transformer.modulationColumns]);
    transformer.modulate(g, { timesteps, guidance, pooled }, table);
    const text = transformer.embedText(g, embeds);
    const rope = transformer.rope(g, ids);
    const modulation = g.takeRow(table, step);
    g.copy(transformer.forward(g, { latents, text, modulation, rope }), out);
  });
  await plan.run();
  const blocks = new Map<string, { text: Float32Array; image: Float32Array }>();
  for (const [name, stream] of streams) {
    const data = await stream.read();
    blocks.set(name, {
      text: rows(data, batch, tokens, 0, textTokens),
      image: rows(data, batch, tokens, textTokens, tokens),
    });
  }
  const result = await out.read();
  for (const buffer of [latents, embeds, pooled, timesteps, guidance, ids, step, out, ...streams.values()]) {
    buffer.dispose();
  }
  return { out: result, blocks };
}

/** Tokens `begin` to `end` of every batch entry of [B, tokens, D]. */
function rows(data: Float32Array, batch: number, tokens: number, begin: number, end: number): Float32Array {
  const width = data.length / batch / tokens;
  const parts = Array.from({ length: batch }, (_, b) =>
    data.subarray((b * tokens + begin) * width, (b * tokens + end) * width),
  );
  return Float32Array.from(parts.flatMap((part) => [...part]));
}

describe.each([
  ["tiny-flux-schnell", ["transformer_schnell_a", "transformer_schnell_b"]],
  [
    "tiny-flux",
    [
      "transformer_dev_a",
      "transformer_dev_b",
      "transformer_dev_c",
      "transformer_dev_d",
      "transformer_dev_kontext",
    ],
  ],
])("the transformer of %s", (folder, cases) => {
  describe.each(cases)("%s", (name) => {
    const path = `cases/${name}.safetensors`;
    const present = hasGolden(`${folder}/transformer/config.json`) && hasGolden(path);

    it.skipIf(!present)(
      "agrees with diffusers to 1e-4, block by block (reads ../shared/golden)",
      async () => {
        const file = golden(path);
        using transformer = await load(folder);
        const { out, blocks } = await forward(transformer, file);
        for (const [block, { text, image }] of blocks) {
          if (!file.has(`mid.${block}.0`)) continue;
          expect(relativeL2(text, file.f32(`mid.${block}.0`)), `${block}, text`).toBeLessThanOrEqual(
            TOLERANCE,
          );
          expect(relativeL2(image, file.f32(`mid.${block}.1`)), `${block}, image`).toBeLessThanOrEqual(
            TOLERANCE,
          );
        }
        expect(relativeL2(out, file.f32("out"))).toBeLessThanOrEqual(TOLERANCE);
      },
    );
  });
});

it("refuses a head width that its kernels do not have", () => {
  const config = { attentionHeadDim: 64 } as FluxTransformer["config"];
  expect(() => new FluxTransformer(device, config)).toThrow(/attention_head_dim is 64/);
});
