// The programs of examples/ and of README.md, as a user would run them, with the package's own name.

import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { cpSync } from "node:fs";
import { readdir, readFile, rm, writeFile } from "node:fs/promises";
import { dirname, join, resolve } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import sharp from "sharp";
import { afterAll, beforeAll, describe, expect, it, onTestFinished } from "vitest";
import { compiledLibrary } from "../support/compiled-library.js";
import { temporaryFolder } from "../support/fixture-folder.js";
import { schnellFolder } from "../support/folders.js";
import { TINY, wideCheckpoint } from "../support/wide-checkpoint.js";

const REPOSITORY = resolve(dirname(fileURLToPath(import.meta.url)), "../..");
const library = compiledLibrary();
const model = schnellFolder();
afterAll(() => rm(model, { recursive: true }));
/** Beside dist/, where "fluxwarp" means the compiled library. */
const copies = () => join(dirname(library()), "examples");
beforeAll(() => cpSync(join(REPOSITORY, "examples"), copies(), { recursive: true }));

function start(name: string, args: readonly string[], cwd: string): ChildProcess {
  const child = spawn(process.execPath, [join(copies(), name), ...args], {
    cwd,
    stdio: ["ignore", "pipe", "inherit"],
  });
  onTestFinished(() => void child.kill());
  return child;
}

async function run(name: string, args: readonly string[], cwd: string) {
  const child = start(name, args, cwd);
  let stdout = "";
  child.stdout!.setEncoding("utf8").on("data", (chunk: string) => {
    stdout += chunk;
  });
  const [code] = await once(child, "close");
  return { code, stdout };
}

it("the program at the head of README.md makes its picture", async () => {
  const readme = await readFile(join(REPOSITORY, "README.md"), "utf8");
  const [, program] = /```js\n(.*?)```/s.exec(readme)!;
  expect(program).toContain('"path/to/FLUX.1-schnell"');
  const text = program.replace('"path/to/FLUX.1-schnell"', JSON.stringify(model));
  await writeFile(join(copies(), "readme.mjs"), text);
  const folder = await temporaryFolder();
  expect(await run("readme.mjs", [], folder)).toEqual({ code: 0, stdout: "seed 42\n" });
  expect(await sharp(join(folder, "cat.png")).metadata()).toMatchObject({ format: "png" });
});

it("text-to-image.mjs writes a picture and tells its seed", async () => {
  const folder = await temporaryFolder();
  const { code, stdout } = await run("text-to-image.mjs", [model, "a cat", "cat.png"], folder);
  expect(code).toBe(0);
  expect(stdout).toMatch(
    /^step 1 of 4\nstep 2 of 4\nstep 3 of 4\nstep 4 of 4\ncat\.png: \d+×\d+, seed \d+\n$/,
  );
  const [, width, height] = /(\d+)×(\d+)/.exec(stdout)!;
  const found = await sharp(join(folder, "cat.png")).metadata();
  expect(found).toMatchObject({ format: "png", width: Number(width), height: Number(height) });
});

describe("programs that take pictures", () => {
  /** A picture in a folder of its own. */
  async function withPicture() {
    const folder = await temporaryFolder();
    await sharp({ create: { width: 70, height: 54, channels: 3, background: "teal" } })
      .jpeg()
      .toFile(join(folder, "photo.jpg"));
    return folder;
  }

  it("image-to-image.mjs starts from one, its own or a drawn one", async () => {
    const folder = await withPicture();
    const given = await run("image-to-image.mjs", [TINY, "a star", "photo.jpg", "0.5", "out.png"], folder);
    expect(given).toEqual({ code: 0, stdout: "out.png: 64×48\n" });
    const drawn = await run("image-to-image.mjs", [model], folder);
    expect(drawn.stdout).toMatch(/^image\.png: \d+×\d+\n$/);
  });

  it("inpaint.mjs repaints with dev's weights and with Fill's", async () => {
    const folder = await withPicture();
    await sharp({ create: { width: 70, height: 54, channels: 3, background: "white" } })
      .png()
      .toFile(join(folder, "mask.png"));
    const fill = wideCheckpoint(384);
    onTestFinished(() => rm(fill, { recursive: true }));
    for (const checkpoint of [TINY, fill]) {
      const { code, stdout } = await run(
        "inpaint.mjs",
        [checkpoint, "a star", "photo.jpg", "mask.png"],
        folder,
      );
      expect({ code, stdout }).toEqual({ code: 0, stdout: "image.png: 64×48\n" });
    }
    expect((await run("inpaint.mjs", [model], folder)).stdout).toMatch(/^image\.png: \d+×\d+\n$/);
  });

  it("control.mjs finds edges and draws along them", async () => {
    const folder = await withPicture();
    const control = wideCheckpoint(128);
    onTestFinished(() => rm(control, { recursive: true }));
    for (const flag of [[], ["--as-it-is"]]) {
      const ran = await run("control.mjs", [control, "a star", "photo.jpg", "out.png", ...flag], folder);
      expect(ran).toEqual({ code: 0, stdout: "out.png: 64×48\n" });
    }
  });

  it("kontext.mjs tells its usage, and edits", async () => {
    const folder = await withPicture();
    expect(await run("kontext.mjs", [], folder)).toEqual({ code: 2, stdout: "" });
    const ran = await run("kontext.mjs", [TINY, "a star", "out.png", "photo.jpg"], folder);
    expect(ran).toEqual({ code: 0, stdout: "out.png: 288×224\n" });
  });
});

