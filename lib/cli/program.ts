import { readFileSync } from "node:fs";
import { Command, CommanderError } from "commander";
import { FluxError } from "../errors.js";
import { addConvertCommand } from "./convert.js";
import { addGenerateCommand } from "./generate.js";
import { addInspectCommand } from "./inspect.js";
import { addSynthCommand } from "./synth.js";
import type { CommandContext } from "./terminal.js";

/** Exit codes of the `fluxwarp` command. */
export const EXIT = { ok: 0, failure: 1, usage: 2, interrupted: 130 } as const;

/**
 * Runs one command line.
 *
 * @param args What stands after `fluxwarp`.
 * @returns The exit code: 0, 1 on a failure, 2 for a wrong command line, 130 when it was interrupted.
 */
export async function runCli(args: readonly string[], context: CommandContext): Promise<number> {
  try {
    await createProgram(context).parseAsync([...args], { from: "user" });
    return EXIT.ok;
  } catch (error) {
    return report(error, context);
  }
}

function createProgram(context: CommandContext): Command {
  const program = new Command("fluxwarp")
    .description("Run FLUX.1 models from the command line.")
    .version(packageVersion(), "-v, --version")
    .exitOverride()
    .configureOutput({
      writeOut: (text) => context.stdout.write(text),
      writeErr: (text) => context.stderr.write(text),
    })
    .showHelpAfterError("(add --help for the options and examples)")
    .addHelpText(
      "after",
      `
Examples:
  $ fluxwarp generate --model path/to/FLUX.1-schnell --prompt "a cat" --output cat.png
  $ fluxwarp inspect model path/to/FLUX.1-schnell
  $ fluxwarp inspect gpu --json

Exit codes: 0 done, 1 failed, 2 wrong command line, 130 interrupted.`,
    );
  addGenerateCommand(program, context);
  addInspectCommand(program, context);
  addConvertCommand(program, context);
  addSynthCommand(program, context);
  return program;
}

function report(error: unknown, { stderr, signal }: CommandContext): number {
  // Commander has printed its message already.
  if (error instanceof CommanderError) return error.exitCode === 0 ? EXIT.ok : EXIT.usage;
  if (signal.aborted) {
    stderr.write("interrupted\n");
    return EXIT.interrupted;
  }
  if (FluxError.is(error)) {
    stderr.write(`error: ${error.message} (${error.code})\n`);
    return FluxError.is(error, "ERR_FLUX_BAD_ARGUMENT") ? EXIT.usage : EXIT.failure;
  }
  // Not foreseen: the stack is what a report of it needs.
  stderr.write(`error: ${error instanceof Error ? error.stack : String(error)}\n`);
  return EXIT.failure;
}

function packageVersion(): string {
  const file = new URL("../../package.json", import.meta.url);
  return (JSON.parse(readFileSync(file, "utf8")) as { version: string }).version;
}
