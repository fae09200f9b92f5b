import { readdir } from "node:fs/promises";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { FluxPipeline } from "../../lib/index.js";
import { openSafetensors } from "../../lib/loaders/safetensors.js";
import { synthesise } from "../../lib/pipelines/synthesise.js";
import { temporaryFolder } from "../support/fixture-folder.js";
import { goldenPath } from "../support/golden.js";

/** Configs without any weights or vocabulary. */
const CONFIGS = goldenPath("configs/tiny-flux");
const REQUEST = {
  prompt: "a red square",
  height: 64,
  width: 64,
  numInferenceSteps: 2,
  maxSequenceLength: 32,
  seed: 5,
  outputType: "latents",
} as const;

async function latentsOf(pipeline: FluxPipeline): Promise<Float32Array> {
  try {
    return (await pipeline.generate(REQUEST)).latents!.data;
  } finally {
    pipeline.dispose();
  }
}

const random = (seed: number, more = {}) =>
  FluxPipeline.fromConfig(CONFIGS, { weights: "random", seed, device: "cpu", threads: 2, ...more });

describe("FluxPipeline.fromConfig", () => {
  it("draws finite pictures with structure, the same for the same seed", async () => {
    const first = await latentsOf(await random(1));
    expect(first.every(Number.isFinite)).toBe(true);
    expect(new Set(first).size).toBeGreaterThan(first.length / 2);
    expect(await latentsOf(await random(1, { threads: 1 }))).toEqual(first);
    expect(await latentsOf(await random(2))).not.toEqual(first);
  });

  it("makes images, in fp8 too, and reports its progress", async () => {
    const components = new Set<string>();
    const onProgress = ({
      component,
      loadedBytes,
      totalBytes,
    }: {
      component: string;
      loadedBytes: number;
      totalBytes: number;
    }) => {
      expect(loadedBytes).toBeLessThanOrEqual(totalBytes);
      if (loadedBytes === totalBytes) components.add(component);
    };
    const pipeline = await random(1, { precision: "fp8", onProgress });
    try {
      const { images } = await pipeline.generate({ ...REQUEST, outputType: "image" });
      expect(images[0]!.data.length).toBe(64 * 64 * 3);
      expect(new Set(images[0]!.data).size).toBeGreaterThan(16);
    } finally {
      pipeline.dispose();
    }
    expect([...components]).toEqual(["text_encoder", "text_encoder_2", "vae", "transformer"]);
  });

  it("changes fields of a config", async () => {
    const config = { base: CONFIGS, transformer: { num_layers: 1, num_single_layers: 3 } };
    const pipeline = await FluxPipeline.fromConfig(config, { weights: "random", device: "cpu" });
    const blocks = pipeline
      .plan({ height: 64, width: 64 })
      .describe()
      .ops.filter(({ kind }) => kind === "attention");
    expect(blocks).toHaveLength(4);
    pipeline.dispose();
  });

  it.each(["text_encoder", "text_encoder_2"])(
    "refuses a tokenizer with more ids than %s has",
    async (encoder) => {
      const config = { base: CONFIGS, [encoder]: { vocab_size: 100 } };
      const options = { weights: "random", device: "cpu", tokenizers: goldenPath("tiny-flux") } as const;
      await expect(FluxPipeline.fromConfig(config, options)).rejects.toMatchObject({
        code: "ERR_FLUX_BAD_WEIGHTS",
        message: expect.stringMatching(
          new RegExp(`tokenizer of ${encoder} has ids up to \\d+, and its vocab_size is 100;`),
        ),
      });
    },
  );

  it.each([
    ["flux1-dve", {}, /"flux1-dev", "flux1-schnell"/],
    [{ base: "flux1-dev", transfomer: {} }, {}, /no "transfomer"/],
    [{ transformer: 3 }, {}, /config\.transformer/],
    ["flux1-dev", { weights: "none" }, /weights: "random"/],
    ["flux1-dev", { seed: -1 }, /seed/],
  ])("refuses the config %j with %j", async (config, options, message) => {
    await expect(
      FluxPipeline.fromConfig(config as never, { weights: "random", device: "cpu", ...options } as never),
    ).rejects.toMatchObject({ code: "ERR_FLUX_BAD_ARGUMENT", message: expect.stringMatching(message) });
  });
});

describe("synthesise", () => {
  it("writes a folder that loads as the model that fromConfig makes", async () => {
    const folder = join(await temporaryFolder(), "made-up");
    const bytes = await synthesise(CONFIGS, folder, { seed: 9 });
    const file = await openSafetensors(join(folder, "transformer/diffusion_pytorch_model.safetensors"));
    expect(new Set([...file.tensors.values()].map(({ dtype }) => dtype))).toEqual(new Set(["BF16"]));
    expect(bytes).toBeGreaterThan(file.fileBytes - file.dataOffset);
    const loaded = await latentsOf(await FluxPipeline.fromPretrained(folder, { device: "cpu", threads: 2 }));
    expect(loaded).toEqual(await latentsOf(await random(9)));
  });

  it("writes fp8 weights that load as those that fromConfig quantises", async () => {
    const folder = join(await temporaryFolder(), "made-up");
    await synthesise(CONFIGS, folder, { seed: 9, precision: "fp8" });
    const loaded = await latentsOf(await FluxPipeline.fromPretrained(folder, { device: "cpu", threads: 2 }));
    expect(loaded).toEqual(await latentsOf(await random(9, { precision: "fp8" })));
  });

  it("leaves nothing behind when it is aborted, and overwrites nothing", async () => {
    const parent = await temporaryFolder();
    const folder = join(parent, "made-up");
    const controller = new AbortController();
    const aborted = synthesise(CONFIGS, folder, {
      signal: controller.signal,
      onProgress: ({ component }) => component === "vae" && controller.abort(),
    });
    await expect(aborted).rejects.toMatchObject({ name: "AbortError" });
    expect(await readdir(parent)).toEqual([]);
    await expect(synthesise(CONFIGS, CONFIGS)).rejects.toMatchObject({
      code: "ERR_FLUX_BAD_ARGUMENT",
      message: expect.stringMatching(/there already/),
    });
  });
});
