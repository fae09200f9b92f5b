// First-block caching against diffusers.hooks.first_block_cache (golden/cases/fbcache.safetensors): which steps are computed,
// the differences, the latents.

import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { type CacheCount, FluxPipeline, type GenerateOptions } from "../../lib/index.js";
import { devFolder } from "../support/folders.js";
import { golden, hasGolden, maxAbsDifference, relativeL2 } from "../support/golden.js";

const PATH = "cases/fbcache.safetensors";
const present = hasGolden(PATH) && hasGolden("tiny-flux/transformer/config.json");
/** tiny-flux's double and single blocks. */
const BLOCKS = 4;

describe.skipIf(!present)("golden thresholds (reads ../shared/golden)", () => {
  let pipe: FluxPipeline;
  beforeAll(async () => {
    pipe = await FluxPipeline.fromPretrained(devFolder(), { device: "cpu" });
  });
  afterAll(() => pipe.dispose());

  const tensor = (name: string) => ({ data: golden(PATH).f32(name), shape: golden(PATH).shape(name) });
  const options = (): GenerateOptions => ({
    promptEmbeds: tensor("in.prompt_embeds"),
    pooledPromptEmbeds: tensor("in.pooled_prompt_embeds"),
    latents: tensor("in.latents"),
    height: 128,
    width: 128,
    numInferenceSteps: 28,
    guidanceScale: 3.5,
    outputType: "latents",
  });

  /** Decisions as they are, differences to 1e-3 relative. */
  const expectHistory = ({ steps, computedSteps, skippedSteps, ...blocks }: CacheCount, name: string) => {
    const compute = golden(PATH).raw(`${name}.compute`).data as Uint8Array;
    const differences = golden(PATH).raw(`${name}.diff`).data as Float64Array;
    expect(
      steps.map(({ computed }) => computed),
      name,
    ).toEqual(Array.from(compute, (flag) => flag === 1));
    steps.forEach(({ difference }, step) => {
      if (step === 0) expect(difference).toBeUndefined();
      else expect(Math.abs(difference! / differences[step]! - 1), `step ${step}`).toBeLessThanOrEqual(1e-3);
    });
    const computed = compute.reduce((sum, flag) => sum + flag, 0);
    expect({ computedSteps, skippedSteps }).toEqual({ computedSteps: computed, skippedSteps: 28 - computed });
    expect(blocks).toEqual({ computedBlocks: 28 + (BLOCKS - 1) * computed, totalBlocks: 28 * BLOCKS });
  };

  it("gives the latents without a cache when there is none", async () => {
    const { latents, cache } = await pipe.generate(options());
    expect(cache).toBeUndefined();
    expect(relativeL2(latents!.data, golden(PATH).f32("nocache.latents"))).toBeLessThanOrEqual(2e-4);
  });

  it.each([0, 0.07, 0.08, 0.12, 0.2, 10])("threshold %s", async (threshold) => {
    const name = `th_${threshold}`;
    const previews: Float32Array[] = [];
    const { latents, cache } = await pipe.generate({
      ...options(),
      cache: { type: "firstBlock", threshold },
      preview: true,
      onStep: (event) => previews.push(event.latents!.data),
    });
    expectHistory(cache!, name);
    expect(cache!.negative).toBeUndefined();
    expect(relativeL2(latents!.data, golden(PATH).f32(`${name}.latents`))).toBeLessThanOrEqual(2e-4);
    expect(maxAbsDifference(latents!.data, golden(PATH).f32(`${name}.latents`))).toBeLessThanOrEqual(1e-3);
    if (!golden(PATH).has(`${name}.latents_steps`)) return;
    const steps = golden(PATH).f32(`${name}.latents_steps`);
    previews.forEach((preview, step) => {
      const expected = steps.subarray(step * preview.length, (step + 1) * preview.length);
      expect(relativeL2(preview, expected), `step ${step}`).toBeLessThanOrEqual(2e-4);
    });
  });

  it("true classifier-free guidance keeps a cache for each branch", async () => {
    const { latents, cache } = await pipe.generate({
      ...options(),
      negativePromptEmbeds: tensor("truecfg.in.negative_prompt_embeds"),
      negativePooledPromptEmbeds: tensor("truecfg.in.negative_pooled_prompt_embeds"),
      trueCfgScale: 2.5,
      cache: { threshold: 0.12 },
    });
    const { negative, ...positive } = cache!;
    expectHistory(positive, "truecfg.cond");
    expectHistory(negative!, "truecfg.uncond");
    expect(relativeL2(latents!.data, golden(PATH).f32("truecfg.latents"))).toBeLessThanOrEqual(2e-4);
  });

  it("the same decisions for a batch of twice the same, and again for the next image", async () => {
    const once = options();
    const twice = (name: "promptEmbeds" | "pooledPromptEmbeds" | "latents") => {
      const { data, shape } = once[name]!;
      return { data: Float32Array.of(...data, ...data), shape: [2, ...shape.slice(1)] };
    };
    const batch = {
      ...once,
      promptEmbeds: twice("promptEmbeds"),
      pooledPromptEmbeds: twice("pooledPromptEmbeds"),
      latents: twice("latents"),
      cache: { threshold: 0.12 },
    };
    for (let image = 0; image < 2; image++) {
      const { latents, cache } = await pipe.generate(batch);
      expectHistory(cache!, "th_0.12");
      const expected = golden(PATH).f32("th_0.12.latents");
      const [first, second] = [0, 1].map((i) => latents!.data.subarray(i * 4096, (i + 1) * 4096));
      expect(relativeL2(first!, expected)).toBeLessThanOrEqual(2e-4);
      expect(relativeL2(second!, expected)).toBeLessThanOrEqual(2e-4);
    }
  });
});
