// From the start of the process to a PNG on disk, by the command as it is installed: node's own start, the addon, the
// checkpoint, the image, the file. One run warms the disk cache; five are counted.
import { execFileSync } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { timeRow } from "../results.mjs";
import { benchModel, SIDE, STEPS } from "./model.mjs";

const RUNS = 5;
const command = fileURLToPath(new URL("../../dist/cli/main.js", import.meta.url));

export async function bench(options) {
  const { folder, title } = benchModel(options);
  const output = mkdtempSync(join(tmpdir(), "fluxwarp-bench-"));
  const size = ["-W", SIDE, "-H", SIDE, "--steps", STEPS].map(String);
  const parameters = [
    "generate",
    "-m",
    folder,
    "-p",
    "a red circle above a blue square",
    ...size,
    "--seed",
    "7",
  ];
  const once = () => {
    const begin = performance.now();
    const file = join(output, "image.png");
    execFileSync(process.execPath, [command, ...parameters, "--device", "cpu", "-o", file], {
      stdio: ["ignore", "ignore", "inherit"],
    });
    return performance.now() - begin;
  };
  try {
    once();
    const times = Array.from({ length: RUNS }, once).sort((a, b) => a - b);
    return [
      timeRow(`process start to PNG, ${title}, median of ${RUNS}`, times[Math.floor(RUNS / 2)]),
      timeRow(`process start to PNG, ${title}, fastest`, times[0]),
      timeRow(`process start to PNG, ${title}, slowest`, times[RUNS - 1]),
    ];
  } finally {
    rmSync(output, { recursive: true });
  }
}
