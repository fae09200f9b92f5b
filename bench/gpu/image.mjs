// FLUX.1 on the GPU at full size with made-up weights: a step of every size that people run, sustained, and whole images from
// prompt (and picture) to RGB in host memory, beside the same steps through PyTorch (bench/peers/image.py).
//
//   npm run bench -- image                                      all of it
//   npm run bench -- image --precision fp8 --parts images       a part; rows of one build and GPU come together in one file
//   npm run bench -- image --precision fp8 --parts steps --shapes "dev 1024²,dev 512²"
//   npm run bench -- image --precision bf16 --peers eager,compiled
//   npm run bench -- image --tiny                               the small model on the CPU: does this program work?
//
// Peers compile while our weights are made. Each step is measured right before its peers': all under the same power limit, on an
// equally warm GPU. A peer that fails leaves its row without it.
import { randomFillSync } from "node:crypto";
import { findModel } from "../../scripts/find-model.mjs";
import { startPeers } from "../peers/image.mjs";
import { timeRow } from "../results.mjs";

/**
 * Sizes in pixels, tokens of text, and steps that take some seconds. Kontext has a reference of its own size. Its weights have dev's
 * shapes, so that one model, loaded as Kontext, serves all.
 */
const SHAPES = [
  { name: "dev 1024²", side: 1024, text: 512, steps: 48 },
  { name: "dev 512²", side: 512, text: 512, steps: 144 },
  { name: "schnell 1024²", side: 1024, text: 256, steps: 48 },
  { name: "kontext 1024²", side: 1024, text: 512, steps: 24, reference: true },
];
/** Whole images, of the shape of that name. */
const IMAGES = [
  { shape: "dev 1024²", steps: 28 },
  { shape: "schnell 1024²", steps: 4 },
  { shape: "kontext 1024²", steps: 28 },
];
const REPEATS = 3;
/** Which shapes and peers a precision has unless others are asked for. */
const DEFAULTS = {
  fp8: { shapes: SHAPES.map(({ name }) => name), parts: ["steps", "images"], peers: ["fp8", "fp8-tuned"] },
  bf16: { shapes: ["dev 1024²"], parts: ["steps"], peers: ["eager", "compiled"] },
};
/** Recipes that take long to compile, for these shapes alone. */
const ONLY = { "fp8-tuned": ["dev 1024²"] };
const TINY = {
  device: "cpu",
  precisions: ["fp8"],
  shapes: SHAPES.map((shape) => ({ ...shape, side: shape.side / 16, text: 77, steps: 4 })),
};
/** Of the H200's data sheet, dense. */
const PEAK_TFLOPS = { fp8: 1979, bf16: 989 };
const PROMPT = "a harbour at dawn, fishing boats, gulls over the lighthouse";

/**
 * @param {{ device?: string, config?: string, precision?: "fp8" | "bf16", parts?: string[], shapes?: string[], peers?: string[],
 *   tiny?: boolean }} [setting] `parts` are steps and images; an empty `peers` is none
 */
export async function* bench(setting = {}) {
  const { tiny = false, device = tiny ? TINY.device : "cuda:0" } = setting;
  const config = setting.config ?? (tiny ? findModel() : "flux1-dev");
  const precisions = setting.precision ? [setting.precision] : tiny ? TINY.precisions : ["fp8", "bf16"];
  for (const precision of precisions) {
    const asked = { ...DEFAULTS[precision], ...(setting.shapes && { shapes: setting.shapes }) };
    const shapes = (tiny ? TINY.shapes : SHAPES).filter(({ name }) => asked.shapes.includes(name));
    const parts = setting.parts ?? asked.parts;
    const recipes = tiny || !parts.includes("steps") ? [] : (setting.peers ?? asked.peers);
    const peers = recipes.length > 0 ? startPeers() : undefined;
    const ready = recipes
      .filter((recipe) => recipe !== "encoders")
      .flatMap((recipe) =>
        shapes
          .filter(({ name }) => ONLY[recipe]?.includes(name) ?? true)
          .map(({ name }) => capture(peers, recipe, name)),
      );
    try {
      const { FluxPipeline } = await import("../../dist/index.js");
      const options = { weights: "random", device, precision, variant: "kontext" };
      const pipe = await FluxPipeline.fromConfig(config, options);
      const captured = (await Promise.all(ready)).filter(Boolean); // what compiles must not run beside what is measured
      const measured = yield* steps(pipe, precision, shapes, parts, captured, peers);
      if (parts.includes("images")) yield* images(pipe, precision, shapes, measured);
      if (recipes.includes("encoders")) yield* encoders(peers);
      pipe.dispose();
    } finally {
      peers?.end();
    }
  }
}

/** @returns undefined when the peer cannot run that shape; stderr says why. */
async function capture(peers, recipe, shape) {
  return (await peers.ask("capture", recipe, shape)) && { recipe, shape };
}

