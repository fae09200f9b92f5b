// npm run test:pack: packs the package, installs the tarball in an empty folder, and makes an image there with a program of
// ten lines. Twice: with the prebuilt addon in the tarball (when prebuilds/ is there), and built from source by npm install.
import { execFileSync } from "node:child_process";
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { main, ready, root } from "./ready.mjs";

/** The model comes with the package. */
const packedModel = "node_modules/fluxwarp/models/tiny";

const program = `import { FluxPipeline } from "fluxwarp";

const pipe = await FluxPipeline.fromPretrained("${packedModel}", { device: "cpu" });
const { images } = await pipe.generate({
  prompt: "a red circle above a blue square",
  numInferenceSteps: 2,
  seed: 7,
});
await images[0].save("image.png");
pipe.dispose();
`;

const pngSignature = Buffer.from([0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a]);

function execute(folder, command, parameters, env = {}) {
  const options = { cwd: folder, encoding: "utf8", stdio: ["ignore", "pipe", "inherit"] };
  return execFileSync(command, parameters, { ...options, env: { ...process.env, ...env } });
}

function expect(condition, sentence) {
  if (!condition) throw new Error(sentence);
}

/** Installs the tarball in an empty folder and uses it there; returns the seconds that it took. */
function check(tarball, folder, env) {
  const begin = performance.now();
  writeFileSync(
    join(folder, "package.json"),
    JSON.stringify({ name: "empty", private: true, type: "module" }),
  );
  execute(folder, "npm", ["install", tarball, "--no-audit", "--no-fund"], env);
  const node = (...parameters) => execute(folder, process.execPath, parameters);

  const required = node("--input-type=commonjs", "-p", 'typeof require("fluxwarp").FluxPipeline').trim();
  expect(required === "function", 'require("fluxwarp") does not give FluxPipeline');
  const help = node("node_modules/fluxwarp/dist/cli/main.js", "--help");
  expect(help.includes("generate"), "fluxwarp --help does not name generate");

  const plan = node("node_modules/fluxwarp/dist/cli/main.js", "inspect", "plan", packedModel);
  expect(plan.includes("qkvLinear"), "fluxwarp inspect plan prints no plan of the packed model");

  writeFileSync(join(folder, "program.mjs"), program);
  node("program.mjs");
  const bytes = readFileSync(join(folder, "image.png"));
  expect(bytes.subarray(0, 8).equals(pngSignature), "the program of ten lines wrote no PNG");
  return ((performance.now() - begin) / 1000).toFixed(1);
}

await main(async () => {
  await ready({ native: false });
  const work = mkdtempSync(join(tmpdir(), "fluxwarp-pack-"));
  try {
    execute(root, "npm", ["pack", "--ignore-scripts", "--pack-destination", work]);
    const tarball = join(
      work,
      readdirSync(work).find((name) => name.endsWith(".tgz")),
    );
    const empty = () => mkdtempSync(join(work, "empty-"));
    if (existsSync(join(root, "prebuilds"))) {
      console.log(`pack: with the prebuilt addon: installed, used in ${check(tarball, empty(), {})} s`);
    }
    const source = { npm_config_build_from_source: "true", FLUX_CUDA: "OFF" };
    console.log(`pack: built from source: installed, used in ${check(tarball, empty(), source)} s`);
    return 0;
  } finally {
    rmSync(work, { recursive: true, force: true });
  }
});
