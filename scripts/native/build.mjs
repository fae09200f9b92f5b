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
 * @param {{ sanitize?: boolean, tests?: boolean, force?: boolean }} [options] tests: flux_cpu_tests too
 * @returns {string} path of the addon
 */
export function buildNative({ sanitize = false, tests = sanitize, force = false } = {}) {
  const folder = join(root, "build", sanitize ? "sanitize" : "cmake");
  const release = sanitize ? join(folder, "build", "Release") : join(root, "build", "Release");
  const addon = join(release, "fluxwarp.node");
  const stamp = join(folder, "built");
  const options = cmakeOptions(sanitize, tests);
  const now = digestText(JSON.stringify([toolchain(), sources(tests), options]));
  if (!force && existsSync(addon) && read(stamp) === now) {
    console.error(`native build: up to date (${addon})`);
    return addon;
  }
  prepare(folder, force);
  rmSync(stamp, { force: true });
  const definitions = Object.entries(options).map(([name, value]) => `--CD${name}=${value}`);
  cmakeJs(["configure", "--out", folder, "--config", "Release", ...definitions]);
  cmakeJs(["build", "--out", folder, "--config", "Release"]);
  install(join(folder, "Release", "fluxwarp.node"), addon);
  writeFileSync(stamp, now);
  return addon;
}

/** Empties the folder when it was configured for another toolchain: CMake cannot change compilers in place. */
function prepare(folder, force) {
  const stamp = join(folder, "toolchain");
  if (force || read(stamp) !== toolchain()) rmSync(folder, { recursive: true, force: true });
  mkdirSync(folder, { recursive: true });
  writeFileSync(stamp, toolchain());
}

function read(path) {
  return existsSync(path) ? readFileSync(path, "utf8") : undefined;
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

function sources(tests) {
  const versions = ["node-addon-api", "node-api-headers"].map(
    (name) => require(`${name}/package.json`).version,
  );
  const folders = ["CMakeLists.txt", "cmake", "csrc", "kernels", ...(tests ? ["test/native"] : [])];
  return digestText(digestFiles(root, folders) + versions.join());
}

function cmakeOptions(sanitize, tests) {
  const options = { FLUX_CUDA: sanitize ? "OFF" : process.env.FLUX_CUDA || "AUTO" };
  options.FLUX_NATIVE_TESTS = tests ? "ON" : "OFF";
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
