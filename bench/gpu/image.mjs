// FLUX.1 on the GPU at full size with made-up weights: a step of every size that people run, sustained, and whole images from
// prompt to RGB in host memory, beside the same steps through PyTorch in the same run (bench/peers/image.py).
import { spawnSync } from "node:child_process";
import { mkdtempSync, readFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { timeRow } from "../results.mjs";

/** Sizes in pixels; Kontext's is that of a 1024² image with a 1024² reference: as many tokens side by side. */
const SIZES = [
  { name: "dev 1024²", width: 1024, height: 1024, text: 512 },
  { name: "dev 512²", width: 512, height: 512, text: 512 },
  { name: "schnell 1024²", width: 1024, height: 1024, text: 256 },
  { name: "kontext 1024²", width: 1024, height: 2048, text: 512 },
];
/** Of the H200's data sheet, dense. */
const PEAK_TFLOPS = { fp8: 1979, bf16: 989 };
const PROMPT = "a harbour at dawn, fishing boats, gulls over the lighthouse";

/** @param {{ device?: string, config?: string, peers?: boolean }} [setting] */
export async function bench({ device = "cuda:0", config = "flux1-dev", peers = true } = {}) {
  const measured = peers ? measurePeers() : [];
  const rows = [];
  for (const precision of ["fp8", "bf16"]) {
    const { FluxPipeline } = await import("../../dist/index.js");
    const pipe = await FluxPipeline.fromConfig(config, { weights: "random", device, precision });
    const steps = new Map();
    for (const size of precision === "fp8" ? SIZES : SIZES.slice(0, 1)) {
      const ms = await stepMs(pipe, size);
      steps.set(size.name, ms);
      rows.push(
        besidePeer(
          `${size.name} step, ${precision}`,
          ms,
          floorMs(pipe, size, precision),
          measured,
          size.name,
        ),
      );
    }
    if (precision === "fp8") {
      rows.push(...(await wholeImage(pipe, "dev 1024²", SIZES[0], 28, steps.get("dev 1024²"))));
      rows.push(...(await wholeImage(pipe, "schnell 1024²", SIZES[2], 4, steps.get("schnell 1024²"))));
    }
    pipe.dispose();
  }
  return rows;
}

/** Milliseconds of a step in the middle of a long run: the GPU is warm, and the host has queued ahead. */
async function stepMs(pipe, { width, height, text }) {
  const warm = 14;
  const times = [];
  await pipe.generate({
    prompt: PROMPT,
    width,
    height,
    maxSequenceLength: text,
    numInferenceSteps: warm + 42,
    outputType: "latents",
    onStep: () => times.push(performance.now()),
  });
  return (times.at(-1) - times[warm - 1]) / (times.length - warm);
}

/** From the prompt, which is new, to RGB bytes in host memory; the second of two, so that all shapes are recorded. */
async function wholeImage(pipe, name, { width, height, text }, steps, step) {
  const once = async (prompt) => {
    const begin = performance.now();
    const { timings } = await pipe.generate({
      prompt,
      width,
      height,
      maxSequenceLength: text,
      numInferenceSteps: steps,
    });
    return { ms: performance.now() - begin, timings };
  };
  const first = await once(`${PROMPT}, ${steps}`);
  const runs = [];
  for (let i = 0; i < 3; i++) runs.push(await once(`${PROMPT}, ${steps} again ${i}`));
  const { ms, timings } = runs.toSorted((a, b) => a.ms - b.ms)[1];
  const parts = timings.encode + steps * step + timings.decode;
  return [
    timeRow(`${name}, ${steps} steps, first image of a size`, first.ms),
    besideParts(`${name}, ${steps} steps, prompt to RGB`, ms, "encoders + steps + VAE", parts),
    timeRow(`${name}, encoders`, timings.encode),
    timeRow(`${name}, VAE decode to host memory`, timings.decode),
  ];
}

/** Every linear's and attention's arithmetic at the data sheet's rate. */
function floorMs(pipe, { width, height, text }, precision) {
  const { flops } = pipe.plan({ width, height, maxSequenceLength: text }).describe();
  return flops / (PEAK_TFLOPS[precision] * 1e9);
}

function besidePeer(name, ms, floor, peers, size) {
  const precision = name.endsWith("bf16") ? ["bf16"] : ["bf16", "fp8"];
  const [best] = peers
    .filter((row) => row.case === `${size} step` && precision.includes(row.precision))
    .toSorted((a, b) => a.ms - b.ms);
  const row = { ...timeRow(name, ms), floorPercent: rounded((100 * floor) / ms) };
  return best === undefined
    ? row
    : { ...row, peer: `PyTorch, ${best.peer}`, peerValue: best.ms, ratio: rounded(best.ms / ms) };
}

function besideParts(name, ms, peer, parts) {
  return { ...timeRow(name, ms), peer, peerValue: rounded(parts), ratio: rounded(parts / ms) };
}

/** What bench/peers/image.py prints; nothing where there is no Python with PyTorch. */
function measurePeers() {
  const file = join(mkdtempSync(join(tmpdir(), "fluxwarp-bench-")), "peers.json");
  const script = fileURLToPath(new URL("../peers/image.py", import.meta.url));
  const { status } = spawnSync("python3", [script, "--json", file], {
    stdio: ["ignore", "inherit", "inherit"],
  });
  if (status === 0) return JSON.parse(readFileSync(file, "utf8"));
  console.error("bench/peers/image.py did not run (it needs python3 with PyTorch): no peers in these rows");
  return [];
}

function rounded(value) {
  return Number(value.toPrecision(4));
}
