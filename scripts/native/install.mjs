// npm's install script. node-gyp-build looks for an addon that loads on this machine (prebuilds/, build/Release) and builds
// one through binding.gyp when there is none. Nothing is downloaded: node-gyp is given a folder instead of Node's headers.
import { spawnSync } from "node:child_process";
import { createRequire } from "node:module";
import { fileURLToPath } from "node:url";

const run = spawnSync(process.execPath, [builder()], {
  cwd: fileURLToPath(new URL("../..", import.meta.url)),
  stdio: "inherit",
  env: { ...process.env, npm_config_nodedir: fileURLToPath(new URL("headers", import.meta.url)) },
});
if (run.error) throw run.error;
if (run.status !== 0) {
  console.error(
    "fluxwarp: there is no prebuilt addon for this machine and building one failed. It needs a C++20 compiler, CMake 3.24, " +
      "Python 3 and make; with FLUX_CUDA=OFF no CUDA toolkit is used.",
  );
}
process.exitCode = run.status ?? 1;

function builder() {
  try {
    return createRequire(import.meta.url).resolve("node-gyp-build/bin.js");
  } catch {
    console.error(
      "fluxwarp: npm links this folder without installing the packages that it needs. Run npm ci --ignore-scripts and npm pack in " +
        "it and install the archive, or run npm start in it first.",
    );
    process.exit(1);
  }
}
