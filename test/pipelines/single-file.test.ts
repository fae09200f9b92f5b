// Checkpoints in one file against diffusers' images, and fp8 files against what their codes and scales stand for.

import { cpSync, mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { FluxPipeline, type FromSingleFileOptions } from "../../lib/index.js";
import { devFolder } from "../support/folders.js";
import {
  golden,
  goldenIndex,
  goldenPath,
  hasGolden,
  maxAbsDifference,
  relativeL2,
} from "../support/golden.js";
import {
  asBf16,
  asE4m3,
  asF32,
  bflAutoencoder,
  bflTransformer,
  type Encoded,
  prefixed,
  readFolder,
  type Stored,
  type Tensors,
  writeTensors,
} from "../support/single-files.js";

const CASE = "cases/e2e_schnell_4.safetensors";
const schnell = bflTransformer(readFolder(goldenPath("tiny-flux-schnell/transformer")));
const part = (name: string) => goldenPath(`tiny-flux/${name}`);

let folder: string;
let config: FromSingleFileOptions["config"];

beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), "fluxwarp-single-"));
  const scheduler = JSON.parse(
    await readFile(goldenPath("tiny-flux-schnell/scheduler/scheduler_config.json"), "utf8"),
  );
  config = { base: goldenPath("configs/tiny-flux"), scheduler };
});

afterAll(() => rmSync(folder, { recursive: true }));

const path = (name: string) => join(folder, name);
const mapped = <T, U>(tensors: Map<string, T>, encode: (tensor: T, name: string) => U) =>
  new Map([...tensors].map(([name, tensor]) => [name, encode(tensor, name)]));

/** ComfyUI's way to put all parts into one file. */
function allInOne(transformer: Tensors): Tensors {
  return new Map([
    ...prefixed("model.diffusion_model.", transformer),
    ...prefixed("text_encoders.clip_l.transformer.", readFolder(part("text_encoder"))),
    ...prefixed("text_encoders.t5xxl.transformer.", readFolder(part("text_encoder_2"))),
    ...prefixed("vae.", bflAutoencoder(readFolder(part("vae")))),
  ]);
}

async function withPipeline<T>(pipeline: Promise<FluxPipeline>, use: (pipeline: FluxPipeline) => Promise<T>) {
  const loaded = await pipeline;
  try {
    return await use(loaded);
  } finally {
    loaded.dispose();
  }
}

interface Params {
  height: number;
  width: number;
  steps: number;
  guidance_scale?: number;
}

function request(name = CASE) {
  const file = golden(name);
  const params = goldenIndex(name).params as unknown as Params;
  const { height, width, steps, guidance_scale: guidanceScale = 3.5 } = params;
  const tensor = (name: string) => ({ data: file.f32(name), shape: file.shape(name) });
  return {
    promptEmbeds: tensor("in.prompt_embeds"),
    pooledPromptEmbeds: tensor("in.pooled_prompt_embeds"),
    latents: tensor("in.latents"),
    height,
    width,
    numInferenceSteps: steps,
    guidanceScale,
  };
}

/** Through the text encoders. */
const promptLatentsOf = (pipeline: FluxPipeline) =>
  pipeline
    .generate({
      prompt: "a red square",
      seed: 1,
      height: 64,
      width: 64,
      maxSequenceLength: 32,
      outputType: "latents",
    })
    .then(({ latents }) => latents!.data);

/** Diffusers' image of the golden case, within the tolerance of test/pipelines/flux-pipeline.test.ts. */
async function expectDiffusersImage(pipeline: FluxPipeline, name = CASE) {
  const { images } = await pipeline.generate(request(name));
  const expected = golden(name).raw("image_u8").data as Uint8Array;
  expect(
    maxAbsDifference(
      images.flatMap((image) => [...image.data]),
      expected,
    ),
  ).toBeLessThanOrEqual(1);
}

