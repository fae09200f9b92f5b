// fluxwarp generate with pictures, with the shipped model.

import { join } from "node:path";
import sharp from "sharp";
import { describe, expect, it } from "vitest";
import { runCli } from "../../lib/cli/program.js";
import { FluxPipeline } from "../../lib/index.js";
import { capturedContext } from "../support/captured-streams.js";
import { temporaryFolder } from "../support/fixture-folder.js";
import { TINY } from "../support/wide-checkpoint.js";

async function run(...args: string[]) {
  const context = capturedContext();
  const code = await runCli(args, context);
  return { code, stdout: context.stdout.text, stderr: context.stderr.text };
}

const GENERATE = [
  "generate",
  "-m",
  TINY,
  "-p",
  "a red circle",
  "--device",
  "cpu",
  "--steps",
  "4",
  "--seed",
  "5",
];
const create = (width: number, height: number, background: string) =>
  sharp({ create: { width, height, channels: 3, background } }).png();

describe("pictures on the command line", () => {
  it("draws what generate() draws with the same options", async () => {
    const folder = await temporaryFolder();
    const [image, mask, output] = ["image.png", "mask.png", "out.png"].map((name) => join(folder, name)) as [
      string,
      string,
      string,
    ];
    await create(70, 54, "teal").toFile(image);
    await create(70, 54, "black")
      .composite([{ input: await create(30, 54, "white").toBuffer(), left: 0, top: 0 }])
      .toFile(mask);
    const options = ["--image", image, "--mask", mask, "--strength", "0.8", "--padding-mask-crop", "4"];
    const { code, stdout, stderr } = await run(...GENERATE, ...options, "-o", output);
    expect(stderr).toBe("");
    expect(code).toBe(0);
    expect(stdout).toContain("70×54");
    using pipe = await FluxPipeline.fromPretrained(TINY, { device: "cpu" });
    const { images } = await pipe.generate({
      prompt: "a red circle",
      numInferenceSteps: 4,
      seed: 5,
      image,
      maskImage: mask,
      strength: 0.8,
      paddingMaskCrop: 4,
    });
    const saved = await sharp(output).removeAlpha().raw().toBuffer();
    expect(saved.equals(Buffer.from(images[0]!.data))).toBe(true);
  });

  it("takes several references, and the variant, for Kontext", async () => {
    const folder = await temporaryFolder();
    const paths = [join(folder, "one.png"), join(folder, "two.png")] as const;
    await create(48, 48, "red").toFile(paths[0]);
    await create(32, 48, "blue").toFile(paths[1]);
    const output = join(folder, "out.png");
    const options = [
      "--variant",
      "kontext",
      "-i",
      paths[0],
      "-i",
      paths[1],
      "--no-auto-resize",
      "--max-area",
      "4096",
    ];
    const { code, stdout, stderr } = await run(...GENERATE, ...options, "-o", output);
    expect(stderr).toBe("");
    expect(code).toBe(0);
    expect(stdout).toContain("64×64");
  });

  it.each<[string[], RegExp, number]>([
    [["--image", "/nowhere.png"], /\/nowhere\.png is not there/, 2],
    [["--mask", "/nowhere.png"], /\/nowhere\.png is not there/, 2],
    [["--image", "data:image/png;base64,AAAA", "--strength", "x"], /--strength.*a number/, 2],
    [["--image", "data:image/png;base64,AAAA"], /image cannot be decoded/, 2],
    [["--strength", "0.5"], /give image, too/, 2],
    [["--padding-mask-crop", "-1"], /--padding-mask-crop/, 2],
    [["--variant", "canny"], /--variant.*kontext/, 2],
  ])("says what is wrong with %j", async (options, says, expected) => {
    const { code, stdout, stderr } = await run(
      ...GENERATE,
      ...options,
      "-o",
      join(await temporaryFolder(), "a.png"),
    );
    expect(stderr).toMatch(says);
    expect(stdout).toBe("");
    expect(code).toBe(expected);
  });
});
