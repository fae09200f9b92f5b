// Puts the addon into prebuilds/<platform>-<arch>/ as prebuildify does, stripped and tagged with its libc, and checks it.
// The CUDA kernels are in it when nvcc is there; FLUX_CUDA=ON, which a release uses, fails where it is not.
import { readdirSync, rmSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";
import { checkBinary } from "./check-binary.mjs";
import { main, root, run } from "./ready.mjs";

const require = createRequire(import.meta.url);

await main(() => {
  rmSync(join(root, "prebuilds"), { recursive: true, force: true });
  const status = run(process.execPath, [
    require.resolve("prebuildify/bin.js"),
    "--napi",
    "--strip",
    "--tag-libc",
    "--name=fluxwarp",
    `--node-gyp=${join(root, "scripts/native/node-gyp-shim.mjs")}`,
  ]);
  if (status !== 0) return status;
  const folder = join(root, "prebuilds", `${process.platform}-${process.arch}`);
  for (const file of readdirSync(folder)) checkBinary(join(folder, file));
  return 0;
});