/** @returns milliseconds of a step by shape. */
async function* steps(pipe, precision, shapes, parts, captured, peers) {
  const measured = new Map();
  const isWanted = ({ name }) => parts.includes("steps") || IMAGES.some((image) => image.shape === name);
  for (const shape of shapes.filter(isWanted)) {
    try {
      measured.set(shape.name, await stepMs(pipe, shape));
    } catch (error) {
      console.error(`${shape.name} was not measured: ${error.message}`); // the others still are
      continue;
    }
    if (!parts.includes("steps")) continue;
    const ms = measured.get(shape.name);
    const theirs = {};
    for (const { recipe } of captured.filter((peer) => peer.shape === shape.name)) {
      const answer = await peers.ask("time", recipe, shape.name);
      if (answer) theirs[answer.peer] = answer.ms;
    }
    yield { ...stepRow(pipe, shape, precision, ms), ...peersOf(ms, theirs) };
  }
  return measured;
}

async function* images(pipe, precision, shapes, measured) {
  for (const { shape: name, steps: count } of IMAGES) {
    const shape = shapes.find((candidate) => candidate.name === name);
    if (measured.has(name)) yield* wholeImage(pipe, shape, precision, count, measured.get(name));
  }
}

async function* encoders(peers) {
  for (const encoder of ["T5, 512 tokens", "CLIP"]) {
    for (const row of (await peers.ask("encoder", encoder)) || [])
      yield timeRow(`${row.case}, ${row.peer}`, row.ms);
  }
}

/** Milliseconds of a step in the middle of a long run: the GPU is warm, and the host has queued ahead. */
async function stepMs(pipe, shape) {
  const warm = Math.ceil(shape.steps / 3);
  const times = [];
  await pipe.generate({
    ...requestOf(shape),
    prompt: PROMPT,
    numInferenceSteps: shape.steps,
    outputType: "latents",
    onStep: () => times.push(performance.now()),
  });
  return (times.at(-1) - times[warm - 1]) / (times.length - warm);
}

function requestOf({ side, text, reference }) {
  return {
    ...{ width: side, height: side, maxArea: side * side, maxSequenceLength: text },
    ...(reference && { image: picture(side), autoResize: false }),
  };
}

const pictures = new Map();
/** Noise: what is in it does not matter. Made once: three million values are a tenth of a second, which is not the image's. */
function picture(side) {
  if (!pictures.has(side)) pictures.set(side, randomFillSync(new Uint8Array(3 * side * side)));
  return { width: side, height: side, data: pictures.get(side) };
}

/** From the prompt, which is new, to RGB bytes in host memory; the first of its size by itself. */
async function* wholeImage(pipe, shape, precision, steps, step) {
  const request = { ...requestOf(shape), numInferenceSteps: steps };
  const once = async (prompt) => {
    const begin = performance.now();
    const { timings } = await pipe.generate({ ...request, prompt });
    return { ms: performance.now() - begin, timings };
  };
  const name = `${shape.name}, ${precision}, ${steps} steps`;
  const first = await once(`${PROMPT}, ${steps}`);
  const runs = [];
  for (let i = 0; i < REPEATS; i++) runs.push(await once(`${PROMPT}, ${steps} again ${i}`));
  const { ms, timings } = runs.toSorted((a, b) => a.ms - b.ms)[REPEATS >> 1];
  const { encode, denoise, decode } = timings;
  const from = shape.reference ? "prompt and picture" : "prompt";
  yield {
    ...timeRow(`${name}, ${from} to RGB`, ms),
    ...beside(ms, "encoders + steps + VAE", encode + steps * step + decode),
  };
  yield timeRow(`${name}, the first one of its size takes longer by`, first.ms - ms);
  yield timeRow(`${name}, encoders${shape.reference ? ", the VAE's among them" : ""}`, encode);
  yield timeRow(`${name}, VAE decode to host memory`, decode);
  if (shape.reference) yield timeRow(`${name}, reading the picture`, ms - encode - denoise - decode);
}

/** With every linear's and attention's arithmetic at the data sheet's rate. */
function stepRow(pipe, shape, precision, ms) {
  const { side, text, reference } = shape;
  const height = reference ? 2 * side : side; // as many tokens
  const size = { width: side, height, maxArea: side * height };
  // Not with the steps of the whole images: those are to find nothing recorded.
  const { flops } = pipe
    .plan({ ...size, maxSequenceLength: text, numInferenceSteps: shape.steps })
    .describe();
  const floor = flops / (PEAK_TFLOPS[precision] * 1e9);
  return { ...timeRow(`${shape.name} step, ${precision}`, ms), floorPercent: rounded((100 * floor) / ms) };
}

/** The best of the peers, and all of them by name. */
function peersOf(ms, measured) {
  const [best] = Object.entries(measured).toSorted(([, a], [, b]) => a - b);
  return best === undefined ? {} : { ...beside(ms, `PyTorch, ${best[0]}`, best[1]), peers: measured };
}

function beside(ms, peer, peerMs) {
  return { peer, peerValue: rounded(peerMs), ratio: rounded(peerMs / ms) };
}

function rounded(value) {
  return Number(value.toPrecision(4));
}
