// Device memory of FLUX.1-dev with made-up weights, from loading to the image, for everything that changes it; and what hundreds of
// images in a row leave behind on the device and on the host.
//
//   npm run bench -- memory [--parts modes,growth] [--shapes fp8,bf16]
//   npm run bench -- memory --tiny                the small model on the CPU: does this program work?
import { spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import { findModel } from "../../scripts/find-model.mjs";
import { timeRow } from "../results.mjs";

const SIDE = 1024;
const PROMPT = "a harbour at dawn";
/** What a pipeline is loaded as, and what is then asked of it, with the largest number of tokens. fp8 has int8 attention by default. */
const MODES = [
  { name: "fp8", load: { precision: "fp8" } },
  {
    name: "fp8, true guidance",
    load: { precision: "fp8" },
    request: { trueCfgScale: 2, negativePrompt: "fog" },
  },
  {
    name: "fp8, Kontext with a 1024² picture",
    load: { precision: "fp8", variant: "kontext" },
    hasPicture: true,
  },
  { name: "fp8, a batch of 4", load: { precision: "fp8" }, request: { numImagesPerPrompt: 4 } },
  { name: "fp8, attention in bf16", load: { precision: "fp8", attention: "bf16" } },
  { name: "fp8, T5 in bf16", load: { precision: "fp8", textEncoderPrecision: "bf16" } },
  { name: "bf16", load: { precision: "bf16" } },
];
const GROWTH = [
  { count: 200, side: 256, steps: 2 },
  { count: 100, side: SIDE, steps: 1 },
];
const WARM = 10;

/** @param {{ device?: string, config?: string, parts?: string[], shapes?: string[], tiny?: boolean }} [setting] shapes: names of modes */
export async function* bench(setting = {}) {
  const { tiny = false, parts = ["modes", "growth"] } = setting;
  const where = { config: setting.config ?? (tiny ? findModel() : "flux1-dev"), tiny };
  where.device = setting.device ?? (tiny ? "cpu" : "cuda:0");
  const modes = MODES.filter(({ name, load }) => {
    const isThere = !tiny || (load.precision === "fp8" && load.textEncoderPrecision === undefined);
    return isThere && (setting.shapes?.includes(name) ?? true);
  });
  for (const mode of parts.includes("modes") ? modes : []) yield* peak(mode, where);
  if (parts.includes("growth")) yield* growth(where);
}

/** Of a pipeline and a device of its own: the peak of a device never falls. */
async function* peak({ name, load, request, hasPicture = false }, where) {
  const title = `flux1-dev ${name}`;
  const side = where.tiny ? SIDE / 16 : SIDE;
  const { pipe, done } = await withPipeline(where, load);
  yield gigabytes(`${title}, weights of all models`, pipe.device.memoryUsage().allocated);
  const picture = { width: side, height: side, data: new Uint8Array(3 * side * side).fill(90) };
  await pipe.generate({
    ...{ prompt: PROMPT, height: side, width: side, numInferenceSteps: 2, seed: 1, ...request },
    ...(hasPicture && { image: picture, maxArea: side * side, autoResize: false }),
  });
  yield gigabytes(`${title}, peak with a 1024² image`, pipe.device.memoryUsage().peak);
  const seen = usedOnGpu();
  if (seen !== undefined) yield gigabytes(`${title}, all that the GPU has in use after it`, seen);
  await done();
}

/** Many images with two seeds in turn, after some that warm up. */
async function* growth(where) {
  const { pipe, done } = await withPipeline(where, { precision: "fp8" });
  for (const { count, side, steps } of GROWTH) {
    const size = where.tiny ? Math.max(64, side / 16) : side;
    const request = { prompt: PROMPT, height: size, width: size, numInferenceSteps: steps };
    const known = new Map();
    let differing = 0;
    const draw = async (times) => {
      for (let i = 0; i < times; i++) {
        const { images } = await pipe.generate({ ...request, seed: i % 2 });
        const digest = createHash("sha256").update(images[0].data).digest("hex");
        if ((known.get(i % 2) ?? digest) !== digest) differing++;
        known.set(i % 2, digest);
      }
      collectGarbage();
      return { device: pipe.device.memoryUsage().allocated, host: process.memoryUsage().rss };
    };
    const before = await draw(WARM);
    const begin = performance.now();
    const after = await draw(count);
    const about = `flux1-dev fp8, ${count} images of ${side}², ${steps} steps`;
    yield timeRow(`${about}, each`, (performance.now() - begin) / count);
    yield gigabytes(`${about}, growth on the device`, after.device - before.device);
    yield gigabytes(`${about}, growth of the process`, after.host - before.host);
    if (known.get(0) === known.get(1)) throw new Error("two seeds gave the same image");
    yield {
      ...timeRow(`${about}, with other bytes than the same seed's before`, 0),
      ms: null,
      value: differing,
      unit: "images",
    };
  }
  await done();
}

async function withPipeline({ device: name, config }, load) {
  const { Device, FluxPipeline } = await import("../../dist/index.js");
  const device = Device.open(name);
  const pipe = await FluxPipeline.fromConfig(config, { weights: "random", device, ...load });
  const done = async () => {
    pipe.dispose();
    await device.drain();
    device.dispose();
    collectGarbage(); // what still holds the device, and with it the memory that its pool keeps
  };
  return { pipe, done };
}

/** What the driver says, this process's context and graphs included; undefined without nvidia-smi. */
function usedOnGpu() {
  const query = ["--query-gpu=memory.used", "--format=csv,noheader,nounits", "--id=0"];
  const { status, stdout } = spawnSync("nvidia-smi", query, { encoding: "utf8" });
  return status === 0 ? Number(stdout.trim()) * 2 ** 20 : undefined;
}

function collectGarbage() {
  setFlagsFromString("--expose-gc");
  runInNewContext("gc")();
}

function gigabytes(name, bytes) {
  return { ...timeRow(name, 0), ms: null, value: Number((bytes / 1e9).toFixed(3)), unit: "GB" };
}
