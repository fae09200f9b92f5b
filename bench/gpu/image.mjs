// FLUX.1 on the GPU at full size with made-up weights: a step of every size that people run, sustained, and whole images from
// prompt (and picture) to RGB in host memory, beside the same steps through PyTorch (bench/peers/image.py).
//
//   npm run bench -- image                                    all of it
//   npm run bench -- image --precision fp8 --no-peers         a part; rows of one build and GPU come together in one file
//   npm run bench -- image --precision bf16 --peers eager,compiled --parts steps --shapes "dev 1024²"
//   npm run bench -- image --tiny                             the small model on the CPU: does this program work?
//
// Ours comes first, so that its rows are there whatever becomes of the peers. They are then made ready, and each step is measured
// again right before its peer: both under the same power limit, on an equally warm GPU.
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
  fp8: { shapes: SHAPES.map(({ name }) => name), images: true, peers: ["fp8", "encoders"] },
  bf16: { shapes: ["dev 1024²"], images: false, peers: ["eager", "compiled"] },
};
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
    const parts = setting.parts ?? (asked.images ? ["steps", "images"] : ["steps"]);
    const recipes = tiny ? [] : (setting.peers ?? asked.peers);
    const peers = recipes.length > 0 ? startPeers() : undefined; // starts up while the weights are made
    try {
      const { FluxPipeline } = await import("../../dist/index.js");
      const options = { weights: "random", device, precision, variant: "kontext" };
      const pipe = await FluxPipeline.fromConfig(config, options);
      const measured = yield* ours(pipe, precision, shapes, parts);
      if (peers !== undefined) yield* besidePeers(pipe, precision, measured, parts, peers, recipes);
      pipe.dispose();
    } finally {
      peers?.end();
    }
  }
}

/** @returns the shapes that could be measured */
async function* ours(pipe, precision, shapes, parts) {
  const steps = new Map();
  for (const shape of shapes) {
    try {
      const ms = await stepMs(pipe, shape);
      steps.set(shape.name, ms);
      if (parts.includes("steps")) yield stepRow(pipe, shape, precision, ms);
    } catch (error) {
      console.error(`${shape.name} was not measured: ${error.message}`); // the others still are
    }
  }
  const measured = shapes.filter(({ name }) => steps.has(name));
  for (const { shape: name, steps: count } of parts.includes("images") ? IMAGES : []) {
    const shape = measured.find((candidate) => candidate.name === name);
    if (shape !== undefined) yield* wholeImage(pipe, shape, precision, count, steps.get(name));
  }
  return measured;
}

async function* besidePeers(pipe, precision, shapes, parts, peers, recipes) {
  const ready = [];
  for (const recipe of recipes.filter((name) => name !== "encoders")) {
    for (const { name } of parts.includes("steps") ? shapes : []) {
      // Without a graph for each shape there is no time of it; what fails is said on stderr.
      if (await peers.ask("capture", recipe, name)) ready.push({ recipe, name });
    }
  }
  for (const shape of shapes) {
    const own = ready.filter(({ name }) => name === shape.name);
    if (own.length === 0) continue;
    const ms = await stepMs(pipe, shape);
    const measured = {};
    for (const { recipe, name } of own) {
      const answer = await peers.ask("time", recipe, name);
      if (answer) measured[answer.peer] = answer.ms;
    }
    yield { ...stepRow(pipe, shape, precision, ms), ...peersOf(ms, measured) };
  }
  if (!recipes.includes("encoders")) return;
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

/** Stripes: what is in it does not matter. */
function picture(side) {
  return { width: side, height: side, data: Uint8Array.from({ length: 3 * side * side }, (_, i) => i & 255) };
}

/** From the prompt, which is new, to RGB bytes in host memory; the first of its size by itself. */
async function* wholeImage(pipe, shape, precision, steps, step) {
  const once = async (prompt) => {
    const begin = performance.now();
    const { timings } = await pipe.generate({ ...requestOf(shape), prompt, numInferenceSteps: steps });
    return { ms: performance.now() - begin, timings };
  };
  const name = `${shape.name}, ${precision}, ${steps} steps`;
  const first = await once(`${PROMPT}, ${steps}`);
  const runs = [];
  for (let i = 0; i < REPEATS; i++) runs.push(await once(`${PROMPT}, ${steps} again ${i}`));
  const { ms, timings } = runs.toSorted((a, b) => a.ms - b.ms)[REPEATS >> 1];
  const { encode, decode } = timings;
  const from = shape.reference ? "prompt and picture" : "prompt";
  yield {
    ...timeRow(`${name}, ${from} to RGB`, ms),
    ...beside(ms, "encoders + steps + VAE", encode + steps * step + decode),
  };
  yield timeRow(`${name}, the first one of its size takes longer by`, first.ms - ms);
  yield timeRow(`${name}, encoders${shape.reference ? ", the VAE's among them" : ""}`, encode);
  yield timeRow(`${name}, VAE decode to host memory`, decode);
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
