import { mkdtempSync, rmSync } from "node:fs";
import { readFile, rename, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { FluxPipeline } from "../../lib/index.js";
import { decodeValues } from "../../lib/loaders/dtype.js";
import { openSafetensors } from "../../lib/loaders/safetensors.js";
import { type ConvertOptions, convert } from "../../lib/pipelines/convert.js";
import { temporaryFolder } from "../support/fixture-folder.js";
import { schnellFolder } from "../support/folders.js";
import { GoldenFile, goldenPath } from "../support/golden.js";
import { asE4m3, bflTransformer, type Encoded, readFolder, writeTensors } from "../support/single-files.js";

const model = schnellFolder();
let parent: string;
let fp8: string;

beforeAll(async () => {
  parent = mkdtempSync(join(tmpdir(), "fluxwarp-convert-"));
  fp8 = join(parent, "fp8");
  await convert(model, fp8);
});
afterAll(() => {
  rmSync(parent, { recursive: true });
  rmSync(model, { recursive: true });
});

async function latentsOf(folder: string, precision?: "f32" | "fp8"): Promise<Float32Array> {
  const pipeline = await FluxPipeline.fromPretrained(folder, {
    device: "cpu",
    ...(precision && { precision }),
  });
  try {
    const size = { height: 64, width: 64, maxSequenceLength: 32, numInferenceSteps: 2 };
    const { latents } = await pipeline.generate({
      prompt: "a hill",
      seed: 3,
      outputType: "latents",
      ...size,
    });
    return latents!.data;
  } finally {
    pipeline.dispose();
  }
}

const TRANSFORMER = "transformer/diffusion_pytorch_model.safetensors";
const readJson = async (path: string) => JSON.parse(await readFile(path, "utf8"));

describe("convert", () => {
  it("writes e4m3 codes with max|row| / 448 as their scales for the linears of blocks, and leaves the rest in bf16", async () => {
    const stored = new GoldenFile(join(model, TRANSFORMER));
    const written = await openSafetensors(join(fp8, TRANSFORMER));
    const file = new GoldenFile(join(fp8, TRANSFORMER));
    let quantised = 0;
    for (const name of stored.names()) {
      const { shape, data } = stored.tensor(name);
      const { dtype } = written.tensors.get(name)!;
      const isLinear =
        /blocks\.\d+\.(attn|ff|ff_context|proj_mlp|proj_out)\b.*weight$/.test(name) && shape.length === 2;
      expect(dtype, name).toBe(isLinear ? "F8_E4M3" : "BF16");
      if (!isLinear) {
        expect(file.f32(name), name).toEqual(data);
        continue;
      }
      quantised++;
      const width = shape[1]!;
      const scales = file.f32(`${name}_scale`);
      const codes = file.f32(name);
      for (let row = 0; row < shape[0]!; row++) {
        const values = data.subarray(row * width, (row + 1) * width);
        const largest = values.reduce((max, value) => Math.max(max, Math.abs(value)), 0);
        const scale = Math.fround(largest / 448);
        if (scales[row] !== scale) throw new Error(`${name}: scale ${row} is ${scales[row]}, not ${scale}`);
        if (row % 8 !== 0) continue;
        const wrong = values.findIndex((value, k) => {
          const magnitude = Math.abs(codes[row * width + k]!);
          const half = 2 ** (Math.max(-6, Math.floor(Math.log2(magnitude || 2 ** -9))) - 4);
          return Math.abs(codes[row * width + k]! - value / scale) > half * (1 + 1e-6);
        });
        if (wrong !== -1) throw new Error(`${name}: code ${wrong} of row ${row} is not the nearest`);
      }
    }
    expect(quantised).toBe(
      stored
        .names()
        .filter((name) =>
          /\.(to_|add_)\w+(\.0)?\.weight|net\S+weight|blocks\S+proj_(mlp|out)\.weight/.test(name),
        ).length,
    );
  });

  it("marks the configs, and copies the others and the tokenizers", async () => {
    const mark = {
      quantization_config: {
        quant_method: "fluxwarp",
        weight_dtype: "float8_e4m3fn",
        scale: "output_channel",
      },
    };
    for (const component of ["transformer", "text_encoder_2"]) {
      const path = `${component}/config.json`;
      expect(await readJson(join(fp8, path))).toEqual({ ...(await readJson(join(model, path))), ...mark });
    }
    for (const path of [
      "vae/config.json",
      "scheduler/scheduler_config.json",
      "tokenizer/vocab.json",
      "tokenizer_2/tokenizer.json",
    ]) {
      expect(await readJson(join(fp8, path))).toEqual(await readJson(join(model, path)));
    }
    expect((await readJson(join(fp8, "model_index.json")))._class_name).toBe("FluxPipeline");
  });

  it("makes a folder that loads as what the bf16 folder becomes in fp8, which is its default", async () => {
    const expected = await latentsOf(model, "fp8");
    expect(await latentsOf(fp8, "fp8")).toEqual(expected);
    expect(await latentsOf(fp8)).toEqual(expected);
    expect(await latentsOf(fp8, "f32")).not.toEqual(expected);
  });

  it("names the pipeline class that the caller says the checkpoint is", async () => {
    const folder = join(parent, "kontext");
    await convert(model, folder, { precision: "bf16", variant: "kontext" });
    expect((await readJson(join(folder, "model_index.json")))._class_name).toBe("FluxKontextPipeline");
    const pipeline = await FluxPipeline.fromPretrained(folder, { device: "cpu" });
    expect(pipeline.variant).toBe("kontext");
    pipeline.dispose();
  });

  it("keeps T5 in bf16 when it is asked to", async () => {
    const folder = join(parent, "bf16-t5");
    await convert(model, folder, { textEncoderPrecision: "bf16" });
    const { tensors } = await openSafetensors(join(folder, "text_encoder_2/model.safetensors"));
    expect(new Set([...tensors.values()].map(({ dtype }) => dtype))).toEqual(new Set(["BF16"]));
    expect(await readJson(join(folder, "text_encoder_2/config.json"))).not.toHaveProperty(
      "quantization_config",
    );
  });

  it("keeps the codes of an fp8 single file, with its scale for every row; and unpacks them to bf16", async () => {
    const transformer = bflTransformer(readFolder(goldenPath("tiny-flux-schnell/transformer")));
    const tensors = new Map<string, Encoded>();
    for (const [name, tensor] of transformer) {
      const encoded = asE4m3(tensor, [0.0625]).encoded;
      tensors.set(name, encoded);
      if (name.endsWith(".weight") && tensor.shape.length === 2) {
        const scale = new Uint8Array(Float32Array.of(0.0625).buffer);
        tensors.set(`${name.slice(0, -".weight".length)}.scale_weight`, {
          dtype: "F32",
          shape: [1],
          bytes: scale,
        });
      } else {
        tensors.set(name, asE4m3(tensor).encoded);
      }
    }
    const file = writeTensors(join(parent, "flux1-schnell-fp8.safetensors"), tensors);
    const options: ConvertOptions = { config: model };
    await convert(file, join(parent, "from-file"), options);
    const name = "double_blocks.0.img_attn.qkv.weight";
    const { bytes, shape } = tensors.get(name)!;
    const codes = decodeValues("F8_E4M3", bytes) as Float32Array;
    const third = codes.length / 3;
    const written = new GoldenFile(join(parent, "from-file", TRANSFORMER));
    for (const [part, letter] of ["q", "k", "v"].entries()) {
      const to = `transformer_blocks.0.attn.to_${letter}.weight`;
      expect(written.f32(to)).toEqual(codes.slice(part * third, (part + 1) * third));
      expect(written.f32(`${to}_scale`)).toEqual(new Float32Array(shape[0]! / 3).fill(0.0625));
    }
    await convert(file, join(parent, "unpacked"), { ...options, precision: "bf16" });
    const unpacked = new GoldenFile(join(parent, "unpacked", TRANSFORMER));
    const expected = codes.slice(third, 2 * third).map((code) => code * 0.0625);
    expect(unpacked.f32("transformer_blocks.0.attn.to_k.weight")).toEqual(expected);
  });
});

describe("an fp8 folder", () => {
  const load = (folder: string) => FluxPipeline.fromPretrained(folder, { device: "cpu" });

  it.each([
    [
      "another format",
      { quant_method: "bitsandbytes", load_in_4bit: true },
      "ERR_FLUX_UNSUPPORTED",
      /quant_method.*bitsandbytes/,
    ],
    [
      "other scales",
      { quant_method: "fluxwarp", weight_dtype: "float8_e4m3fn", scale: "tensor" },
      "ERR_FLUX_UNSUPPORTED",
      /scale/,
    ],
  ])("of %s is refused by name", async (_, quantization, code, message) => {
    const folder = join(await temporaryFolder(), "copy");
    await convert(model, folder, { precision: "bf16" });
    const path = join(folder, "transformer/config.json");
    await writeFile(path, JSON.stringify({ ...(await readJson(path)), quantization_config: quantization }));
    await expect(load(folder)).rejects.toMatchObject({ code, message: expect.stringMatching(message) });
  });

  it("whose weights are not in fp8, or have no scales, is refused", async () => {
    const folder = join(await temporaryFolder(), "copy");
    await convert(model, folder, { precision: "bf16" });
    const path = join(folder, "transformer/config.json");
    await writeFile(path, await readFile(join(fp8, "transformer/config.json")));
    await expect(load(folder)).rejects.toMatchObject({
      code: "ERR_FLUX_BAD_WEIGHTS",
      message: expect.stringMatching(/has none in F8_E4M3/),
    });
    const codes = new Map([
      [
        "transformer_blocks.0.attn.to_q.weight",
        asE4m3({ shape: [1, 2], values: new Float32Array(2) }).encoded,
      ],
    ]);
    await rename(join(folder, TRANSFORMER), `${join(folder, TRANSFORMER)}.old`);
    writeTensors(join(folder, TRANSFORMER), codes);
    await expect(load(folder)).rejects.toMatchObject({
      code: "ERR_FLUX_BAD_WEIGHTS",
      message: expect.stringMatching(/the scale of "transformer_blocks\.0\.attn\.to_q\.weight" is not in/),
    });
  });
});
