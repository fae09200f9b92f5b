// Builds the addon with cmake-js and puts it where node-gyp-build looks: build/Release/fluxwarp.node.
//
//   node scripts/native/build.mjs [--force]      into build/cmake
//   node scripts/native/build.mjs --sanitize     into build/sanitize, with ASan and UBSan and without CUDA
//
// The environment may say FLUX_CUDA=AUTO|ON|OFF and FLUX_CUDA_ARCHITECTURES (see CMakeLists.txt). Nothing is done when the
// sources, the options and the toolchain are those of the last build.
import { spawnSync } from "node:child_process";
import {
  copyFileSync,
  existsSync,
  mkdirSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { createRequire } from "node:module";
import { delimiter, join } from "node:path";
import { fileURLToPath } from "node:url";
import { digestFiles, digestText } from "./digest.mjs";

const root = fileURLToPath(new URL("../..", import.meta.url));
const require = createRequire(import.meta.url);

/**
 * @param {{ sanitize?: boolean, force?: boolean }} [options]
 * @returns {string} path of the addon
 */
export function buildNative({ sanitize = false, force = false } = {}) {
  const folder = join(root, "build", sanitize ? "sanitize" : "cmake");
  const release = sanitize ? join(folder, "build", "Release") : join(root, "build", "Release");
  const addon = join(release, "fluxwarp.node");
  const stamp = join(folder, "built.json");
  const before = readStamp(stamp);
  const now = { toolchain: toolchain(), sources: sources(), options: cmakeOptions(sanitize) };
  if (!force && existsSync(addon) && JSON.stringify(before) === JSON.stringify(now)) {
    console.error(`native build: up to date (${addon})`);
    return addon;
  }
  // CMake cannot change compilers in a configured folder.
  if (force || before?.toolchain !== now.toolchain) rmSync(folder, { recursive: true, force: true });
  rmSync(stamp, { force: true });
  mkdirSync(folder, { recursive: true });
  const definitions = Object.entries(now.options).map(([name, value]) => `--CD${name}=${value}`);
  cmakeJs(["configure", "--out", folder, "--config", "Release", ...definitions]);
  cmakeJs(["build", "--out", folder, "--config", "Release"]);
  install(join(folder, "Release", "fluxwarp.node"), addon);
  writeFileSync(stamp, JSON.stringify(now));
  return addon;
}

function readStamp(path) {
  try {
    return JSON.parse(readFileSync(path, "utf8"));
  } catch {
    return undefined;
  }
}

/** What decides which compilers CMake picks. */
function toolchain() {
  const names = ["CC", "CXX", "CXXFLAGS", "CUDACXX", "CUDAHOSTCXX", "CUDA_PATH", "CUDA_HOME"];
  const folders = [...(process.env.PATH ?? "").split(delimiter), "/usr/local/cuda/bin"];
  const found = folders
    .filter(Boolean)
    .flatMap((folder) => ["nvcc", "c++", "ninja"].map((name) => join(folder, name)))
    .filter((path) => existsSync(path));
  return digestText(
    JSON.stringify([
      names.map((name) => process.env[name] ?? ""),
      found,
      root,
      process.arch,
      process.versions.modules,
    ]),
  );
}

function sources() {
  const versions = ["node-addon-api", "node-api-headers"].map(
    (name) => require(`${name}/package.json`).version,
  );
  return digestText(digestFiles(root, ["CMakeLists.txt", "cmake", "csrc", "kernels"]) + versions.join());
}

function cmakeOptions(sanitize) {
  const options = { FLUX_CUDA: sanitize ? "OFF" : process.env.FLUX_CUDA || "AUTO" };
  if (sanitize) options.FLUX_SANITIZE = "ON";
  const architectures = process.env.FLUX_CUDA_ARCHITECTURES;
  if (architectures && !sanitize) options.FLUX_CUDA_ARCHITECTURES = architectures;
  // A warning stops CI, not a user whose compiler knows more warnings than ours.
  options.CMAKE_COMPILE_WARNING_AS_ERROR = process.env.CI ? "ON" : "OFF";
  return options;
}

function cmakeJs(parameters) {
  const program = require.resolve("cmake-js/bin/cmake-js");
  const run = spawnSync(
    process.execPath,
    [program, ...parameters, "--directory", root, "--log-level", "warn"],
    {
      stdio: ["ignore", 2, 2],
      // npm's own settings, such as nodedir, are not for cmake-js: the headers come from node-api-headers.
      env: { ...process.env, npm_config_nodedir: "" },
    },
  );
  if (run.error) throw run.error;
  if (run.status !== 0) throw new Error(`native build: cmake-js ${parameters[0]} failed`);
}

/** By a rename, so that a process which has the old file loaded keeps it. */
function install(from, to) {
  mkdirSync(join(to, ".."), { recursive: true });
  const temporary = `${to}.${process.pid}`;
  copyFileSync(from, temporary);
  renameSync(temporary, to);
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  try {
    buildNative({ sanitize: process.argv.includes("--sanitize"), force: process.argv.includes("--force") });
  } catch (error) {
    console.error(error instanceof Error ? error.message : error);
    process.exitCode = 1;
  }
}
