import { type Command, Option } from "commander";
import type { ConvertOptions } from "../pipelines/convert.js";
import { addPartOptions, CHECKPOINT, type PartFlags, partsOf, variantOption } from "./load-options.js";
import type { CommandContext } from "./terminal.js";
import { writeFolder } from "./write-folder.js";

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
  context: CommandContext,
): Promise<void> {
  const { convert } = await import("../pipelines/convert.js");
  const { precision, textEncoderPrecision, variant } = flags;
  const parts = await partsOf(path, flags);
  await writeFolder(folder, flags, context, (options) =>
    convert(path, folder, { ...parts, precision, textEncoderPrecision, variant, ...options }),
  );
}
