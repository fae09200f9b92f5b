import { access, constants } from "node:fs/promises";
import { dirname } from "node:path";
import type { Command } from "commander";
import { FluxError } from "../errors.js";
import type { CacheOptions, CacheReport } from "../pipelines/cache.js";
import type { FluxPipeline } from "../pipelines/flux-pipeline.js";
import { imageFormatOf } from "../pipelines/image.js";
import type { GenerateOptions } from "../pipelines/options.js";
import type { GenerateResult } from "../pipelines/result.js";
import { addLoadOptions, CHECKPOINT, type LoadFlags, loadPipeline } from "./load-options.js";
import { addLoraOptions, type LoraFlags, loadLoras, requireLoras } from "./lora-options.js";
import { cacheOptions, decimal, seed, wholeNumber } from "./option-values.js";
import { freeOutputPaths, outputPaths } from "./output-paths.js";
import { addPictureOptions, type PictureFlags, picturesOf, requirePictures } from "./picture-options.js";
import { type CommandContext, ProgressLine } from "./terminal.js";

/** Options that give a run its shape; `inspect plan` has them too. */
export interface ShapeFlags {
  height?: number;
  width?: number;
  steps?: number;
  trueCfgScale?: number;
  images?: number;
  maxSequenceLength?: number;
  cache?: CacheOptions;
}

interface GenerateFlags extends LoadFlags, ShapeFlags, PictureFlags, LoraFlags {
  model: string;
  prompt: string;
  prompt2?: string;
  negativePrompt?: string;
  guidanceScale?: number;
  seed?: bigint;
  output?: string;
  quality?: number;
  json?: boolean;
}

export function addGenerateCommand(program: Command, context: CommandContext): void {
  const command = program
    .command("generate")
    .description("Make images from a prompt, and from pictures.")
    .requiredOption("-m, --model <path>", CHECKPOINT)
    .requiredOption("-p, --prompt <text>", "what to draw")
    .option("--prompt2 <text>", "what T5 reads, when it is to differ from what CLIP reads")
    .option("--negative-prompt <text>", "what to avoid; needs --true-cfg-scale above 1")
    .option("-g, --guidance-scale <number>", "embedded guidance (default: 3.5, or 30 for Fill)", decimal)
    .option("--seed <number>", "same seed, same image (default: random)", seed)
    .option(
      "-o, --output <file>",
      "where to save: .png, .jpg, .webp or .avif (default: fluxwarp.png, or the first free fluxwarp-2.png, …)",
    )
    .option("--quality <1-100>", "of .jpg, .webp and .avif (default: 90)", wholeNumber(1))
    .option("--json", "print the result as JSON");
  addPictureOptions(command);
  addLoraOptions(command);
  addShapeOptions(command);
  addLoadOptions(command);
  command
    .addHelpText(
      "after",
      `
Examples:
  $ fluxwarp generate -m FLUX.1-schnell -p "a cat holding a sign that says hello world" --steps 4
  $ fluxwarp generate -m FLUX.1-dev -p "a harbour at dawn" -W 1344 -H 768 --steps 28 --seed 7 -o harbour.webp
  $ fluxwarp generate -m FLUX.1-dev -p "a portrait" --negative-prompt "blurry" --true-cfg-scale 4
  $ fluxwarp generate -m FLUX.1-dev -p "a fox in the snow" --cache 0.08
  $ fluxwarp generate -m FLUX.1-dev -p "a fox" --lora ink.safetensors --lora snow.safetensors:0.6
  $ fluxwarp generate -m FLUX.1-dev -p "an oil painting" --image photo.jpg --strength 0.7
  $ fluxwarp generate -m FLUX.1-Fill-dev -p "a red door" --image house.jpg --mask door.png
  $ fluxwarp generate -m FLUX.1-Kontext-dev -p "make it winter" --image house.jpg -g 2.5
  $ fluxwarp generate -m FLUX.1-Depth-dev -p "a robot" --control-image depth.png -g 10
  $ fluxwarp generate -m flux1-dev-fp8.safetensors --tokenizers FLUX.1-dev -p "a lighthouse"
  $ fluxwarp generate -m FLUX.1-schnell -p "a fox" --images 4 -o fox.png     # fox-1.png … fox-4.png`,
    )
    .action((flags: GenerateFlags) => generate(flags, context));
}

