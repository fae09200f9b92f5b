// Brings a clone to readiness: npm packages, native addon, compiled TypeScript; each only when it is out of date.
// No dependencies: this runs before there are any.
import { spawnSync } from "node:child_process";
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { digestFiles } from "./native/digest.mjs";

export const root = fileURLToPath(new URL("..", import.meta.url));

/**
 * Throws an Error with one sentence when a part cannot be made.
 * @param {{ native?: boolean, tests?: boolean }} [parts] native: false leaves the addon out, for who builds another; tests:
 *   the native tests too
 */
export async function ready({ native = true, tests = false } = {}) {
  checkNode();
  const release = lock();
  try {
    installPackages();
    if (native) {
      const { buildNative } = await import("./native/build.mjs");
      buildNative({ tests });
    }
    compileTypeScript();
  } finally {
    release();
  }
}

/** Runs a command with this terminal and returns its exit status. */
export function run(command, parameters, env = {}) {
  const child = spawnSync(command, parameters, {
    cwd: root,
    stdio: "inherit",
    env: { ...process.env, ...env },
  });
  if (child.error) throw child.error;
  return child.status ?? 1;
}

/** For the scripts that end with another program: its status is theirs, and an error is one line. */
export async function main(job) {
  try {
    process.exitCode = await job();
  } catch (error) {
    console.error(`fluxwarp: ${error instanceof Error ? error.message : error}`);
    process.exitCode = 1;
  }
}

function checkNode() {
  const [major, minor] = process.versions.node.split(".").map(Number);
  if (major < 20 || (major === 20 && minor < 19)) {
    throw new Error(`Node ${process.versions.node} is too old: 20.19 or newer is needed`);
  }
}

function installPackages() {
  const problem = packagesProblem();
  if (problem === undefined) return;
  console.error(`packages: npm ci (${problem})`);
  // No package that is used here needs its install script, and the addon's build follows.
  const parameters = ["ci", "--ignore-scripts", "--no-audit", "--no-fund"];
  const npm = process.env.npm_execpath;
  const status = npm?.endsWith(".js") ? run(process.execPath, [npm, ...parameters]) : run("npm", parameters);
  if (status !== 0) throw new Error("npm ci failed");
}

/** Compares what is installed with package-lock.json; undefined when they agree. */
function packagesProblem() {
  const installed = readJson(join(root, "node_modules/.package-lock.json"))?.packages;
  if (installed === undefined) return "nothing is installed";
  const wanted = readJson(join(root, "package-lock.json")).packages;
  for (const [path, entry] of Object.entries(wanted)) {
    if (path === "" || (entry.optional && installed[path] === undefined)) continue;
    if (installed[path]?.version !== entry.version) return `${path} is not at ${entry.version}`;
  }
  return undefined;
}

function compileTypeScript() {
  const stamp = join(root, "build/typescript");
  const now = digestFiles(root, ["lib", "tsconfig.json", "tsconfig.build.json", "package-lock.json"]);
  if (existsSync(join(root, "dist")) && read(stamp) === now) return;
  console.error("typescript: compiling lib/ to dist/");
  if (run(process.execPath, ["node_modules/typescript/bin/tsc", "-p", "tsconfig.build.json"]) !== 0) {
    throw new Error("the TypeScript in lib/ does not compile");
  }
  removeOrphans("");
  writeFileSync(stamp, now);
}

/** Files of dist/ whose source is gone would still be imported and packed. */
function removeOrphans(folder) {
  for (const entry of readdirSync(join(root, "dist", folder), { withFileTypes: true })) {
    const path = join(folder, entry.name);
    if (entry.isDirectory()) removeOrphans(path);
    else if (!existsSync(join(root, "lib", path.replace(/(\.d\.ts|\.js)$/, ".ts")))) {
      rmSync(join(root, "dist", path));
    }
  }
}

/** One readiness at a time in a checkout. Returns what releases the lock. */
function lock() {
  const path = join(root, "build/.ready");
  mkdirSync(join(root, "build"), { recursive: true });
  for (let told = false; ; told = true) {
    try {
      writeFileSync(path, String(process.pid), { flag: "wx" });
      return () => rmSync(path, { force: true });
    } catch (error) {
      if (error.code !== "EEXIST") throw error;
    }
    const holder = Number(read(path));
    if (holder > 0 && !isAlive(holder)) rmSync(path, { force: true });
    else if (!told) console.error(`waiting for process ${holder}, which is building in this checkout`);
    Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 200);
  }
}

function isAlive(pid) {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return error.code === "EPERM";
  }
}

function read(path) {
  try {
    return readFileSync(path, "utf8");
  } catch {
    return undefined;
  }
}

function readJson(path) {
  const text = read(path);
  return text === undefined ? undefined : JSON.parse(text);
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  await main(async () => {
    await ready();
    return 0;
  });
}
