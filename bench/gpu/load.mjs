// From the call to a pipeline that is ready, out of the page cache: a checkpoint's bytes through pinned memory to the GPU, quantised
// there where they are not in fp8 yet. Then the first image and a second one: what the first takes longer is what a new size costs.
//
//   npx fluxwarp synth flux1-dev made-up && npm run bench -- load --model made-up
//   npx fluxwarp synth flux1-dev made-up-fp8 --precision fp8 && npm run bench -- load --model made-up-fp8
import { basename, resolve } from "node:path";
import { findModel } from "../../scripts/find-model.mjs";
import { timeRow } from "../results.mjs";

/** The first brings the files into the page cache and is told apart. */
const LOADS = 4;
const REQUEST = { prompt: "a harbour at dawn", seed: 1, numInferenceSteps: 4 };

export async function bench({ model, device: name = "cuda:0", precision = "fp8" }) {
  const { Device, FluxPipeline } = await import("../../dist/index.js");
  const folder = model === undefined ? findModel() : resolve(model);
  const title = `load ${basename(folder)} in ${precision}`;
  const rows = [];
  const seconds = [];
  let fastest;
  for (let load = 0; load < LOADS; load++) {
    const device = Device.open(name);
    const parts = new Map();
    const begin = performance.now();
    const onProgress = ({ component, totalBytes }) => {
      parts.set(component, { bytes: totalBytes, end: performance.now() });
    };
    const pipeline = await FluxPipeline.fromPretrained(folder, { device, precision, onProgress });
    const ms = performance.now() - begin;
    if (load === 0) rows.push(timeRow(`${title}, first time`, ms));
    else {
      seconds.push(ms);
      if (fastest === undefined || ms < fastest.ms) fastest = { ms, parts: rates(parts, begin) };
    }
    if (load === LOADS - 1) rows.push(...(await images(pipeline, title)), peak(device, title));
    pipeline.dispose();
    await device.drain();
    device.dispose();
  }
  seconds.sort((a, b) => a - b);
  rows.push(
    timeRow(`${title}, from the page cache, median of ${seconds.length}`, seconds[seconds.length >> 1]),
  );
  for (const [component, { gigabytes, ms }] of fastest.parts) {
    rows.push({
      ...timeRow(`${title}, ${component}, ${gigabytes.toFixed(2)} GB`, ms),
      value: rate(gigabytes, ms),
      unit: "GB/s",
    });
  }
  return rows;
}

const rate = (gigabytes, ms) => Number((gigabytes / (ms / 1000)).toPrecision(4));

/** Of each part its bytes and the time since the one before it. */
function rates(parts, begin) {
  let last = begin;
  const result = new Map();
  for (const [component, { bytes, end }] of parts) {
    result.set(component, { gigabytes: bytes / 1e9, ms: end - last });
    last = end;
  }
  return result;
}

async function images(pipeline, title) {
  const time = async () => {
    const begin = performance.now();
    await pipeline.generate(REQUEST);
    return performance.now() - begin;
  };
  const [first, second] = [await time(), await time()];
  return [
    timeRow(`${title}, first image, 4 steps`, first),
    timeRow(`${title}, second image, 4 steps`, second),
  ];
}

function peak(device, title) {
  const gigabytes = Number((device.memoryUsage().peak / 1e9).toPrecision(4));
  return { ...timeRow(`${title}, peak device memory`, 0), value: gigabytes, unit: "GB" };
}
