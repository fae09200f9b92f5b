// Several environments and whole processes: worker threads, exits, and what is pending at an exit.
import { execFile } from "node:child_process";
import { once } from "node:events";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { promisify } from "node:util";
import { Worker } from "node:worker_threads";
import { describe, expect, it } from "vitest";
import { compiledLibrary } from "../support/compiled-library.js";

const run = promisify(execFile);
const dist = compiledLibrary();

/** What the programs below share: a device and a plan that keeps it busy for some milliseconds. */
const PROLOGUE = `
  import { Device } from "DIST/runtime/device.js";
  const device = Device.open("cpu", { threads: 2 });
  const size = 192;
  const x = device.buffer("f32", [size, size]);
  const w = device.buffer("f32", [size, size]);
  const y = device.buffer("f32", [size, size]);
  const fill = (value) => new Float32Array(size * size).fill(value);
  const plan = device.record("square", (g) => g.copy(g.linear(x, { weight: w }), y));
`;

function program(name: string, body: string): string {
  const path = join(dist(), `${name}.mjs`);
  writeFileSync(path, (PROLOGUE + body).replaceAll("DIST", pathToFileURL(dist()).href));
  return path;
}

/** Runs a program with node; it fails the test when it does not end by itself. */
async function runProgram(name: string, body: string): Promise<{ stdout: string; stderr: string }> {
  return run(process.execPath, [program(name, body)], { timeout: 60_000 });
}

describe("a process", () => {
  it("exits by itself when nothing is pending, with its device still open", async () => {
    const { stdout } = await runProgram(
      "exits",
      `
      await x.write(fill(1));
      await w.write(fill(2));
      await plan.run();
      console.log((await y.read())[5]);
      `,
    );
    expect(stdout.trim()).toBe("384");
  });

  it("stays until what is pending is done", async () => {
    const { stdout } = await runProgram(
      "pending",
      `
      x.write(fill(1));
      w.write(fill(3));
      for (let i = 0; i < 50; i++) plan.run();
      y.read().then((values) => console.log(values[7]));
      `,
    );
    expect(stdout.trim()).toBe("576");
  });

  it("exits at once on process.exit() in the middle of work", async () => {
    const { stdout } = await runProgram(
      "exit-call",
      `
      x.write(fill(1));
      w.write(fill(1));
      for (let i = 0; i < 1000; i++) plan.run();
      setTimeout(() => { console.log("leaving"); process.exit(0); }, 20);
      `,
    );
    expect(stdout.trim()).toBe("leaving");
  });

  it("exits when the device was disposed with work queued", async () => {
    const { stdout } = await runProgram(
      "disposed",
      `
      x.write(fill(1));
      w.write(fill(1));
      const runs = [plan.run(), plan.run(), y.read()];
      device.dispose();
      const [, , values] = await Promise.all(runs);
      const late = await plan.run().catch((error) => error.code);
      console.log(values[0], late);
      `,
    );
    expect(stdout.trim()).toBe("192 ERR_FLUX_DISPOSED");
  });

  it("exits with its error when a promise was left to reject", async () => {
    const failed = runProgram("rejects", "device.dispose(); plan.run();");
    await expect(failed).rejects.toMatchObject({
      code: 1,
      stderr: expect.stringContaining("ERR_FLUX_DISPOSED"),
    });
  });
});

/** Runs in a worker: computes rounds · seed² on its own device and posts what it read. */
const WORKER = `
  import { parentPort, workerData } from "node:worker_threads";
  const { seed, rounds } = workerData;
  await w.write(fill(seed));
  const sums = [];
  for (let round = 1; round <= rounds; round++) {
    await x.write(fill(round));
    await plan.run();
    const values = await y.read();
    sums.push(values.every((value) => value === round * seed * size) ? "right" : values[0]);
  }
  parentPort.postMessage(sums);
`;

describe("worker threads", () => {
  it("compute on devices of their own at the same time", async () => {
    const path = program("worker", WORKER);
    const workers = [2, 3].map((seed) => new Worker(path, { workerData: { seed, rounds: 40 } }));
    const results = await Promise.all(
      workers.map(async (worker) => {
        const exit = once(worker, "exit");
        const [sums] = await once(worker, "message");
        return { sums, code: (await exit)[0] };
      }),
    );
    for (const { sums, code } of results) {
      expect(new Set(sums)).toEqual(new Set(["right"]));
      expect(sums).toHaveLength(40);
      expect(code).toBe(0);
    }
  });

  it("may be terminated in the middle of work, again and again", async () => {
    const path = program(
      "terminated",
      `
      import { parentPort } from "node:worker_threads";
      x.write(fill(1));
      w.write(fill(1));
      plan.run().then(() => parentPort.postMessage("busy"));
      for (let i = 0; i < 2000; i++) plan.run();
      `,
    );
    for (let round = 0; round < 5; round++) {
      const worker = new Worker(path);
      await once(worker, "message");
      expect(await worker.terminate()).toBe(1);
    }
  });
});
