// Device memory of FLUX.1-dev with made-up weights, from loading to the image, in each precision; and what 200 small images in a row
// leave behind on the device and on the host.
import { timeRow } from "../results.mjs";

const IMAGE = { prompt: "a harbour at dawn", height: 1024, width: 1024, numInferenceSteps: 2 };
const SMALL = { ...IMAGE, height: 256, width: 256 };
const IMAGES = 200;

/** @param {{ device?: string, config?: string }} [setting] */
export async function bench({ device = "cuda:0", config = "flux1-dev" } = {}) {
  const { FluxPipeline } = await import("../../dist/index.js");
  const rows = [];
  for (const precision of ["fp8", "bf16"]) {
    const pipe = await FluxPipeline.fromConfig(config, { weights: "random", device, precision });
    rows.push(
      gigabytes(`${config} ${precision}, weights of all models`, pipe.device.memoryUsage().allocated),
    );
    await pipe.generate({ ...IMAGE, seed: 1 });
    rows.push(gigabytes(`${config} ${precision}, peak with a 1024² image`, pipe.device.memoryUsage().peak));
    if (precision === "fp8") rows.push(...(await growth(pipe, config)));
    pipe.dispose();
  }
  return rows;
}

/** Of 200 images with two seeds in turn, after ten that warm up. */
async function growth(pipe, config) {
  const draw = async (count) => {
    for (let i = 0; i < count; i++) await pipe.generate({ ...SMALL, seed: i % 2 });
    globalThis.gc?.();
    return { device: pipe.device.memoryUsage().allocated, host: process.memoryUsage().rss };
  };
  const before = await draw(10);
  const after = await draw(IMAGES);
  const about = `${config} fp8, ${IMAGES} images of 256²`;
  return [
    gigabytes(`${about}, growth on the device`, after.device - before.device),
    gigabytes(`${about}, growth of the process`, after.host - before.host),
  ];
}

function gigabytes(name, bytes) {
  return { ...timeRow(name, 0), ms: null, value: Number((bytes / 1e9).toFixed(3)), unit: "GB" };
}
