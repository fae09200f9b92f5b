import { type Command, Option } from "commander";
import type { FluxConfig } from "../loaders/pipeline-configs.js";
import type { WrittenPrecisions } from "../pipelines/convert.js";
import { seed as parseSeed, wholeNumber } from "./option-values.js";
import type { CommandContext } from "./terminal.js";
import { writeFolder } from "./write-folder.js";

interface SynthFlags {
  seed?: bigint;
  doubleBlocks?: number;
  singleBlocks?: number;
  tokenizers?: string;
  precision: NonNullable<WrittenPrecisions["precision"]>;
  json?: boolean;
}

export function addSynthCommand(program: Command, context: CommandContext): void {
  program
    .command("synth")
    .description("Write a checkpoint with random weights, for benchmarks and tests of loading.")
    .argument("<config>", "flux1-dev, flux1-schnell, or a folder with configs in diffusers' layout")
    .argument("<folder>", "where to write; must not be there yet")
    .option("--seed <number>", "of the weights (default: 0)", parseSeed)
    .option("--double-blocks <number>", "instead of the config's", wholeNumber(1))
    .option("--single-blocks <number>", "instead of the config's", wholeNumber(1))
    .option(
      "--tokenizers <folder>",
      "with tokenizer/ and tokenizer_2/ (default: the config's, or a small vocabulary)",
    )
    .addOption(new Option("--precision <name>", "of the linears").choices(["fp8", "bf16"]).default("bf16"))
    .option("--json", "print the result as JSON")
    .addHelpText(
      "after",
      `
Examples:
  $ fluxwarp synth flux1-dev made-up-dev                   # 34 GB
  $ fluxwarp synth flux1-dev made-up --double-blocks 2 --single-blocks 4
  $ fluxwarp generate -m made-up -p "noise" -W 512 -H 512`,
    )
    .action((config: string, folder: string, flags: SynthFlags) => synth(config, folder, flags, context));
}

async function synth(
  base: string,
  folder: string,
  flags: SynthFlags,
  context: CommandContext,
): Promise<void> {
  const { synthesise } = await import("../pipelines/synthesise.js");
  const transformer = {
    ...(flags.doubleBlocks !== undefined && { num_layers: flags.doubleBlocks }),
    ...(flags.singleBlocks !== undefined && { num_single_layers: flags.singleBlocks }),
  };
  const config: FluxConfig = Object.keys(transformer).length === 0 ? base : { base, transformer };
  const { seed, tokenizers, precision } = flags;
  await writeFolder(folder, flags, context, (options) =>
    synthesise(config, folder, { seed, tokenizers, precision, ...options }),
  );
}
