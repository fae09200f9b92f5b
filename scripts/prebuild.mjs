// Puts the addon into prebuilds/<platform>-<arch>/ as prebuildify does, stripped and tagged with its libc, and checks it.
// The CUDA kernels are in it when nvcc is there; FLUX_CUDA=ON, which a release uses, fails where it is not.
import { spawnSync } from "node:child_process";
import { readdirSync, rmSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { checkBinary } from "./check-binary.mjs";

const root = fileURLToPath(new URL("..", import.meta.url));
const require = createRequire(import.meta.url);

rmSync(join(root, "prebuilds"), { recursive: true, force: true });
const run = spawnSync(
  process.execPath,
  [
    require.resolve("prebuildify/bin.js"),
    "--napi",
    "--strip",
    "--tag-libc",
    "--name=fluxwarp",
    `--node-gyp=${join(root, "scripts/native/node-gyp-shim.mjs")}`,
  ],
  { cwd: root, stdio: "inherit" },
);
if (run.error) throw run.error;
if (run.status !== 0) process.exit(run.status ?? 1);
const folder = join(root, "prebuilds", `${process.platform}-${process.arch}`);
for (const file of readdirSync(folder)) checkBinary(join(folder, file));
