// Reads what ptxas said of every kernel of the last build (build/cmake, see cmake/nvcc-report.sh) and fails on any register
// spill, and on wgmma that ptxas serialised. Prints a line for each such kernel, and the figures of all with --all.
import { spawnSync } from "node:child_process";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { basename, join } from "node:path";
import { fileURLToPath } from "node:url";

const root = fileURLToPath(new URL("..", import.meta.url));
const folder = join(root, "build/cmake/kernels");

/** One row for each kernel and architecture of one report. */
export function parseReport(text, file) {
  const kernels = [];
  let current;
  for (const line of text.split("\n")) {
    const entry = line.match(/Compiling entry function '(.+)' for '(sm_\w+)'/);
    if (entry) {
      current = {
        file,
        name: entry[1],
        arch: entry[2],
        registers: 0,
        stack: 0,
        spills: 0,
        serialised: false,
      };
      kernels.push(current);
    }
    if (!current) continue;
    const frame = line.match(/(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads/);
    // Device functions that were not inlined are reported after their kernel; their spills count as its own.
    if (frame) {
      current.stack = Math.max(current.stack, Number(frame[1]));
      current.spills += Number(frame[2]) + Number(frame[3]);
    }
    const registers = line.match(/Used (\d+) registers/);
    if (registers) current.registers = Number(registers[1]);
    if (/wgmma.*serializ/i.test(line)) {
      const culprit = kernels.find((kernel) => line.includes(`'${kernel.name}'`)) ?? current;
      culprit.serialised = true;
    }
  }
  return kernels;
}

function reports() {
  if (!existsSync(folder)) return [];
  return readdirSync(folder, { recursive: true, encoding: "utf8" })
    .filter((path) => path.endsWith(".ptxas"))
    .flatMap((path) => parseReport(readFileSync(join(folder, path), "utf8"), basename(path, ".o.ptxas")));
}

function demangle(names) {
  const run = spawnSync("c++filt", { input: names.join("\n"), encoding: "utf8" });
  return run.status === 0 ? run.stdout.split("\n") : names;
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const kernels = reports();
  if (kernels.length === 0) {
    console.error("no ptxas reports under build/cmake: build with CUDA first (npm run build:native)");
    process.exit(1);
  }
  const bad = kernels.filter((kernel) => kernel.spills > 0 || kernel.serialised);
  const shown = process.argv.includes("--all") ? kernels : bad;
  const names = demangle(shown.map((kernel) => kernel.name));
  shown.forEach((kernel, i) => {
    const serialised = kernel.serialised ? ", wgmma serialised" : "";
    console.log(
      `${kernel.file} ${kernel.arch}: ${kernel.registers} registers, ${kernel.stack} bytes of stack, ` +
        `${kernel.spills} bytes of spills${serialised}: ${names[i]}`,
    );
  });
  console.log(`${kernels.length} kernels compiled, ${bad.length} with spills or serialised wgmma`);
  process.exitCode = bad.length > 0 ? 1 : 0;
}
