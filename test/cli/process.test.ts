// The command as users run it: a process of its own, with its exit code, its streams and its signals.

import { type ChildProcess, execFile, type SpawnOptions, spawn } from "node:child_process";
import { once } from "node:events";
import { readdir, readFile, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { promisify } from "node:util";
import sharp from "sharp";
import { afterAll, describe, expect, it } from "vitest";
import { compiledLibrary } from "../support/compiled-library.js";
import { temporaryFolder } from "../support/fixture-folder.js";
import { schnellFolder } from "../support/folders.js";

const library = compiledLibrary();
const model = schnellFolder();
afterAll(() => rm(model, { recursive: true }));
const SIZE = ["-H", "64", "-W", "96", "--max-sequence-length", "32", "--device", "cpu", "--threads", "2"];

const command = () => join(library(), "cli/main.js");

function start(args: readonly string[], options: SpawnOptions = {}): ChildProcess {
  return spawn(process.execPath, [command(), ...args], { stdio: ["ignore", "pipe", "pipe"], ...options });
}

async function ended(child: ChildProcess) {
  const text = { stdout: "", stderr: "" };
  for (const name of ["stdout", "stderr"] as const) {
    child[name]!.setEncoding("utf8").on("data", (chunk: string) => {
      text[name] += chunk;
    });
  }
  const [code, signal] = await once(child, "close");
  return { code, signal, ...text };
}

const run = (...args: string[]) => ended(start(args));

/** Resolves when the process has loaded the addon, and so is at work on its command. */
async function atWork(pid: number): Promise<void> {
  while (!(await readFile(`/proc/${pid}/maps`, "utf8")).includes("fluxwarp.node")) {
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}

describe("the fluxwarp process", () => {
  it("generates: 0, the path on stdout, nothing on a stderr that is no terminal", async () => {
    const path = join(await temporaryFolder(), "a.png");
    const result = await run(
      ...["generate", "-m", model, "-p", "a cat", ...SIZE, "--steps", "2", "--seed", "7", "-o", path],
    );
    expect(result).toMatchObject({ code: 0, signal: null, stderr: "" });
    expect(result.stdout).toMatch(/a\.png {2}96×64\nseed 7, [\d.]+ s\n$/);
    expect(await sharp(path).metadata()).toMatchObject({ format: "png", width: 96, height: 64 });
  });

  it("generates with --json: stdout is JSON and nothing else", async () => {
    const path = join(await temporaryFolder(), "a.webp");
    const { code, stdout, stderr } = await run(
      ...[
        "generate",
        "-m",
        model,
        "-p",
        "a cat",
        ...SIZE,
        "--steps",
        "1",
        "--seed",
        "7",
        "-o",
        path,
        "--json",
      ],
    );
    expect({ code, stderr }).toEqual({ code: 0, stderr: "" });
    expect(JSON.parse(stdout)).toEqual({
      images: [{ path, width: 96, height: 64 }],
      seed: "7",
      seconds: expect.any(Number),
    });
  });

  it("overwrites only what was named: without --output it takes the first free name", async () => {
    const cwd = await temporaryFolder();
    const args = ["generate", "-m", model, "-p", "a cat", ...SIZE, "--steps", "1"];
    await writeFile(join(cwd, "fluxwarp-2-1.png"), "somebody's");
    const saved: string[] = [];
    for (const more of [[], [], ["--images", "2"]]) {
      const { code, stdout } = await ended(start([...args, ...more], { cwd }));
      expect(code).toBe(0);
      saved.push(...[...stdout.matchAll(/^(\S+\.png) /gm)].map(([, name]) => name!));
    }
    expect(saved).toEqual(["fluxwarp.png", "fluxwarp-2.png", "fluxwarp-3-1.png", "fluxwarp-3-2.png"]);
    expect(await readFile(join(cwd, "fluxwarp-2-1.png"), "utf8")).toBe("somebody's");
  });

  it("says each warning in one line, unless Node was asked for more", async () => {
    const long = Array(60).fill("cat").join(" ");
    const args = ["generate", "-m", model, "-p", long, ...SIZE, "--steps", "1"];
    const cwd = await temporaryFolder();
    const { stderr } = await ended(start(args, { cwd }));
    expect(stderr.trimEnd().split("\n")).toEqual([
      "warning: the prompt is longer than the 77 tokens that CLIP reads; the rest is ignored",
      "warning: the prompt is longer than the 32 tokens that T5 reads; the rest is ignored",
    ]);
    const withOptions = async (options: string) => {
      const env = { ...process.env, NODE_OPTIONS: options };
      return (await ended(start(args, { cwd, env }))).stderr;
    };
    expect(await withOptions("--trace-warnings")).toContain("    at ");
    // An option of Node 20.11 and later, whose own listener heeds it.
    expect(await withOptions("--disable-warning=FLUX_PROMPT_TRUNCATED")).toBe("");
  });

  it("exits with 2 for a wrong command line and with 1 for a model that is not there", async () => {
    const wrong = await run("generate", "-m", model);
    expect(wrong).toMatchObject({ code: 2, stdout: "", stderr: expect.stringContaining("--prompt") });
    const absent = await run("generate", "-m", "/no/such/model", "-p", "a cat", "--device", "cpu");
    expect(absent).toMatchObject({ code: 1, stdout: "" });
    expect(absent.stderr).toMatch(/^error: .*\/no\/such\/model is not a folder.*\(ERR_FLUX_BAD_WEIGHTS\)\n$/);
  });

  it("ends with 130 on SIGINT, says so, and leaves no file", async () => {
    const folder = await temporaryFolder();
    const args = ["generate", "-m", model, "-p", "a cat", ...SIZE, "--steps", "1000"];
    const child = start([...args, "-o", join(folder, "a.png")]);
    const result = ended(child);
    await atWork(child.pid!);
    child.kill("SIGINT");
    expect(await result).toEqual({ code: 130, signal: null, stdout: "", stderr: "interrupted\n" });
    expect(await readdir(folder)).toEqual([]);
  });

  it("leaves the old image when the file system refuses the new one", async () => {
    const folder = await temporaryFolder();
    const path = join(folder, "a.png");
    await writeFile(path, "old");
    const args = ["generate", "-m", model, "-p", "a cat", ...SIZE, "--steps", "1", "-o", path];
    // No file of this process may grow beyond one block of at most a kilobyte: the write itself fails, half done.
    const shell = 'ulimit -f 1; exec "$0" "$@"';
    const child = spawn("sh", ["-c", shell, process.execPath, command(), ...args], {
      stdio: ["ignore", "pipe", "pipe"],
    });
    const { code, stdout, stderr } = await ended(child);
    expect({ code, stdout }).toEqual({ code: 1, stdout: "" });
    expect(stderr).toMatch(/a\.png cannot be written: .*ulimit -f.*\(ERR_FLUX_IO\)/);
    expect(await readdir(folder)).toEqual(["a.png"]);
    expect(await readFile(path, "utf8")).toBe("old");
  });

  it("does not mind a reader that has enough", async () => {
    const execute = promisify(execFile);
    const pipe = 'set -o pipefail; "$0" "$@" | head -n 1';
    const args = ["-c", pipe, process.execPath, command(), "inspect", "plan", model, ...SIZE];
    const { stdout, stderr } = await execute("bash", args);
    expect(stdout).toMatch(/^plan step: \d+ ops.*\n$/);
    expect(stderr).toBe("");
  });
});

describe("fluxwarp inspect as a process", () => {
  it("plan prints the ops of a step, with times only when it is profiled", async () => {
    const plain = await run("inspect", "plan", model, ...SIZE);
    expect(plain).toMatchObject({ code: 0, stderr: "" });
    expect(plain.stdout).toMatch(/^plan step: \d+ ops, [\d.]+ GFLOP/);
    expect(plain.stdout).toMatch(/ attention .*f32\[1, 56, /);
    expect(plain.stdout).not.toMatch(/ ms /);
    const profiled = await run("inspect", "plan", model, ...SIZE, "--profile");
    expect(profiled).toMatchObject({ code: 0, stderr: "" });
    const rows = (text: string) => text.trimEnd().split("\n").slice(2);
    expect(rows(profiled.stdout)).toHaveLength(rows(plain.stdout).length);
    // Ops inside another one are indented, and timed with it.
    const whole = rows(profiled.stdout).filter((row) => /^ *\d+ {2}\S/.test(row));
    expect(whole.length).toBeGreaterThan(10);
    for (const row of whole) expect(row).toMatch(/ \d+\.\d{3} ms /);
  });

  it("plan --profile --json gives milliseconds for every op that is not inside another one", async () => {
    const { code, stdout, stderr } = await run("inspect", "plan", model, ...SIZE, "--profile", "--json");
    expect({ code, stderr }).toEqual({ code: 0, stderr: "" });
    const { ops } = JSON.parse(stdout) as { ops: { kind: string; depth: number; ms: number }[] };
    expect(ops.length).toBeGreaterThan(20);
    for (const { kind, depth, ms } of ops) if (depth === 0) expect(ms, kind).toBeGreaterThanOrEqual(0);
  });

  it("model and gpu print JSON; a folder that is no model is 1", async () => {
    const inspected = await run("inspect", "model", model, "--json");
    expect(inspected).toMatchObject({ code: 0, stderr: "" });
    expect(JSON.parse(inspected.stdout).problems).toEqual([]);
    const gpu = await run("inspect", "gpu", "--json");
    expect(gpu).toMatchObject({ code: 0, stderr: "" });
    expect(JSON.parse(gpu.stdout).cpu.cores).toBeGreaterThanOrEqual(1);
    expect(await run("inspect", "model", await temporaryFolder())).toMatchObject({ code: 1, stdout: "" });
  });
});
