// Adapters on the command line.

import { join } from "node:path";
import sharp from "sharp";
import { describe, expect, it } from "vitest";
import { loraFlag } from "../../lib/cli/option-values.js";
import { runCli } from "../../lib/cli/program.js";
import { FluxPipeline } from "../../lib/index.js";
import { f32, fileBytes, MODEL, shippedAdapter, tensorsOf, writeAdapter } from "../lora/adapter-file.js";
import { capturedContext } from "../support/captured-streams.js";
import { temporaryFolder } from "../support/fixture-folder.js";

async function run(...args: string[]) {
  const context = capturedContext();
  const code = await runCli(args, context);
  return { code, stdout: context.stdout.text, stderr: context.stderr.text };
}

it("--lora takes a file with or without a weight, in any number", () => {
  const first = loraFlag("a.safetensors");
  expect(first).toEqual([{ path: "a.safetensors", weight: 1 }]);
  expect(loraFlag("b:c/d.safetensors:-0.5", first)).toEqual([
    { path: "a.safetensors", weight: 1 },
    { path: "b:c/d.safetensors", weight: -0.5 },
  ]);
  expect(loraFlag("C:\\styles\\a.safetensors")).toEqual([{ path: "C:\\styles\\a.safetensors", weight: 1 }]);
  expect(() => loraFlag("a.safetensors:")).toThrow(/must be a number/);
});

it("generate draws with the adapters that it is given, as the library does", async () => {
  const output = join(await temporaryFolder(), "a.png");
  const request = { prompt: "a red circle", seed: 5, height: 64, width: 64, numInferenceSteps: 2 };
  const options = ["-p", request.prompt, "--seed", "5", "-H", "64", "-W", "64", "-s", "2"];
  const files = ["night", "pixel"].map(shippedAdapter);
  const loras = ["--lora", files[0]!, "--lora", `${files[1]}:0.5`];
  const drawn = await run("generate", "-m", MODEL, "--device", "cpu", ...options, ...loras, "-o", output);
  expect(drawn).toMatchObject({ code: 0, stderr: "" });
  using pipe = await FluxPipeline.fromPretrained(MODEL, { device: "cpu" });
  for (const file of files) await pipe.loadLoraWeights(file);
  await pipe.setAdapters(["default_0", "default_1"], [1, 0.5]);
  const { images } = await pipe.generate(request);
  expect(await sharp(output).raw().toBuffer()).toEqual(Buffer.from(images[0]!.data));
});

it("generate says that an adapter is not there before it loads the model", async () => {
  const { code, stderr } = await run(
    "generate",
    "-m",
    "absent",
    "-p",
    "x",
    "--lora",
    "absent.safetensors:0.5",
  );
  expect(stderr).toMatch(/absent.safetensors is not there.*ERR_FLUX_BAD_WEIGHTS/);
  expect(code).toBe(1);
});

describe("inspect lora", () => {
  it("says format, ranks, scales and layers", async () => {
    const { code, stdout, stderr } = await run("inspect", "lora", shippedAdapter("night"));
    expect({ code, stderr }).toEqual({ code: 0, stderr: "" });
    expect(stdout).toMatch(/night\.safetensors\nformat kohya, 232 kB, BF16\n/);
    expect(stdout).toMatch(
      /single_transformer_blocks\.\*\.attn\.to_q \+ attn\.to_k \+ attn\.to_v \+ proj_mlp +3 +6 +3 +0\.5\n/,
    );
    expect(stdout).toMatch(/every tensor is used\n$/);
  });

  it("gives the same as JSON, with the tensors that are not used", async () => {
    const tensors = { ...tensorsOf(shippedAdapter("pixel")), "lora_te3_x.alpha": f32([], [1]) };
    const path = await writeAdapter(tensors);
    const { code, stdout } = await run("inspect", "lora", path, "--json");
    expect(code).toBe(0);
    const report = JSON.parse(stdout);
    expect(report).toMatchObject({
      path,
      format: "diffusers",
      bytes: fileBytes(tensors).length,
      dtypes: { BF16: 32, F32: 1 },
      ranks: { 8: 16 },
      unused: [{ key: "lora_te3_x.alpha", reason: expect.stringMatching(/T5/) }],
    });
    expect(report.pairs).toHaveLength(16);
    expect(report.pairs[0]).toEqual({
      component: "transformer",
      layers: ["proj_out"],
      rank: 8,
      alpha: null,
      scale: 1,
      inputs: 256,
      outputs: 64,
    });
    expect((await run("inspect", "lora", path)).stdout).toMatch(
      /not used:\n {2}lora_te3_x\.alpha: for the T5 text encoder/,
    );
  });

  it("refuses a file that is no adapter, and one that is damaged", async () => {
    const model = join(MODEL, "vae/diffusion_pytorch_model.safetensors");
    const none = await run("inspect", "lora", model);
    expect(none).toMatchObject({ code: 1, stdout: "" });
    expect(none.stderr).toMatch(/holds no low-rank pair for a layer of FLUX\.1.*ERR_FLUX_BAD_WEIGHTS/);
    const [first, ...rest] = Object.entries(tensorsOf(shippedAdapter("pixel")));
    const half = await run("inspect", "lora", await writeAdapter(Object.fromEntries(rest)));
    expect(half.code).toBe(1);
    expect(half.stderr).toMatch(/has no (down \(A\)|up \(B\)) matrix beside it/);
    expect(first![0]).toMatch(/lora_[AB]\.weight$/);
  });
});
