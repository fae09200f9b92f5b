// Checks that an addon can be shipped: prints its size and the newest glibc that it needs, and fails when that is newer than
// this machine's own, when it needs a library that is not part of glibc or a symbol that nothing defines, when it exports more
// than Node-API's entry points, or when code for a newer instruction set could be linked into the rest of the program.
//
//   node scripts/check-binary.mjs FILE.node
import { spawnSync } from "node:child_process";
import { existsSync, readdirSync, statSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

const root = fileURLToPath(new URL("..", import.meta.url));
const allowedLibraries = /^(lib(c|m|dl|rt|pthread)\.so\.\d|ld-linux-.*\.so\.\d)$/;
const allowedExports = /^(napi_register_module_v\d+|node_api_module_get_api_version_v1)$/;

/** @param {string} path of a .node file; throws when it must not be shipped */
export function checkBinary(path) {
  const problems = [];
  const mebibytes = (statSync(path).size / 2 ** 20).toFixed(2);
  console.log(`${path}: ${mebibytes} MiB`);

  const needed = newestGlibc(path);
  const own = process.report.getReport().header.glibcVersionRuntime;
  console.log(`glibc: needs ${needed}, this machine has ${own ?? "another libc"}`);
  if (own && compareVersions(needed, own) > 0)
    problems.push(`it needs glibc ${needed}, this machine declares ${own}`);

  const libraries = lines("readelf", ["-d", path]).flatMap(
    (line) => line.match(/\(NEEDED\).*\[(.+)\]/)?.[1] ?? [],
  );
  console.log(`libraries: ${libraries.join(", ")}`);
  for (const name of libraries) if (!allowedLibraries.test(name)) problems.push(`it needs ${name}`);

  const exported = lines("nm", ["-D", "--defined-only", "--format=posix", path]).map(
    (line) => line.split(/[ @]/)[0],
  );
  for (const name of exported) if (!allowedExports.test(name)) problems.push(`it exports ${name}`);

  // Undefined in our own sources, and found by nobody until the addon is loaded.
  const missing = lines("nm", ["-D", "--undefined-only", "--format=posix", path]).flatMap(
    (line) => line.match(/^([^ @]+) U/)?.[1] ?? [],
  );
  for (const name of missing) if (!/^(napi|node_api)_/.test(name)) problems.push(`nothing defines ${name}`);

  problems.push(...sharedSimdCode(join(root, "build/cmake/CMakeFiles")));
  if (problems.length > 0) throw new Error(`${path} must not be shipped:\n  ${problems.join("\n  ")}`);
}

function newestGlibc(path) {
  const versions = lines("objdump", ["-T", path]).flatMap(
    (line) => line.match(/GLIBC_(\d[\d.]*)/)?.[1] ?? [],
  );
  return versions.sort(compareVersions).at(-1) ?? "none";
}

/** Weak code of the objects built for AVX2 and AVX-512 outside their own namespace: the linker may keep that copy for all. */
function sharedSimdCode(folder) {
  if (!existsSync(folder)) return [];
  const problems = [];
  for (const variant of ["avx2", "avx512"]) {
    const objects = join(folder, `flux_simd_${variant}.dir`, "csrc/cpu/simd");
    if (!existsSync(objects)) continue;
    for (const object of readdirSync(objects).filter((name) => name.endsWith(".o"))) {
      for (const line of lines("nm", ["-C", "--defined-only", join(objects, object)])) {
        const symbol = line.match(/^\S* [Wu] (.+)$/)?.[1];
        if (symbol && !symbol.includes(`::${variant}::`)) {
          problems.push(`${variant}/${object} shares the code of ${symbol} with the rest of the program`);
        }
      }
    }
  }
  return problems;
}

function lines(command, parameters) {
  const run = spawnSync(command, parameters, { encoding: "utf8", maxBuffer: 2 ** 28 });
  if (run.error) throw run.error;
  if (run.status !== 0) throw new Error(`${command} ${parameters.join(" ")} failed: ${run.stderr}`);
  return run.stdout.split("\n").filter(Boolean);
}

function compareVersions(a, b) {
  const left = a.split(".").map(Number);
  const right = b.split(".").map(Number);
  for (let i = 0; i < Math.max(left.length, right.length); i++) {
    const difference = (left[i] ?? 0) - (right[i] ?? 0);
    if (difference !== 0) return difference;
  }
  return 0;
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  if (process.argv.length !== 3) throw new Error("usage: node scripts/check-binary.mjs FILE.node");
  checkBinary(process.argv[2]);
}
