// Weights with adapters in them come into the model together with what is measured of them, or not at all.

import { afterAll, beforeAll, beforeEach, expect, it, vi } from "vitest";
import { readClipTextConfig, readFluxTransformerConfig } from "../../lib/loaders/config.js";
import { WeightSource } from "../../lib/loaders/weights.js";
import { Adapters } from "../../lib/lora/adapters.js";
import { sitesOf } from "../../lib/lora/sites.js";
import { CLIPTextEncoder } from "../../lib/models/clip-text-encoder.js";
import { FluxTransformer } from "../../lib/models/flux/transformer.js";
import type { Linear } from "../../lib/nn/linear.js";
import { Device } from "../../lib/runtime/device.js";
import { MODEL, shippedAdapter } from "./adapter-file.js";

let device: Device;
let transformer: FluxTransformer;
let adapters: Adapters;
/** A layer that the adapter changes; measuring it is stood in for, as the CPU has nothing to measure. */
let last: Linear;
const forgetPlans = vi.fn();

beforeAll(async () => {
  device = Device.open("cpu", { threads: 1 });
  transformer = new FluxTransformer(device, await readFluxTransformerConfig(`${MODEL}/transformer`));
});
afterAll(() => device.dispose());
beforeEach(async () => {
  vi.restoreAllMocks();
  forgetPlans.mockReset();
  await transformer.load(await WeightSource.open(`${MODEL}/transformer`));
  const clip = new CLIPTextEncoder(device, await readClipTextConfig(`${MODEL}/text_encoder`));
  adapters = new Adapters(device, sitesOf(transformer, clip), {
    forgetPlans,
    forgetEmbeddings: () => {},
    originals: () => WeightSource.open(`${MODEL}/transformer`),
  });
  last = transformer.linears.findLast(({ names }) => names[0] === "proj_out")!;
  return () => {
    adapters.dispose();
    transformer.dispose();
  };
});

/** Loads the adapter; what fuses it comes next. */
async function load(): Promise<void> {
  await adapters.add(await adapters.pool.read(shippedAdapter("pixel")), "pixel", false);
  forgetPlans.mockReset();
}
const fuse = () => adapters.fuse(undefined, 1);

async function allocated(): Promise<number> {
  await device.drain();
  return device.memoryUsage().allocated;
}

it("changes nothing when measuring fails", async () => {
  await load();
  const before = transformer.linears.map(({ weight }) => weight);
  const bytes = await allocated();
  vi.spyOn(last, "measureBounds").mockRejectedValue(new Error("no memory"));
  await expect(fuse()).rejects.toThrow("no memory");
  expect(transformer.linears.filter(({ weight }, i) => weight !== before[i])).toEqual([]);
  expect(adapters.list()).toMatchObject([{ active: true, fused: false }]);
  expect(forgetPlans).not.toHaveBeenCalled();
  expect(await allocated()).toBe(bytes);
});

it("measures the new weight while the old one and its bounds are still there", async () => {
  await load();
  const [weight, old, bounds] = [last.weight, device.buffer("f32", [2]), device.buffer("f32", [2])];
  last.bounds = old;
  vi.spyOn(last, "measureBounds").mockImplementation(async (_, parameter) => {
    expect(parameter!.buffer).not.toBe(weight);
    expect(last.weight).toBe(weight);
    expect(last.bounds).toBe(old);
    expect(forgetPlans).not.toHaveBeenCalled();
    return bounds;
  });
  await fuse();
  expect(last.weight).not.toBe(weight);
  expect(last.bounds).toBe(bounds);
  expect(forgetPlans).toHaveBeenCalled();
});

it("gives the bounds back when the pipeline is disposed meanwhile", async () => {
  const bytes = await allocated();
  await load();
  vi.spyOn(last, "measureBounds").mockImplementation(async () => {
    const bounds = device.buffer("f32", [2]);
    adapters.dispose();
    return bounds;
  });
  await expect(fuse()).rejects.toMatchObject({ code: "ERR_FLUX_DISPOSED" });
  expect(last.bounds).toBeUndefined();
  expect(await allocated()).toBe(bytes);
});
