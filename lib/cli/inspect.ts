import type { Command } from "commander";
import { FluxError } from "../errors.js";
import type { DeviceInfo } from "../runtime/device.js";
import { addShapeOptions, type ShapeFlags, shapeOf } from "./generate.js";
import { addLoadOptions, CHECKPOINT, type LoadFlags, loadPipeline } from "./load-options.js";
import { alignColumns, type CommandContext, formatBytes, ProgressLine } from "./terminal.js";

interface JsonFlag {
  json?: boolean;
}

interface PlanFlags extends JsonFlag, LoadFlags, ShapeFlags {
  profile?: boolean;
}

export function addInspectCommand(program: Command, context: CommandContext): void {
  const inspect = program
    .command("inspect")
    .description("Show what a model, an adapter, this machine or a plan consists of.");

  inspect
    .command("model")
    .description(
      "List a checkpoint's parts: classes, parameters, dtypes, sizes, and every tensor that is missing or wrong.",
    )
    .argument("<path>", "FLUX.1 checkpoint in diffusers' layout, or a .safetensors file")
    .option("--json", "print as JSON")
    .addHelpText(
      "after",
      `
Examples:
  $ fluxwarp inspect model path/to/FLUX.1-dev
  $ fluxwarp inspect model flux1-dev.safetensors --json`,
    )
    .action((path: string, flags: JsonFlag) => printModel(path, flags, context));

  inspect
    .command("lora")
    .description(
      "Say what an adapter file holds: format, ranks, layers, scales, and the tensors that are not used.",
    )
    .argument("<path>", "LoRA file, or a folder that holds one")
    .option("--json", "print as JSON")
    .addHelpText(
      "after",
      `
Examples:
  $ fluxwarp inspect lora style.safetensors
  $ fluxwarp inspect lora style.safetensors --json`,
    )
    .action((path: string, flags: JsonFlag) => printLora(path, flags, context));

  inspect
    .command("gpu")
    .description("List the processor and the GPUs, and say whether they can be used.")
    .option("--json", "print as JSON")
    .addHelpText(
      "after",
      `
Examples:
  $ fluxwarp inspect gpu
  $ fluxwarp inspect gpu --json`,
    )
    .action((flags: JsonFlag) => printDevices(flags, context));

  const plan = inspect
    .command("plan")
    .description("Print the ops of one denoising step: shapes, FLOPs, bytes, memory.")
    .argument("<model>", CHECKPOINT)
    .option("--profile", "run a step and print each op's time")
    .option("--json", "print as JSON");
  addShapeOptions(plan);
  addLoadOptions(plan);
  plan
    .addHelpText(
      "after",
      `
Examples:
  $ fluxwarp inspect plan path/to/FLUX.1-schnell
  $ fluxwarp inspect plan path/to/FLUX.1-schnell --profile
  $ fluxwarp inspect plan path/to/FLUX.1-dev -W 1024 -H 1024 --json`,
    )
    .action((model: string, flags: PlanFlags) => printPlan(model, flags, context));
}

async function printModel(path: string, { json }: JsonFlag, { stdout }: CommandContext): Promise<void> {
  const { formatModelReport, inspectModel } = await import("./model-report.js");
  const report = await inspectModel(path);
  stdout.write(json ? `${JSON.stringify(report, null, 2)}\n` : formatModelReport(report));
  if (report.problems.length > 0) {
    throw new FluxError(
      "ERR_FLUX_BAD_WEIGHTS",
      `${path} cannot be used as it is: ${report.problems.length} problem(s), listed above.`,
    );
  }
}

async function printLora(path: string, { json }: JsonFlag, { stdout }: CommandContext): Promise<void> {
  const { formatLoraReport, inspectLora } = await import("./lora-report.js");
  const report = await inspectLora(path);
  stdout.write(json ? `${JSON.stringify(report, null, 2)}\n` : formatLoraReport(report));
}

async function printDevices({ json }: JsonFlag, { stdout }: CommandContext): Promise<void> {
  const { deviceInfo } = await import("../runtime/device.js");
  const info = deviceInfo();
  stdout.write(json ? `${JSON.stringify(info, null, 2)}\n` : formatDevices(info));
}

/** A processor's line and a GPU's line each, with the reason where none can be used. */
export function formatDevices({ cpu, cuda }: DeviceInfo): string {
  const lines = [`cpu: ${cpu.cores} cores, ${cpu.simd}`];
  lines.push(cuda.available ? "cuda: available" : `cuda: not available: ${cuda.reason}`);
  if (cuda.devices.length > 0) {
    const rows = cuda.devices.map((device) => [
      `  cuda:${device.index}`,
      device.name,
      `compute capability ${device.computeCapability}`,
      `${device.multiprocessors} multiprocessors`,
      formatBytes(device.memoryBytes),
    ]);
    lines.push(alignColumns(rows));
  }
  return `${lines.join("\n")}\n`;
}

async function printPlan(model: string, flags: PlanFlags, context: CommandContext): Promise<void> {
  const progress = new ProgressLine(context.stderr);
  try {
    const pipeline = await loadPipeline(model, flags, context, progress);
    try {
      const options = { ...shapeOf(flags), signal: context.signal };
      const plan = flags.profile ? await pipeline.profile(options) : pipeline.plan(options);
      progress.clear();
      context.stdout.write(`${flags.json ? JSON.stringify(plan.describe(), null, 2) : plan}\n`);
    } finally {
      pipeline.dispose();
    }
  } finally {
    progress.clear();
  }
}