it("adapters.mjs draws with none, with each adapter and with two", async () => {
  const folder = await temporaryFolder();
  const files = ["night", "pixel"].map((name) => join(REPOSITORY, `models/tiny-loras/${name}.safetensors`));
  const { code, stdout } = await run(
    "adapters.mjs",
    [join(REPOSITORY, "models/tiny"), "sheet.png", ...files],
    folder,
  );
  expect(code).toBe(0);
  expect(stdout).toMatch(/^night: rank 6, 0 tensors not used\npixel: rank 8, 0 tensors not used\n/);
  expect(stdout).toMatch(/sheet\.png: none \| night \| pixel \| night \+ pixel\n$/);
  const sheet = await sharp(join(folder, "sheet.png")).metadata();
  expect(sheet).toMatchObject({ format: "png", width: 4 * 256, height: 4 * 256 });
});

it("batch.mjs writes a picture for each seed, and ends cleanly at its limit", async () => {
  const folder = await temporaryFolder();
  const whole = await run("batch.mjs", [model, "a cat"], folder);
  expect(whole.code).toBe(0);
  const names = [1, 2, 3, 4].map((seed) => `seed-${seed}.webp`);
  expect(whole.stdout).toBe(names.map((name) => `${name}\n`).join(""));
  expect((await readdir(folder)).sort()).toEqual(names);
  const empty = await temporaryFolder();
  expect(await run("batch.mjs", [model, "a cat", "0"], empty)).toEqual({
    code: 0,
    stdout: "stopped after 0 s\n",
  });
  expect(await readdir(empty)).toEqual([]);
});

it("http-server.mjs serves pictures and raw pixels, refuses a bad request, and goes on when a client leaves", async () => {
  const child = start("http-server.mjs", [model, "0"], await temporaryFolder());
  const [line] = await once(createInterface({ input: child.stdout! }), "line");
  const at = (path: string) => new URL(path, line);
  const leaving = new AbortController();
  const left = fetch(at("/?prompt=a+cat"), { signal: leaving.signal });
  leaving.abort();
  await expect(left).rejects.toThrow();
  const picture = await fetch(at("/?prompt=a+cat&seed=7"));
  expect(picture.headers.get("content-type")).toBe("image/jpeg");
  const { format, width, height } = await sharp(await picture.arrayBuffer()).metadata();
  expect(format).toBe("jpeg");
  const raw = await fetch(at("/raw?prompt=a+cat&seed=7"));
  expect(raw.headers.get("x-size")).toBe(`${width}x${height}`);
  expect((await raw.arrayBuffer()).byteLength).toBe(width * height * 3);
  const bad = await fetch(at("/?prompt=a+cat&seed=-1"));
  expect(bad.status).toBe(400);
  expect(await bad.text()).toMatch(/seed is a whole number/);
  const empty = await fetch(at("/"));
  expect(empty.status).toBe(400);
  expect(await empty.text()).toMatch(/say what to draw/);
  expect((await fetch(at("/favicon.ico"))).status).toBe(404);
  child.kill("SIGTERM");
  expect(await once(child, "exit")).toEqual([0, null]);
});