export function addShapeOptions(command: Command): void {
  command
    .option(
      "-H, --height <pixels>",
      "a multiple of 16 (default: the picture's, or the model's)",
      wholeNumber(1),
    )
    .option(
      "-W, --width <pixels>",
      "a multiple of 16 (default: the picture's, or the model's)",
      wholeNumber(1),
    )
    .option(
      "-s, --steps <number>",
      "denoising steps (default: 28; 4 for schnell, 50 for Fill)",
      wholeNumber(1),
    )
    .option("--true-cfg-scale <number>", "guidance by a negative prompt, at twice the time", decimal)
    .option("-n, --images <number>", "images to make", wholeNumber(1))
    .option("--max-sequence-length <tokens>", "T5 tokens of the prompt, up to 512", wholeNumber(1))
    .option(
      "--cache <settings>",
      "let steps that change little skip blocks: a threshold such as 0.08, or threshold=0.08,warmupSteps=4,…",
      cacheOptions,
    );
}

/** The shape's options under the pipeline's names. */
export function shapeOf(flags: ShapeFlags): GenerateOptions {
  return {
    height: flags.height,
    width: flags.width,
    numInferenceSteps: flags.steps,
    trueCfgScale: flags.trueCfgScale,
    numImagesPerPrompt: flags.images,
    maxSequenceLength: flags.maxSequenceLength,
    cache: flags.cache,
  };
}

async function generate(flags: GenerateFlags, context: CommandContext): Promise<void> {
  if (flags.output !== undefined) imageFormatOf(flags.output);
  await requireWritableFolder(flags.output ?? ".");
  await requirePictures(flags);
  await requireLoras(flags);
  const progress = new ProgressLine(context.stderr);
  const started = performance.now();
  let pipeline: FluxPipeline | undefined;
  try {
    pipeline = await loadPipeline(flags.model, flags, context, progress);
    const result = await pipeline.generate({
      ...shapeOf(flags),
      ...picturesOf(flags),
      ...(await loadLoras(pipeline, flags)),
      prompt: flags.prompt,
      prompt2: flags.prompt2,
      negativePrompt: flags.negativePrompt,
      guidanceScale: flags.guidanceScale,
      seed: flags.seed,
      signal: context.signal,
      onStep: ({ step, total }) => progress.show(`step ${step} of ${total}`, step / total),
    });
    const { length } = result.images;
    const paths =
      flags.output === undefined ? await freeOutputPaths(length) : outputPaths(flags.output, length);
    for (const [index, image] of result.images.entries()) {
      context.signal.throwIfAborted();
      await image.save(paths[index], { quality: flags.quality });
    }
    progress.clear();
    const seconds = (performance.now() - started) / 1000;
    const images = result.images.map(({ width, height }, index) => ({ path: paths[index], width, height }));
    context.stdout.write(describe(images, result, seconds, flags.json === true));
  } finally {
    progress.clear();
    pipeline?.dispose();
  }
}

function describe(
  images: readonly { path: string; width: number; height: number }[],
  { seed: usedSeed, cache }: GenerateResult,
  seconds: number,
  asJson: boolean,
): string {
  if (asJson) {
    // As text: a seed may be beyond the exact numbers of JSON's readers.
    const result = { images, seed: String(usedSeed), seconds: Number(seconds.toFixed(3)), cache };
    return `${JSON.stringify(result, null, 2)}\n`;
  }
  const lines = images.map(({ path, width, height }) => `${path}  ${width}×${height}`);
  return `${lines.join("\n")}\nseed ${usedSeed}, ${seconds.toFixed(1)} s${cache ? `, ${skips(cache)}` : ""}\n`;
}

function skips({ skippedSteps, steps, computedBlocks, totalBlocks }: CacheReport): string {
  return `${skippedSteps} of ${steps.length} steps from the cache, ${computedBlocks} of ${totalBlocks} blocks computed`;
}

/** Before minutes of work, not after them. */
async function requireWritableFolder(output: string): Promise<void> {
  const folder = dirname(output);
  try {
    await access(folder, constants.W_OK);
  } catch (cause) {
    const isMissing = (cause as NodeJS.ErrnoException).code === "ENOENT";
    throw new FluxError(
      "ERR_FLUX_IO",
      `${output} cannot be written: the folder ${folder} ${isMissing ? "is not there. Create it first." : "may not be written to. Save elsewhere."}`,
      { cause },
    );
  }
}
