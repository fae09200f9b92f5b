import { mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import {
  parseAutoencoderKLConfig,
  parseClipTextConfig,
  parseFluxTransformerConfig,
  parseModelIndex,
  parseSchedulerConfig,
  parseT5Config,
  readAutoencoderKLConfig,
  readClipTextConfig,
  readFluxTransformerConfig,
  readModelIndex,
  readSchedulerConfig,
  readT5Config,
} from "../../lib/loaders/config.js";
import { temporaryFolder } from "../support/fixture-folder.js";
import { goldenJson, goldenPath } from "../support/golden.js";

const DEV = "configs/FLUX.1-dev";
const SCHNELL = "configs/FLUX.1-schnell";

const failure = (code: string, ...parts: string[]) =>
  expect.objectContaining({
    code,
    message: expect.stringMatching(
      new RegExp(parts.map((part) => part.replace(/[.[\]]/g, "\\$&")).join(".*"), "s"),
    ),
  });
const bad = (...parts: string[]) => failure("ERR_FLUX_BAD_WEIGHTS", ...parts);
const unsupported = (...parts: string[]) => failure("ERR_FLUX_UNSUPPORTED", ...parts);

describe("configs of the published models", () => {
  it.each([DEV, SCHNELL, "configs/tiny-flux", "configs/tiny-flux-schnell"])(
    "reads model_index.json of %s",
    async (model) => {
      const index = await readModelIndex(goldenPath(model));
      expect(index).toEqual({
        pipelineClass: "FluxPipeline",
        components: {
          scheduler: "FlowMatchEulerDiscreteScheduler",
          text_encoder: "CLIPTextModel",
          text_encoder_2: "T5EncoderModel",
          tokenizer: "CLIPTokenizer",
          tokenizer_2: "T5TokenizerFast",
          transformer: "FluxTransformer2DModel",
          vae: "AutoencoderKL",
        },
      });
    },
  );

  it.each([
    [DEV, true],
    [SCHNELL, false],
  ])("reads the 12-billion-parameter transformer of %s", async (model, guidanceEmbeds) => {
    expect(await readFluxTransformerConfig(goldenPath(`${model}/transformer`))).toEqual({
      patchSize: 1,
      inChannels: 64,
      outChannels: 64,
      numLayers: 19,
      numSingleLayers: 38,
      attentionHeadDim: 128,
      numAttentionHeads: 24,
      jointAttentionDim: 4096,
      pooledProjectionDim: 768,
      guidanceEmbeds,
      axesDimsRope: [16, 56, 56],
    });
  });

  it("reads the schedulers: dynamic shifting in dev, none in schnell", async () => {
    const shared = {
      numTrainTimesteps: 1000,
      baseShift: 0.5,
      maxShift: 1.15,
      baseImageSeqLen: 256,
      maxImageSeqLen: 4096,
      timeShiftType: "exponential",
    };
    expect(await readSchedulerConfig(goldenPath(`${DEV}/scheduler`))).toEqual({
      ...shared,
      shift: 3,
      useDynamicShifting: true,
    });
    expect(await readSchedulerConfig(goldenPath(`${SCHNELL}/scheduler`))).toEqual({
      ...shared,
      shift: 1,
      useDynamicShifting: false,
    });
  });

  it.each([DEV, SCHNELL])("reads CLIP-L, T5-XXL and the VAE of %s", async (model) => {
    expect(await readClipTextConfig(goldenPath(`${model}/text_encoder`))).toEqual({
      vocabSize: 49408,
      hiddenSize: 768,
      intermediateSize: 3072,
      numHiddenLayers: 12,
      numAttentionHeads: 12,
      maxPositionEmbeddings: 77,
      hiddenAct: "quick_gelu",
      layerNormEps: 1e-5,
      eosTokenId: 2,
    });
    expect(await readT5Config(goldenPath(`${model}/text_encoder_2`))).toEqual({
      vocabSize: 32128,
      dModel: 4096,
      dKv: 64,
      dFf: 10240,
      numLayers: 24,
      numHeads: 64,
      relativeAttentionNumBuckets: 32,
      relativeAttentionMaxDistance: 128,
      layerNormEpsilon: 1e-6,
    });
    expect(await readAutoencoderKLConfig(goldenPath(`${model}/vae`))).toEqual({
      inChannels: 3,
      outChannels: 3,
      blockOutChannels: [128, 256, 512, 512],
      layersPerBlock: 2,
      latentChannels: 16,
      normNumGroups: 32,
      scalingFactor: 0.3611,
      shiftFactor: 0.1159,
      midBlockAddAttention: true,
      sampleSize: 1024,
      useQuantConv: false,
      usePostQuantConv: false,
    });
  });

  it("reads the tiny models, whose configs spell out what the published ones leave to defaults", async () => {
    expect(await readFluxTransformerConfig(goldenPath("configs/tiny-flux/transformer"))).toMatchObject({
      numLayers: 2,
      numSingleLayers: 2,
      numAttentionHeads: 2,
      outChannels: 64,
      guidanceEmbeds: true,
    });
    expect(
      await readFluxTransformerConfig(goldenPath("configs/tiny-flux-schnell/transformer")),
    ).toMatchObject({
      numLayers: 1,
      guidanceEmbeds: false,
    });
    expect(await readT5Config(goldenPath("configs/tiny-flux/text_encoder_2"))).toMatchObject({
      dModel: 64,
      dKv: 16,
    });
    expect(await readClipTextConfig(goldenPath("configs/tiny-flux/text_encoder"))).toMatchObject({
      vocabSize: 2014,
    });
    expect(await readAutoencoderKLConfig(goldenPath("configs/tiny-flux/vae"))).toMatchObject({
      normNumGroups: 8,
    });
  });
});

describe("defaults", () => {
  it("are diffusers' and transformers' for fields that a config leaves out", () => {
    expect(parseFluxTransformerConfig({}, "f")).toMatchObject({ numLayers: 19, guidanceEmbeds: false });
    expect(parseAutoencoderKLConfig({ down_block_types: ["DownEncoderBlock2D"] }, "f")).toMatchObject({
      blockOutChannels: [64],
      latentChannels: 4,
      scalingFactor: 0.18215,
      shiftFactor: 0,
      useQuantConv: true,
    });
    expect(parseSchedulerConfig({}, "f")).toMatchObject({ shift: 1, useDynamicShifting: false });
    expect(parseClipTextConfig({}, "f")).toMatchObject({ hiddenSize: 512, numAttentionHeads: 8 });
    expect(parseT5Config({ feed_forward_proj: "gated-gelu" }, "f")).toMatchObject({
      dModel: 512,
      numLayers: 6,
    });
  });
});

describe("files", () => {
  it("are named when missing or not JSON", async () => {
    const folder = await temporaryFolder();
    await expect(readModelIndex(folder)).rejects.toEqual(bad(join(folder, "model_index.json"), "not there"));
    await mkdir(join(folder, "vae"));
    await writeFile(join(folder, "vae/config.json"), '{"act_fn": ');
    await expect(readAutoencoderKLConfig(join(folder, "vae"))).rejects.toEqual(
      bad("config.json", "not valid JSON"),
    );
    await writeFile(join(folder, "vae/config.json"), "[]");
    await expect(readAutoencoderKLConfig(join(folder, "vae"))).rejects.toEqual(
      bad("The content must be an object"),
    );
  });
});

describe("model_index.json", () => {
  const index = (changes: object) => ({ ...goldenJson<object>(`${DEV}/model_index.json`), ...changes });

  it("names an unknown pipeline class and the supported ones", () => {
    expect(() =>
      parseModelIndex(index({ _class_name: "StableDiffusionPipeline" }), "model_index.json"),
    ).toThrow(unsupported("StableDiffusionPipeline", "FluxPipeline"));
  });

  it("names an unknown component class and the supported one", () => {
    expect(() =>
      parseModelIndex(index({ transformer: ["diffusers", "SD3Transformer2DModel"] }), "f"),
    ).toThrow(unsupported('"transformer"', "SD3Transformer2DModel", "FluxTransformer2DModel"));
  });

  it("refuses a component that it does not know, unless it is null", () => {
    expect(() => parseModelIndex(index({ controlnet: ["diffusers", "FluxControlNetModel"] }), "f")).toThrow(
      unsupported("controlnet", "FluxControlNetModel"),
    );
    expect(parseModelIndex(index({ image_encoder: [null, null] }), "f").pipelineClass).toBe("FluxPipeline");
  });

  it.each(["FluxKontextPipeline", "FluxFillPipeline", "FluxControlPipeline", "FluxInpaintPipeline"])(
    "takes %s, as the published variants name themselves",
    (name) => expect(parseModelIndex(index({ _class_name: name }), "f").pipelineClass).toBe(name),
  );

  it("names a component that is missing or malformed", () => {
    expect(() => parseModelIndex(index({ vae: undefined }), "f")).toThrow(bad('"vae"', "missing"));
    expect(() => parseModelIndex(index({ vae: "AutoencoderKL" }), "f")).toThrow(
      bad('"vae"', "AutoencoderKL"),
    );
    expect(() => parseModelIndex({}, "f")).toThrow(bad('"_class_name" must be a string'));
  });
});

describe("wrong values name the field", () => {
  it.each<[string, (json: unknown, file: string) => unknown, object, ReturnType<typeof bad>]>([
    [
      "text for a number",
      parseFluxTransformerConfig,
      { num_layers: "19" },
      bad('"num_layers"', "whole number", '"19"'),
    ],
    ["zero layers", parseFluxTransformerConfig, { num_layers: 0 }, bad('"num_layers"', "at least 1")],
    [
      "a billion layers",
      parseFluxTransformerConfig,
      { num_layers: 1e9 },
      bad('"num_layers"', "at most 1000"),
    ],
    ["a fraction", parseFluxTransformerConfig, { num_single_layers: 1.5 }, bad('"num_single_layers"')],
    ["null", parseFluxTransformerConfig, { num_attention_heads: null }, bad('"num_attention_heads"', "null")],
    [
      "text for true",
      parseFluxTransformerConfig,
      { guidance_embeds: "yes" },
      bad('"guidance_embeds"', "true or false"),
    ],
    ["two axes", parseFluxTransformerConfig, { axes_dims_rope: [64, 64] }, bad("axes_dims_rope")],
    [
      "axes that sum to another",
      parseFluxTransformerConfig,
      { axes_dims_rope: [16, 56, 58] },
      bad("axes_dims_rope"),
    ],
    [
      "another head size",
      parseFluxTransformerConfig,
      { attention_head_dim: 64 },
      unsupported("attention_head_dim", "128"),
    ],
    ["patches", parseFluxTransformerConfig, { patch_size: 2 }, unsupported("patch_size")],
    [
      "another class",
      parseFluxTransformerConfig,
      { _class_name: "UNet" },
      unsupported("UNet", "FluxTransformer2DModel"),
    ],
    ["another activation", parseAutoencoderKLConfig, { act_fn: "relu" }, unsupported("act_fn", "silu")],
    [
      "unknown blocks",
      parseAutoencoderKLConfig,
      { up_block_types: ["AttnUp"] },
      unsupported("AttnUp", "UpDecoderBlock2D"),
    ],
    [
      "too few blocks",
      parseAutoencoderKLConfig,
      { block_out_channels: [64, 64] },
      bad("down_block_types", "(2)"),
    ],
    [
      "uneven groups",
      parseAutoencoderKLConfig,
      { block_out_channels: [48] },
      bad("block_out_channels", "(32)"),
    ],
    ["latent statistics", parseAutoencoderKLConfig, { latents_mean: [0] }, unsupported("latents_mean")],
    ["a scale of zero", parseAutoencoderKLConfig, { scaling_factor: 0 }, bad("scaling_factor", "above 0")],
    ["karras sigmas", parseSchedulerConfig, { use_karras_sigmas: true }, unsupported("use_karras_sigmas")],
    ["a terminal shift", parseSchedulerConfig, { shift_terminal: 0.1 }, unsupported("shift_terminal")],
    [
      "another time shift",
      parseSchedulerConfig,
      { time_shift_type: "cubic" },
      unsupported("cubic", "exponential"),
    ],
    ["equal lengths", parseSchedulerConfig, { max_image_seq_len: 256 }, bad("max_image_seq_len")],
    ["heads that do not divide", parseClipTextConfig, { num_attention_heads: 7 }, bad("hidden_size", "(7)")],
    ["an exact GELU", parseClipTextConfig, { hidden_act: "gelu" }, unsupported("hidden_act", "quick_gelu")],
    [
      "a vision model",
      parseClipTextConfig,
      { architectures: ["CLIPModel"] },
      unsupported("CLIPModel", "CLIPTextModel"),
    ],
    [
      "another text model",
      parseClipTextConfig,
      { model_type: "bert" },
      unsupported("bert", "clip_text_model"),
    ],
    [
      "T5 without a gate",
      parseT5Config,
      { feed_forward_proj: "relu" },
      unsupported("feed_forward_proj", "gated"),
    ],
    ["T5 v1.0 by default", parseT5Config, {}, unsupported("gated-gelu")],
    ["T5 with SiLU", parseT5Config, { feed_forward_proj: "gated-silu" }, unsupported("gated-silu")],
  ])("%s", (_what, parse, json, expected) => {
    expect(() => parse(json, "config.json")).toThrow(expected);
  });
});
