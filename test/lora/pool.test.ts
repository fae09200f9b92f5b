// Adapters in host memory: one file under two names, and bytes that nobody has a name for.

import { readFile } from "node:fs/promises";
import { afterAll, beforeAll, expect, it, onTestFinished } from "vitest";
import { FluxPipeline } from "../../lib/index.js";
import { Device } from "../../lib/runtime/device.js";
import { relativeL2 } from "../support/golden.js";
import { fileBytes, MODEL, randomTensor, shippedAdapter } from "./adapter-file.js";

let device: Device;
beforeAll(() => {
  device = Device.open("cpu", { threads: 2 });
});
afterAll(() => device.dispose());

async function open(loraPoolBytes?: number): Promise<FluxPipeline> {
  const pipe = await FluxPipeline.fromPretrained(MODEL, { device, loraPoolBytes });
  onTestFinished(() => pipe.dispose());
  return pipe;
}

async function latents(pipe: FluxPipeline): Promise<Float32Array> {
  const size = { height: 64, width: 64, numInferenceSteps: 2 };
  return (await pipe.generate({ prompt: "a red circle", seed: 3, outputType: "latents", ...size })).latents!
    .data;
}

async function hostBytes(): Promise<number> {
  await device.drain();
  return device.memoryUsage().host;
}

it("two names for one file that left memory act together: two halves are a whole", async () => {
  const [reference, pipe] = [await open(), await open(1)];
  await reference.loadLoraWeights(shippedAdapter("pixel"));
  const whole = await latents(reference);
  const before = await hostBytes();
  for (const adapterName of ["a", "b"]) await pipe.loadLoraWeights(shippedAdapter("pixel"), { adapterName });
  await pipe.setAdapters(["a", "b"], 0.5);
  expect(relativeL2(await latents(pipe), whole)).toBeLessThanOrEqual(1e-4);
  await pipe.fuseLora();
  expect(relativeL2(await latents(pipe), whole)).toBeLessThanOrEqual(1e-4);
  expect(await hostBytes()).toBe(before);
});

it("bytes that cannot be loaded are given back", async () => {
  const pipe = await open();
  await pipe.enableLoraHotswap({ targetRank: 16 });
  await pipe.loadLoraWeights(shippedAdapter("pixel"), { adapterName: "pixel" });
  const before = await hostBytes();
  const night = await readFile(shippedAdapter("night"));
  await expect(pipe.loadLoraWeights(night, { adapterName: "pixel" })).rejects.toThrow(/"pixel" is loaded/);
  expect(await hostBytes()).toBe(before);
  const wide = fileBytes({
    "transformer.proj_out.lora_A.weight": randomTensor([32, 256], 1),
    "transformer.proj_out.lora_B.weight": randomTensor([64, 32], 2),
  });
  await expect(pipe.loadLoraWeights(wide)).rejects.toThrow(/16 more than the slot's 16/);
  expect(await hostBytes()).toBe(before);
});
