// The transformer with fp8 linears (e4m3 weights per row, activations per token) and with 8-bit attention against diffusers in float32.

import { expect, it } from "vitest";
import { readFluxTransformerConfig } from "../../lib/loaders/config.js";
import { WeightSource } from "../../lib/loaders/weights.js";
import { FluxTransformer } from "../../lib/models/flux/transformer.js";
import type { Precision } from "../../lib/nn/scope.js";
import type { AttentionType } from "../../lib/runtime/heads.js";
import { bufferFrom, bufferOf, compute, cpuDevice } from "../support/device.js";
import { golden, goldenPath, relativeL2 } from "../support/golden.js";

const file = golden("cases/transformer_schnell_b.safetensors");

/** The velocity for the case's inputs, [B, Ti, C]. */
async function velocity(
  precision: Precision,
  threads: number,
  attention?: AttentionType,
): Promise<Float32Array> {
  const device = cpuDevice(threads);
  const folder = goldenPath("tiny-flux-schnell/transformer");
  using transformer = new FluxTransformer(
    device,
    await readFluxTransformerConfig(folder),
    precision,
    attention,
  );
  await transformer.load(await WeightSource.open(folder));
  const input = (name: string) => bufferFrom(device, file.tensor(`in.${name}`));
  const latents = input("hidden_states");
  const embeds = input("encoder_hidden_states");
  const pooled = input("pooled_projections");
  const [batch, textTokens] = embeds.shape as [number, number];
  const timesteps = bufferOf(device, "f32", [1, batch], file.f32("in.timestep"));
  const guidance = bufferOf(device, "f32", [batch], new Float32Array(batch));
  const positions = [...file.f32("in.txt_ids"), ...file.f32("in.img_ids")];
  const ids = bufferOf(device, "f32", [positions.length / 3, 3], Float32Array.from(positions));
  const step = bufferOf(device, "i32", [1], Int32Array.of(0));
  expect(positions).toHaveLength(3 * (textTokens + latents.shape[1]!));
  const { out } = await compute(device, (g) => {
    const table = transformer.modulate(g, { timesteps, guidance, pooled });
    const text = transformer.embedText(g, embeds);
    const modulation = g.takeRow(table, step);
    const rope = transformer.rope(g, ids);
    return { out: transformer.forward(g, { latents, text, modulation, rope }) };
  });
  return out;
}

/**
 * Measured: 2.99e-2. A value rounded to three bits of mantissa is off by up to 1/16, in the root mean square by 2e-2 to 3e-2;
 * with both factors of a product rounded, and the residual stream not, that is what a sum of many products has left.
 */
const FP8_TOLERANCE = 4e-2;
/** Far above what float32 leaves: below it, the linears are not in fp8. */
const FP8_LEAST = 1e-3;

it("is near diffusers' float32, as near as three bits of mantissa let it be, and no nearer", async () => {
  const exact = relativeL2(await velocity("f32", 2), file.f32("out"));
  const quantised = relativeL2(await velocity("fp8", 2), file.f32("out"));
  expect(exact).toBeLessThanOrEqual(1e-4);
  expect(quantised).toBeGreaterThan(FP8_LEAST);
  expect(quantised).toBeLessThanOrEqual(FP8_TOLERANCE);
});

it("gives the same bytes at 1 and at 3 threads", async () => {
  const [one, three] = [await velocity("fp8", 1), await velocity("fp8", 3)];
  expect(Buffer.from(one.buffer).equals(Buffer.from(three.buffer))).toBe(true);
});

it("with 8-bit attention is near it too, and int8 nearer than e4m3", async () => {
  const errorOf = async (attention: AttentionType) =>
    relativeL2(await velocity("f32", 2, attention), file.f32("out"));
  const [int8, fp8] = [await errorOf("int8"), await errorOf("fp8")];
  expect(int8).toBeGreaterThan(FP8_LEAST);
  expect(int8).toBeLessThan(fp8);
  // v in e4m3 is off by 2.6 % at the most, and attention is a part of what a block adds.
  expect(fp8).toBeLessThanOrEqual(2.6e-2);
});
