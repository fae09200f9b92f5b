// Slots that take the place of others, and those that do not come to it.

import { afterAll, beforeAll, expect, it, onTestFinished } from "vitest";
import { FluxPipeline } from "../../lib/index.js";
import { Device } from "../../lib/runtime/device.js";
import { MODEL, shippedAdapter } from "./adapter-file.js";

let device: Device;
beforeAll(() => {
  device = Device.open("cpu", { threads: 2 });
});
afterAll(() => device.dispose());

async function open(): Promise<FluxPipeline> {
  const pipe = await FluxPipeline.fromPretrained(MODEL, { device });
  onTestFinished(() => pipe.dispose());
  return pipe;
}

async function latents(pipe: FluxPipeline, width: number): Promise<Float32Array> {
  const size = { height: 64, width, numInferenceSteps: 2 };
  return (await pipe.generate({ prompt: "a red circle", seed: 3, outputType: "latents", ...size })).latents!
    .data;
}

it("a refused enableLoraHotswap leaves adapters in effect, in sizes that were not drawn before, too", async () => {
  const [plain, reference, pipe] = [await open(), await open(), await open()];
  await reference.loadLoraWeights(shippedAdapter("outline"));
  await pipe.enableLoraHotswap({ targetRank: 16 });
  await pipe.loadLoraWeights(shippedAdapter("outline"));
  expect(await latents(pipe, 64)).toEqual(await latents(reference, 64));
  await expect(pipe.enableLoraHotswap({ targets: ["proj_out"] })).rejects.toThrow(/leave out/);
  expect(await latents(pipe, 64)).toEqual(await latents(reference, 64));
  const expected = await latents(reference, 96);
  expect(expected).not.toEqual(await latents(plain, 96));
  expect(await latents(pipe, 96)).toEqual(expected);
});
