// From nothing but the process to a pipeline that is ready, out of the page cache: a checkpoint's bytes through pinned memory to the GPU,
// quantised there where they are not in fp8 yet. Then the first image, and the same again: the difference is what a new size costs.
//
//   npm run bench -- load                        FLUX.1-dev's size, written to /dev/shm first (34 and 20 GB), and removed after
//   npm run bench -- load --parts fp8            one of the two
//   npm run bench -- load --model FOLDER --precision fp8
//   npm run bench -- load --tiny                 a small one on the CPU: does this program work?
import { existsSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { basename, join, resolve } from "node:path";
import { timeRow } from "../results.mjs";

/** What is written, and what it is then loaded in, how often. */
const CHECKPOINTS = {
  bf16: [
    { precision: "bf16", times: 3 },
    { precision: "fp8", times: 1 },
  ],
  fp8: [{ precision: "fp8", times: 3 }],
};
const TINY = { transformer: { num_layers: 1, num_single_layers: 1 }, text_encoder_2: { num_layers: 1 } };
const IMAGE = { prompt: "a harbour at dawn", numInferenceSteps: 4, height: 1024, width: 1024 };

/** @param {{ device?: string, model?: string, precision?: string, parts?: string[], tiny?: boolean }} [setting] `parts`: bf16, fp8 */
export async function* bench(setting = {}) {
  const { tiny = false, model, precision = "fp8", parts = Object.keys(CHECKPOINTS) } = setting;
  const device = setting.device ?? (tiny ? "cpu" : "cuda:0");
  if (model !== undefined) {
    yield* loads(resolve(model), basename(resolve(model)), device, { precision, times: 3 });
    return;
  }
  const { synthesise } = await import("../../dist/pipelines/synthesise.js");
  const memory = existsSync("/dev/shm") ? "/dev/shm" : tmpdir();
  const scratch = mkdtempSync(join(memory, "fluxwarp-load-"));
  try {
    const config = tiny ? { base: "flux1-dev", ...TINY } : "flux1-dev";
    const begin = performance.now();
    const written = await Promise.all(
      parts.map((precision) => synthesise(config, join(scratch, precision), { precision })),
    );
    const bytes = written.reduce((sum, own) => sum + own, 0);
    const title = `write flux1-dev in ${parts.join(" and in ")}${parts.length > 1 ? " at one time" : ""}`;
    yield rateRow(`${title}, ${(bytes / 1e9).toFixed(1)} GB`, bytes, performance.now() - begin);
    for (const part of parts) {
      for (const load of CHECKPOINTS[part]) {
        const loaded = tiny && load.precision === "bf16" ? { ...load, precision: "f32" } : load;
        const small = tiny && { height: 64, width: 64 };
        yield* loads(join(scratch, part), `flux1-dev in ${part}`, device, loaded, small);
      }
      rmSync(join(scratch, part), { recursive: true });
    }
  } finally {
    rmSync(scratch, { recursive: true, force: true });
  }
}

/** The fastest by parts, and the median of all; images and memory of the last. */
async function* loads(folder, name, deviceName, { precision, times }, changes = {}) {
  const { Device, FluxPipeline } = await import("../../dist/index.js");
  const title = `load ${name} as ${precision}`;
  const totals = [];
  let fastest;
  for (let load = 1; load <= times; load++) {
    const begin = performance.now();
    const device = Device.open(deviceName);
    await device.drain();
    const opened = performance.now() - begin;
    const parts = new Map();
    const onProgress = ({ component, totalBytes }) => {
      parts.set(component, { bytes: totalBytes, end: performance.now() });
    };
    const pipeline = await FluxPipeline.fromPretrained(folder, { device, precision, onProgress });
    const ms = performance.now() - begin;
    totals.push(ms);
    if (fastest === undefined || ms < fastest.ms)
      fastest = { ms, opened, parts: spans(parts, begin + opened) };
    if (load === times) {
      yield timeRow(`${title}, the first of ${times}`, totals[0]);
      yield timeRow(`${title}, median of ${times}`, totals.toSorted((a, b) => a - b)[times >> 1]);
      yield timeRow(`${title}, of it opening the device`, fastest.opened);
      for (const [component, { bytes, ms }] of fastest.parts) {
        yield rateRow(`${title}, ${component}, ${(bytes / 1e9).toFixed(2)} GB`, bytes, ms);
      }
      yield* images(pipeline, title, { ...IMAGE, ...changes });
      const peak = Number((device.memoryUsage().peak / 1e9).toPrecision(4));
      yield { ...timeRow(`${title}, peak device memory`, 0), ms: null, value: peak, unit: "GB" };
    }
    pipeline.dispose();
    await device.drain();
    device.dispose();
  }
}

/** Of each part its bytes and the time since the one before it. */
function spans(parts, begin) {
  let last = begin;
  const result = new Map();
  for (const [component, { bytes, end }] of parts) {
    result.set(component, { bytes, ms: end - last });
    last = end;
  }
  return result;
}

async function* images(pipeline, title, request) {
  const time = async (seed) => {
    const begin = performance.now();
    await pipeline.generate({ ...request, prompt: `${request.prompt} ${seed}`, seed });
    return performance.now() - begin;
  };
  const [first, second] = [await time(1), await time(2)];
  const steps = `${request.numInferenceSteps} steps`;
  yield timeRow(`${title}, first image, ${steps}`, first);
  yield timeRow(`${title}, second image, ${steps}`, second);
  yield timeRow(`${title}, the first image of a pipeline takes longer by`, first - second);
}

function rateRow(name, bytes, ms) {
  return { ...timeRow(name, ms), value: Number((bytes / 1e6 / ms).toPrecision(4)), unit: "GB/s" };
}
