// Pipelines in worker threads and whole processes: the same picture everywhere, and an end without being told to end.

import { execFile } from "node:child_process";
import { createHash } from "node:crypto";
import { once } from "node:events";
import { rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { promisify } from "node:util";
import { Worker } from "node:worker_threads";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { FluxPipeline } from "../../lib/index.js";
import { compiledLibrary } from "../support/compiled-library.js";
import { schnellFolder } from "../support/folders.js";

const run = promisify(execFile);
const dist = compiledLibrary();
const folder = schnellFolder();
const REQUEST = { prompt: "a cat", seed: 11, height: 64, width: 64, numInferenceSteps: 2 };

let expected: Buffer;
beforeAll(async () => {
  using pipe = await FluxPipeline.fromPretrained(folder, { device: "cpu", threads: 2 });
  const { images } = await pipe.generate(REQUEST);
  expected = Buffer.from(images[0]!.data);
});
afterAll(() => rmSync(folder, { recursive: true }));

/** A program that loads the pipeline and draws `data`, the bytes of the picture, before `body`. */
function program(name: string, body: string): string {
  const path = join(dist(), `${name}.mjs`);
  const library = pathToFileURL(join(dist(), "index.js")).href;
  const source = `
    import { FluxPipeline } from ${JSON.stringify(library)};
    const options = { device: "cpu", threads: 1 };
    const pipe = await FluxPipeline.fromPretrained(${JSON.stringify(folder)}, options);
    const { images } = await pipe.generate(${JSON.stringify(REQUEST)});
    const { data } = images[0];
  `;
  writeFileSync(path, source + body);
  return path;
}

describe("worker threads", () => {
  it("load and draw at the same time, each the main thread's picture", async () => {
    const path = program(
      "draws",
      `
      import { parentPort } from "node:worker_threads";
      parentPort.postMessage(data);
      pipe.dispose();
      `,
    );
    const workers = [new Worker(path), new Worker(path)];
    const results = await Promise.all(
      workers.map(async (worker) => {
        const [[data], [code]] = await Promise.all([once(worker, "message"), once(worker, "exit")]);
        return { data: data as Uint8Array, code };
      }),
    );
    for (const { data, code } of results) {
      expect(data).toHaveLength(64 * 64 * 3);
      expect(expected.equals(data)).toBe(true);
      expect(code).toBe(0);
    }
  });
});

describe("a process", () => {
  it("exits with 0 by itself after drawing, with its pipeline still open", async () => {
    const path = program(
      "exits",
      `
      import { createHash } from "node:crypto";
      console.log(createHash("sha256").update(data).digest("hex"));
      `,
    );
    // A code other than 0, and a process that has to be ended, reject.
    const { stdout } = await run(process.execPath, [path], { timeout: 60_000 });
    expect(stdout.trim()).toBe(createHash("sha256").update(expected).digest("hex"));
  });
});