describe("FluxPipeline.fromSingleFile", () => {
  it("loads Black Forest Labs' files with the other parts beside them", async () => {
    const file = writeTensors(path("flux1-schnell.safetensors"), mapped(schnell, asBf16));
    const vae = writeTensors(path("ae.safetensors"), mapped(bflAutoencoder(readFolder(part("vae"))), asF32));
    const options: FromSingleFileOptions = {
      config,
      vae,
      clip: part("text_encoder/model.safetensors"),
      t5: part("text_encoder_2"),
      tokenizers: goldenPath("tiny-flux"),
      device: "cpu",
    };
    const latents = await withPipeline(FluxPipeline.fromSingleFile(file, options), async (pipeline) => {
      await expectDiffusersImage(pipeline);
      return promptLatentsOf(pipeline);
    });
    const pipelineFolder = path("schnell");
    mkdirSync(pipelineFolder);
    cpSync(goldenPath("tiny-flux/model_index.json"), join(pipelineFolder, "model_index.json"));
    for (const name of ["text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "vae"])
      symlinkSync(part(name), join(pipelineFolder, name));
    for (const name of ["transformer", "scheduler"])
      symlinkSync(goldenPath(`tiny-flux-schnell/${name}`), join(pipelineFolder, name));
    expect(
      await withPipeline(FluxPipeline.fromPretrained(pipelineFolder, { device: "cpu" }), promptLatentsOf),
    ).toEqual(latents);

    // The folder gives what the file lacks, and the transformer's layout is read from the file, not from its config.
    await withPipeline(
      FluxPipeline.fromSingleFile(file, { config: pipelineFolder, device: "cpu" }),
      expectDiffusersImage,
    );
  });

  it("loads all parts out of one file", async () => {
    const tensors = allInOne(schnell);
    const file = writeTensors(path("all-in-one.safetensors"), mapped(tensors, asBf16));
    const options = { config, tokenizers: goldenPath("tiny-flux"), device: "cpu" } as const;
    await withPipeline(FluxPipeline.fromSingleFile(file, options), expectDiffusersImage);
  });

  const DEV = "cases/e2e_dev_4.safetensors";
  it.skipIf(!hasGolden(DEV))("tells dev by its guidance embedding (reads ../shared/golden)", async () => {
    const transformer = bflTransformer(readFolder(goldenPath("tiny-flux/transformer")));
    const file = writeTensors(path("flux1-dev.safetensors"), mapped(transformer, asBf16));
    await withPipeline(
      FluxPipeline.fromSingleFile(file, { config: devFolder(), device: "cpu" }),
      (pipeline) => expectDiffusersImage(pipeline, DEV),
    );
  });

  it("takes diffusers' names in one file, too", async () => {
    const tensors = new Map([
      ...readFolder(goldenPath("tiny-flux-schnell/transformer")),
      ...prefixed("vae.", readFolder(part("vae"))),
      ...prefixed("text_encoder.", readFolder(part("text_encoder"))),
      ...prefixed("text_encoder_2.", readFolder(part("text_encoder_2"))),
    ]);
    const file = writeTensors(path("diffusers-named.safetensors"), mapped(tensors, asBf16));
    const options = { config, tokenizers: goldenPath("tiny-flux"), device: "cpu" } as const;
    await withPipeline(FluxPipeline.fromSingleFile(file, options), expectDiffusersImage);
  });
});

describe("fp8 single files", () => {
  const isMatrix = (name: string, { shape }: Stored) => name.endsWith(".weight") && shape.length === 2;
  const isLinear = (name: string, tensor: Stored) =>
    isMatrix(name, tensor) && !/embedding|shared|relative_attention_bias/.test(name);
  const largest = (values: Float32Array) => values.reduce((max, value) => Math.max(max, Math.abs(value)), 0);

  /** The fp8 file, and a file of what it stands for in f32. */
  function written(name: string, encode: (tensor: Stored, name: string) => [Stored, [string, Encoded][]]) {
    const fp8 = new Map<string, Encoded>();
    const meant = new Map<string, Encoded>();
    for (const [tensorName, tensor] of allInOne(schnell)) {
      const [decoded, entries] = encode(tensor, tensorName);
      meant.set(tensorName, asF32(decoded));
      for (const [entry, encoded] of entries) fp8.set(entry, encoded);
    }
    return {
      file: writeTensors(path(`${name}.safetensors`), fp8),
      reference: writeTensors(path(`${name}-f32.safetensors`), meant),
    };
  }

  const bf16 = (tensor: Stored, name: string): [Stored, [string, Encoded][]] => [
    tensor,
    [[name, asBf16(tensor)]],
  ];
  const number = (value: number): Encoded => asF32({ shape: [], values: Float32Array.of(value) });

  /** As ComfyUI's flux1-dev-fp8.safetensors: everything cast, no scales; the autoencoder left as it is. */
  const plain = () =>
    written("plain", (tensor, name) => {
      if (name.startsWith("vae.")) return bf16(tensor, name);
      const { encoded, decoded } = asE4m3(tensor);
      return [decoded, [[name, encoded]]];
    });

  /** Linears with a scale each, and an input scale that is not to be used. */
  const scaled = (scaleName: string, inputName: string) =>
    written(scaleName, (tensor, name) => {
      if (!isLinear(name, tensor) || name.startsWith("vae.")) return bf16(tensor, name);
      const scale = Math.fround(largest(tensor.values) / 448);
      const { encoded, decoded } = asE4m3(tensor, [scale]);
      const layer = name.slice(0, -".weight".length);
      return [
        decoded,
        [
          [name, encoded],
          [`${layer}.${scaleName}`, number(scale)],
          [`${layer}.${inputName}`, number(0.02)],
        ],
      ];
    });

  /** A scale for each row, of shape [rows, 1]. */
  const rowScaled = () =>
    written("rows", (tensor, name) => {
      if (!isLinear(name, tensor) || name.startsWith("vae.")) return bf16(tensor, name);
      const width = tensor.shape[1]!;
      const scales = Array.from({ length: tensor.shape[0]! }, (_, row) =>
        Math.fround(largest(tensor.values.subarray(row * width, (row + 1) * width)) / 448 || 1),
      );
      const { encoded, decoded } = asE4m3(tensor, scales);
      const scale = asF32({ shape: [scales.length, 1], values: Float32Array.from(scales) });
      return [
        decoded,
        [
          [name, encoded],
          [`${name}_scale`, scale],
        ],
      ];
    });

  it.each([
    ["without scales", plain],
    ["with scale_weight", () => scaled("scale_weight", "scale_input")],
    ["with weight_scale", () => scaled("weight_scale", "input_scale")],
    ["with a scale for each row", rowScaled],
  ])("%s compute in f32 exactly what they stand for, and in fp8 by default", async (_, make) => {
    const { file, reference } = make();
    const options = { config, tokenizers: goldenPath("tiny-flux"), device: "cpu" } as const;
    const load = (path: string, precision?: "f32" | "fp8") =>
      FluxPipeline.fromSingleFile(path, { ...options, ...(precision && { precision }) });
    const expected = await withPipeline(load(reference), promptLatentsOf);
    expect(await withPipeline(load(file, "f32"), promptLatentsOf)).toEqual(expected);

    const byDefault = await withPipeline(load(file), promptLatentsOf);
    expect(await withPipeline(load(file, "fp8"), promptLatentsOf)).toEqual(byDefault);
    // Activations are rounded to e4m3, weights are not rounded again.
    const error = relativeL2(byDefault, expected);
    expect(error).toBeGreaterThan(1e-4);
    expect(error).toBeLessThan(0.1);
  });
});

describe("FluxPipeline.fromSingleFile refuses", () => {
  const transformer = () => mapped(schnell, asBf16);
  const load = (path: string, options: object = {}) =>
    FluxPipeline.fromSingleFile(path, { device: "cpu", ...options });

  it("a file without its other parts, and names all of them", async () => {
    const file = writeTensors(path("alone.safetensors"), transformer());
    await expect(load(file, { config })).rejects.toMatchObject({
      code: "ERR_FLUX_BAD_ARGUMENT",
      message: expect.stringMatching(
        /without autoencoder, CLIP, T5, tokenizers: give \{ vae: "ae\.safetensors", clip: .*t5: .*tokenizers:/,
      ),
    });
    await expect(
      load(file, { config, vae: part("text_encoder"), clip: part("text_encoder") }),
    ).rejects.toMatchObject({
      code: "ERR_FLUX_BAD_WEIGHTS",
      message: expect.stringMatching(/given as vae, holds no autoencoder/),
    });
  });

  it("a transformer of another model than the config's, asking for its own config", async () => {
    const file = writeTensors(path("small.safetensors"), transformer());
    const asks = (whose: RegExp) => ({
      code: "ERR_FLUX_BAD_ARGUMENT",
      message: expect.stringMatching(
        new RegExp(
          `reads texts of \\d+ \\(T5\\) and \\d+ .*${whose.source}.*4096 and 768.*as \\{ config \\}`,
        ),
      ),
    });
    await expect(load(file)).rejects.toMatchObject(asks(/of FLUX\.1 write/));
    const parts = { vae: part("vae"), clip: part("text_encoder"), t5: part("text_encoder_2") };
    await expect(load(file, parts)).rejects.toMatchObject(asks(/of FLUX\.1 write/));
    await expect(load(file, { config: "flux1-schnell" })).rejects.toMatchObject(asks(/of the given config/));
  });

  it("a file without a transformer, a folder, and a path that is not there", async () => {
    const vae = writeTensors(
      path("vae-only.safetensors"),
      mapped(bflAutoencoder(readFolder(part("vae"))), asBf16),
    );
    await expect(load(vae)).rejects.toMatchObject({
      code: "ERR_FLUX_BAD_WEIGHTS",
      message: expect.stringMatching(/holds no FLUX\.1 transformer: its first tensors are "/),
    });
    await expect(load(goldenPath("tiny-flux"))).rejects.toMatchObject({
      code: "ERR_FLUX_BAD_WEIGHTS",
      message: expect.stringMatching(/fromPretrained\(\)/),
    });
    const gguf = path("flux1-dev-Q4_0.gguf");
    writeFileSync(gguf, "GGUF");
    await expect(load(gguf)).rejects.toMatchObject({
      code: "ERR_FLUX_UNSUPPORTED",
      message: expect.stringMatching(/flux1-dev-Q4_0\.gguf is not a \.safetensors file/),
    });
    await expect(load(path("nowhere.safetensors"))).rejects.toMatchObject({ code: "ERR_FLUX_BAD_WEIGHTS" });
  });

  it("a transformer of which a layer is missing or misshapen, naming it", async () => {
    const options = {
      config,
      tokenizers: goldenPath("tiny-flux"),
      vae: part("vae"),
      clip: part("text_encoder"),
      t5: part("text_encoder_2"),
    };
    const without = transformer();
    without.delete("single_blocks.1.linear1.bias");
    await expect(load(writeTensors(path("cut.safetensors"), without), options)).rejects.toMatchObject({
      code: "ERR_FLUX_BAD_WEIGHTS",
      message: expect.stringMatching(/single_transformer_blocks\.1\.proj_mlp\.bias/),
    });
    const misshapen = transformer();
    const { shape, ...rest } = misshapen.get("double_blocks.0.img_attn.qkv.bias")!;
    misshapen.set("double_blocks.0.img_attn.qkv.bias", { ...rest, shape: [2, shape[0]! / 2] });
    await expect(load(writeTensors(path("misshapen.safetensors"), misshapen), options)).rejects.toMatchObject(
      {
        code: "ERR_FLUX_BAD_WEIGHTS",
        message: expect.stringMatching(/transformer_blocks\.0\.attn\.to_q\.bias has shape/),
      },
    );
  });

  it("scales of blocks", async () => {
    const tensors = transformer();
    const scale = { shape: [3, 2], values: new Float32Array(6).fill(1) };
    tensors.set("double_blocks.0.img_attn.qkv.weight_scale", asF32(scale));
    await expect(load(writeTensors(path("blocks.safetensors"), tensors), { config })).rejects.toMatchObject({
      code: "ERR_FLUX_UNSUPPORTED",
      message: expect.stringMatching(/qkv\.weight_scale.*\[3, 2\]/),
    });
  });
});
