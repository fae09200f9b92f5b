import { cp, readdir, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import sharp from "sharp";
import { describe, expect, it, onTestFinished } from "vitest";
import { runCli } from "../../lib/cli/program.js";
import { CapturedStream, capturedContext } from "../support/captured-streams.js";
import { temporaryFolder } from "../support/fixture-folder.js";
import { schnellFolder } from "../support/folders.js";
import { goldenPath, hasGolden } from "../support/golden.js";

async function run(...args: string[]) {
  const context = capturedContext();
  const code = await runCli(args, context);
  return { code, stdout: context.stdout.text, stderr: context.stderr.text };
}

/** A whole small model whose files may be changed. */
async function smallModel(): Promise<string> {
  const links = schnellFolder();
  onTestFinished(() => rm(links, { recursive: true }));
  const folder = await temporaryFolder();
  await cp(links, folder, { recursive: true, dereference: true });
  return folder;
}

describe("fluxwarp", () => {
  it("prints help with examples for every command and exits with 0", async () => {
    for (const command of [
      [],
      ["generate"],
      ["synth"],
      ["inspect", "model"],
      ["inspect", "lora"],
      ["inspect", "gpu"],
      ["inspect", "plan"],
    ]) {
      const { code, stdout, stderr } = await run(...command, "--help");
      expect(code, command.join(" ")).toBe(0);
      expect(stdout).toContain(`Usage: ${["fluxwarp", ...command].join(" ")}`);
      expect(stdout).toMatch(/Examples:\n {2}\$ fluxwarp/);
      expect(stderr).toBe("");
    }
  });

  it("prints its version", async () => {
    expect(await run("--version")).toMatchObject({
      code: 0,
      stdout: expect.stringMatching(/^\d+\.\d+\.\d+/),
    });
  });

  it.each<[string[], RegExp]>([
    [[], /Usage: fluxwarp/],
    [["paint"], /unknown command 'paint'/],
    [["inspect"], /Usage: fluxwarp inspect/],
    [["generate", "-m", "x"], /required option '-p, --prompt/],
    [["generate", "-p", "x"], /required option '-m, --model/],
    [["generate", "-m", "x", "-p", "x", "--colour"], /unknown option '--colour'/],
    [["generate", "-m", "x", "-p", "x", "--steps", "0"], /--steps.*at least 1/],
    [["generate", "-m", "x", "-p", "x", "--steps", "1e2"], /--steps/],
    [["generate", "-m", "x", "-p", "x", "--width", "-16"], /--width/],
    [["generate", "-m", "x", "-p", "x", "--guidance-scale", "high"], /--guidance-scale.*a number/],
    [["generate", "-m", "x", "-p", "x", "--guidance-scale", ""], /--guidance-scale.*a number/],
    [["generate", "-m", "x", "-p", "x", "--seed", "18446744073709551616"], /--seed/],
    [["generate", "-m", "x", "-p", "x", "--cache", "often"], /--cache.*a number/],
    [["generate", "-m", "x", "-p", "x", "--cache", "-0.1"], /--cache.*at least 0, not -0\.1/],
    [["generate", "-m", "x", "-p", "x", "--cache", "0.1,warmup=2"], /--cache.*no option "warmup"/],
    [["generate", "-m", "x", "-p", "x", "--precision", "f8"], /--precision.*f32, bf16, fp8/],
    [["generate", "-m", "x", "-p", "x", "--attention", "f8"], /--attention.*bf16, fp8, int8/],
    [["generate", "-m", "x", "-p", "x", "-o", "a.gif"], /a\.gif.*\.png.*ERR_FLUX_BAD_ARGUMENT/],
    [["convert", "x"], /missing required argument 'folder'/],
    [["convert", "x", "y", "--precision", "int8"], /--precision.*fp8, bf16/],
    [["synth", "flux1-dev"], /missing required argument 'folder'/],
    [["synth", "flux1-dve", "x"], /"flux1-dve" is none of them.*ERR_FLUX_BAD_ARGUMENT/],
    [["generate", "-m", "x", "-p", "x", "--lora", "a.safetensors:strong"], /--lora.*a number/],
    [["inspect", "lora"], /missing required argument 'path'/],
    [["inspect", "gpu", "surplus"], /too many arguments/],
    [["inspect", "model"], /missing required argument 'path'/],
  ])("exits with 2 for a wrong command line: %j", async (args, says) => {
    const { code, stdout, stderr } = await run(...args);
    expect(stderr).toMatch(says);
    expect(stdout).toBe("");
    expect(code).toBe(2);
  });

  it("exits with 1 before any work when the image could not be saved", async () => {
    const folder = await temporaryFolder();
    const { code, stderr } = await run(
      "generate",
      "-m",
      "x",
      "-p",
      "x",
      "-o",
      join(folder, "absent", "a.png"),
    );
    expect(stderr).toMatch(/absent is not there.*ERR_FLUX_IO/);
    expect(code).toBe(1);
  });
});

describe("fluxwarp synth", () => {
  it("writes a checkpoint that can be inspected, with fewer blocks if asked", async () => {
    const folder = join(await temporaryFolder(), "made-up");
    const config = goldenPath("configs/tiny-flux");
    const { code, stdout, stderr } = await run("synth", config, folder, "--single-blocks", "5", "--json");
    expect(stderr).toBe("");
    expect(code).toBe(0);
    const { bytes } = JSON.parse(stdout);
    const inspected = await run("inspect", "model", folder, "--json");
    expect(inspected.code).toBe(0);
    expect(JSON.parse(inspected.stdout)).toMatchObject({ bytes, problems: [] });
    const again = await run("synth", config, folder);
    expect(again).toMatchObject({ code: 2, stderr: expect.stringMatching(/is there already/) });
  });
});

describe("fluxwarp convert", () => {
  it("writes a folder in fp8 that can be inspected", async () => {
    const model = await smallModel();
    const folder = join(await temporaryFolder(), "fp8");
    const { code, stdout, stderr } = await run("convert", model, folder, "--json");
    expect({ code, stderr }).toEqual({ code: 0, stderr: "" });
    const inspected = await run("inspect", "model", folder, "--json");
    expect(JSON.parse(inspected.stdout)).toMatchObject({ bytes: JSON.parse(stdout).bytes, problems: [] });
    const text = (await run("inspect", "model", folder)).stdout;
    expect(text).toMatch(/transformer .*F8_E4M3 \d+\.\d %, BF16/);
  });
});

describe("fluxwarp generate", () => {
  it("takes the options of single files with single files only", async () => {
    const model = await smallModel();
    const output = join(await temporaryFolder(), "a.png");
    const { code, stderr } = await run(
      "generate",
      "-m",
      model,
      "-p",
      "x",
      "-o",
      output,
      "--vae",
      "x",
      "--device",
      "cpu",
    );
    expect(code).toBe(2);
    expect(stderr).toMatch(/--vae is for single files/);
    const file = join(model, "transformer/diffusion_pytorch_model.safetensors");
    const size = ["-H", "64", "-W", "64", "--max-sequence-length", "32", "--device", "cpu"];
    const drawn = await run(
      "generate",
      "-m",
      file,
      "--config",
      model,
      "-p",
      "x",
      "-o",
      output,
      "-s",
      "1",
      ...size,
    );
    expect(drawn).toMatchObject({ code: 0, stderr: "" });
  });
});

describe("fluxwarp inspect model", () => {
  it("lists parts, parameters, dtypes and sizes", async () => {
    const folder = await smallModel();
    const { code, stdout, stderr } = await run("inspect", "model", folder);
    expect(stderr).toBe("");
    expect(code).toBe(0);
    expect(stdout).toMatch(/transformer +FluxTransformer2DModel +4\.7 M +9\.5 MB +1 +BF16\n/);
    expect(stdout).toMatch(/tokenizer_2 +T5TokenizerFast\n/);
    expect(stdout).toMatch(/total +FluxPipeline +6\.4 M +12\.9 MB\n/);
    expect(stdout).toMatch(/no problems\n$/);
  });

  it("gives the same as JSON", async () => {
    const { code, stdout } = await run("inspect", "model", await smallModel(), "--json");
    expect(code).toBe(0);
    const report = JSON.parse(stdout);
    expect(report).toMatchObject({ class: "FluxPipeline", problems: [] });
    expect(report.components).toHaveLength(7);
    expect(report.parameters).toBe(
      report.components.reduce((sum: number, { parameters }: { parameters: number }) => sum + parameters, 0),
    );
    expect(report.bytes).toBe(2 * report.parameters);
  });

  it("names all problems of all parts, and exits with 1", async () => {
    const folder = await smallModel();
    await rm(join(folder, "tokenizer/merges.txt"));
    await writeFile(join(folder, "vae/diffusion_pytorch_model.safetensors"), "short");
    await writeFile(join(folder, "transformer/config.json"), '{"num_layers": "many"}');
    const { code, stdout, stderr } = await run("inspect", "model", folder);
    expect(stdout).toMatch(
      /problems:\n.*"num_layers".*\n.*vae.diffusion_pytorch_model\.safetensors.*\n.*merges\.txt.*not there/,
    );
    expect(stderr).toMatch(/3 problem\(s\)/);
    expect(code).toBe(1);
  });

  it("reads a single file", async () => {
    const file = goldenPath("tiny-flux/vae/diffusion_pytorch_model.safetensors");
    const { code, stdout } = await run("inspect", "model", file, "--json");
    expect(code).toBe(0);
    expect(JSON.parse(stdout)).toMatchObject({
      path: file,
      components: [{ name: "vae", dtypes: { BF16: expect.any(Number) }, problems: [] }],
    });
  });

  it("refuses a folder without a model, and a path that is not there", async () => {
    const folder = await temporaryFolder();
    for (const path of [folder, join(folder, "absent")]) {
      const { code, stdout, stderr } = await run("inspect", "model", path);
      expect(code).toBe(1);
      expect(stdout).toBe("");
      expect(stderr).toMatch(/model_index\.json is not there.*ERR_FLUX_BAD_WEIGHTS/);
    }
  });
});

describe("fluxwarp inspect gpu", () => {
  it("tells of the processor and of CUDA", async () => {
    const { code, stdout, stderr } = await run("inspect", "gpu");
    expect(stderr).toBe("");
    expect(code).toBe(0);
    expect(stdout).toMatch(/^cpu: \d+ cores, \w+\ncuda: (available|not available: .+)\n/);
    const json = JSON.parse((await run("inspect", "gpu", "--json")).stdout);
    expect(json.cpu.cores).toBeGreaterThanOrEqual(1);
    expect(stdout).toContain(json.cuda.available ? "cuda: available" : json.cuda.reason);
  });
});

// A whole pipeline: the tiny model's weights, from the checkout or from ../shared.
const TINY = goldenPath("tiny-flux/transformer/diffusion_pytorch_model.safetensors.index.json");
const tiny = join(TINY, "../..");
const SIZE = ["-H", "64", "-W", "96", "--steps", "2", "--max-sequence-length", "32", "--device", "cpu"];

describe.skipIf(!hasGolden("tiny-flux/transformer/diffusion_pytorch_model.safetensors.index.json"))(
  "with the tiny model",
  () => {
    it("generate saves an image, prints where, and gives the same bytes for the same seed", async () => {
      const folder = await temporaryFolder();
      const args = ["generate", "-m", tiny, "-p", "a cat", ...SIZE, "--seed", "7"];
      const first = await run(...args, "-o", join(folder, "a.png"));
      expect(first.stderr).toBe("");
      expect(first.code).toBe(0);
      expect(first.stdout).toMatch(/a\.png {2}96×64\nseed 7, [\d.]+ s\n$/);
      const second = await run(...args, "-o", join(folder, "b.png"), "--json");
      expect(JSON.parse(second.stdout)).toMatchObject({
        images: [{ path: join(folder, "b.png"), width: 96, height: 64 }],
        seed: "7",
      });
      const pixels = (name: string) => sharp(join(folder, name)).raw().toBuffer();
      expect(await pixels("a.png")).toEqual(await pixels("b.png"));
    });

    it("generate numbers several images", async () => {
      const folder = await temporaryFolder();
      const { code } = await run(
        ...["generate", "-m", tiny, "-p", "a cat", ...SIZE, "--images", "2", "-o", join(folder, "a.webp")],
      );
      expect(code).toBe(0);
      expect((await readdir(folder)).sort()).toEqual(["a-1.webp", "a-2.webp"]);
    });

    it("generate says what the cache did", async () => {
      const folder = await temporaryFolder();
      const args = ["generate", "-m", tiny, "-p", "a cat", ...SIZE, "-o", join(folder, "a.png")];
      const cache = ["--cache", "threshold=Infinity,maxConsecutiveHits=1"];
      const { stdout } = await run(...args, ...cache);
      expect(stdout).toMatch(/ s, 1 of 2 steps from the cache, 5 of 8 blocks computed\n$/);
      const { cache: report } = JSON.parse((await run(...args, ...cache, "--json")).stdout);
      expect(report).toMatchObject({
        computedSteps: 1,
        skippedSteps: 1,
        steps: [{ computed: true }, { computed: false, difference: expect.any(Number) }],
      });
      expect((await run("inspect", "plan", tiny, ...SIZE, ...cache)).stdout).toContain("cacheDecision");
    });

    it("generate says what is wrong with a size", async () => {
      const { code, stderr } = await run(
        "generate",
        "-m",
        tiny,
        "-p",
        "a cat",
        "-H",
        "65",
        "--device",
        "cpu",
      );
      expect(stderr).toMatch(/height.*multiple of 16.*ERR_FLUX_BAD_ARGUMENT/);
      expect(code).toBe(2);
    });

    it("generate shows progress on a terminal, ends with 130 when interrupted, and saves nothing", async () => {
      const folder = await temporaryFolder();
      const interrupt = new AbortController();
      const stderr = new CapturedStream(true, (written) => {
        if (written.includes("step 1 of 40")) interrupt.abort();
      });
      const context = capturedContext(stderr, interrupt.signal);
      const args = [
        "-H",
        "64",
        "-W",
        "96",
        "--steps",
        "40",
        "--max-sequence-length",
        "32",
        "--device",
        "cpu",
      ];
      const code = await runCli(
        ["generate", "-m", tiny, "-p", "a cat", ...args, "-o", join(folder, "a.png")],
        context,
      );
      expect(stderr.text).toContain("loading transformer");
      expect(stderr.text).toContain("step 1 of 40");
      expect(stderr.text).not.toContain("step 40 of 40");
      expect(stderr.text.endsWith("\r\x1b[Kinterrupted\n")).toBe(true);
      expect(code).toBe(130);
      expect(context.stdout.text).toBe("");
      expect(await readdir(folder)).toEqual([]);
    });

    it("inspect plan prints the ops of a step", async () => {
      const { code, stdout, stderr } = await run("inspect", "plan", tiny, ...SIZE);
      expect(stderr).toBe("");
      expect(code).toBe(0);
      expect(stdout).toMatch(/^plan .*ops, .*GFLOP/);
      expect(stdout).toContain("attention");
      const { ops } = JSON.parse((await run("inspect", "plan", tiny, ...SIZE, "--json")).stdout);
      expect(ops.map((op: { kind: string }) => op.kind)).toContain("attention");
    });

    it("inspect model finds no problems and counts what the index says", async () => {
      const { code, stdout } = await run("inspect", "model", tiny, "--json");
      expect(code).toBe(0);
      const { components } = JSON.parse(stdout);
      expect(components).toContainEqual(
        expect.objectContaining({ name: "transformer", files: 2, dtypes: { BF16: expect.any(Number) } }),
      );
    });
  },
);
