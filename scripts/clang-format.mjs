// clang-format over the C++ and CUDA sources: --check (the default) or --write. The binary comes with the npm package.
import { spawnSync } from "node:child_process";
import { existsSync, readdirSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const root = fileURLToPath(new URL("..", import.meta.url));
const require = createRequire(import.meta.url);
const program = join(dirname(require.resolve("clang-format-node/package.json")), "build/cli.js");

const files = ["csrc", "kernels", "test", "bench"]
  .filter((folder) => existsSync(join(root, folder)))
  .flatMap((folder) =>
    readdirSync(join(root, folder), { recursive: true, encoding: "utf8" })
      .filter((path) => /\.(cc|h|cu|cuh)$/.test(path))
      .map((path) => `${folder}/${path}`),
  )
  .sort();
const mode = process.argv.includes("--write") ? ["-i"] : ["--dry-run", "-Werror"];
const run = spawnSync(process.execPath, [program, ...mode, ...files], { cwd: root, stdio: "inherit" });
if (run.error) throw run.error;
console.log(
  `clang-format: ${files.length} files ${run.status === 0 ? "in order" : "checked, some need npm run format"}`,
);
process.exitCode = run.status ?? 1;
