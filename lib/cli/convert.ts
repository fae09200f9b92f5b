import { type Command, Option } from "commander";
import type { ConvertOptions } from "../pipelines/convert.js";
import { addPartOptions, CHECKPOINT, type PartFlags, partsOf, variantOption } from "./load-options.js";
import { type CommandContext, formatBytes, ProgressLine } from "./terminal.js";

interface ConvertFlags extends PartFlags {
  precision: NonNullable<ConvertOptions["precision"]>;
  textEncoderPrecision?: ConvertOptions["textEncoderPrecision"];
  variant?: ConvertOptions["variant"];
  json?: boolean;
}

export function addConvertCommand(program: Command, context: CommandContext): void {
  const precisions = ["fp8", "bf16"];
  const command = program
    .command("convert")
    .description("Write a checkpoint as a folder whose weights are in fp8, which loads without work.")
    .argument("<model>", CHECKPOINT)
    .argument("<folder>", "where to write; must not be there yet")
    .addOption(new Option("--precision <name>", "of the linears").choices(precisions).default("fp8"))
    .addOption(
      new Option("--text-encoder-precision <name>", "T5's, where it is to differ").choices(precisions),
    )
    .addOption(variantOption())
    .option("--json", "print the result as JSON");
  addPartOptions(command);
  command
    .addHelpText(
      "after",
      `
Examples:
  $ fluxwarp convert FLUX.1-dev FLUX.1-dev-fp8
  $ fluxwarp convert flux1-dev.safetensors FLUX.1-dev-fp8 --config FLUX.1-dev
  $ fluxwarp convert FLUX.1-dev FLUX.1-dev-fp8 --text-encoder-precision bf16`,
    )
    .action((path: string, folder: string, flags: ConvertFlags) =>
      convertModel(path, folder, flags, context),
    );
}

async function convertModel(
  path: string,
  folder: string,
  flags: ConvertFlags,
  { stdout, stderr, signal }: CommandContext,
): Promise<void> {
  const { convert } = await import("../pipelines/convert.js");
  const parts = await partsOf(path, flags);
  const progress = new ProgressLine(stderr);
  const started = performance.now();
  try {
    const bytes = await convert(path, folder, {
      ...parts,
      precision: flags.precision,
      textEncoderPrecision: flags.textEncoderPrecision,
      variant: flags.variant,
      signal,
      onProgress: ({ component, loadedBytes, totalBytes }) => {
        progress.show(`writing ${component}`, loadedBytes / totalBytes);
      },
    });
    progress.clear();
    const seconds = Number(((performance.now() - started) / 1000).toFixed(3));
    stdout.write(
      flags.json
        ? `${JSON.stringify({ folder, bytes, seconds }, null, 2)}\n`
        : `${folder}  ${formatBytes(bytes)}, ${seconds.toFixed(1)} s\n`,
    );
  } finally {
    progress.clear();
  }
}
