// How far the noise prediction of a model with FLUX.1's widths, 2 double and 4 single blocks, is from PyTorch's in f32: ours in each precision beside
// PyTorch's in bf16 and with per-row fp8 linears (bench/peers/accuracy.py), on one checkpoint that both read. 1024², 512 tokens of text.
//
//   npm run bench -- accuracy
//   npm run bench -- accuracy --tiny       one block of each kind and a small image, on the CPU: do both read the same model?
import { spawnSync } from "node:child_process";
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

const SIZE = { rows: 64, columns: 64, text: 512, draws: 3, doubles: 2, singles: 4 };
const TINY = { rows: 8, columns: 8, text: 16, draws: 1, doubles: 1, singles: 1 };
/** Ours, and PyTorch's: of the same linears, and first with attention of as many bits. */
const COMPARED = [
  { name: "bf16", load: { precision: "bf16" }, peers: ["bf16"] },
  { name: "fp8, attention in bf16", load: { precision: "fp8", attention: "bf16" }, peers: ["fp8"] },
  {
    name: "fp8, attention in int8 (the default)",
    load: { precision: "fp8", attention: "int8" },
    peers: ["fp8_e4m3", "fp8"],
  },
  {
    name: "fp8, attention in fp8",
    load: { precision: "fp8", attention: "fp8" },
    peers: ["fp8_e4m3", "fp8"],
  },
];
const PER_ROW = "PyTorch, fp8 per row (torch._scaled_mm)";
const LABELS = {
  bf16: "PyTorch, bf16",
  fp8: `${PER_ROW}, attention in bf16`,
  fp8_e4m3: `${PER_ROW}, attention of unscaled e4m3 casts as FlashAttention-3's, emulated`,
};

/** @param {{ device?: string, tiny?: boolean }} [setting] */
export async function* bench({ tiny = false, device = tiny ? "cpu" : "cuda:0" } = {}) {
  const { synthesise } = await import("../../dist/pipelines/synthesise.js");
  const { FluxPipeline } = await import("../../dist/index.js");
  const size = tiny ? TINY : SIZE;
  const scratch = mkdtempSync(join(existsSync("/dev/shm") ? "/dev/shm" : tmpdir(), "fluxwarp-accuracy-"));
  try {
    const folder = join(scratch, "checkpoint");
    await synthesise(configOf(size), folder, { precision: "bf16" });
    const peers = runPeers(folder, join(scratch, "peers"), size, device);
    const compared = tiny
      ? [{ name: "f32", load: { precision: "f32" }, peers: ["bf16"] }, ...COMPARED.slice(1)]
      : COMPARED;
    const theirs = (name) => Array.from({ length: size.draws }, (_, draw) => peers(name, draw));
    const exact = theirs("f32");
    const errorOf = (predictions) => error(predictions, exact);
    const errors = new Map();
    for (const { name, load, peers: names } of compared) {
      const pipe = await FluxPipeline.fromPretrained(folder, { device, ...load });
      const ours = [];
      for (let draw = 0; draw < size.draws; draw++) ours.push(await predict(pipe, peers, draw, size));
      pipe.dispose();
      errors.set(load.attention, errorOf(ours));
      const measured = names.map((peer) => [LABELS[peer], errorOf(theirs(peer))]);
      yield row(`${name}, against f32`, size, errorOf(ours), measured);
    }
    const share = (whole, part) => Math.sqrt(Math.max(0, whole ** 2 - part ** 2));
    const added = share(errorOf(theirs("fp8_e4m3")), errorOf(theirs("fp8")));
    for (const attention of ["int8", "fp8"]) {
      const own = share(errors.get(attention), errors.get("bf16"));
      const name = `what attention in ${attention} adds to fp8's error with attention in bf16, in quadrature`;
      yield row(name, size, own, [["PyTorch, unscaled e4m3 casts, emulated", added]]);
    }
  } finally {
    rmSync(scratch, { recursive: true, force: true });
  }
}

/** The text encoders are not run, so one layer of each will do. */
function configOf({ doubles, singles }) {
  const transformer = { num_layers: doubles, num_single_layers: singles };
  return {
    ...{ base: "flux1-dev", transformer },
    ...{ text_encoder: { num_hidden_layers: 1 }, text_encoder_2: { num_layers: 1 } },
  };
}

/** @returns what reads a tensor of a draw that bench/peers/accuracy.py wrote. */
function runPeers(folder, out, { rows, columns, text, draws }, device) {
  mkdirSync(out);
  const script = fileURLToPath(new URL("../peers/accuracy.py", import.meta.url));
  const sizes = Object.entries({ rows, columns, text, draws }).flatMap(([name, value]) => [
    `--${name}`,
    String(value),
  ]);
  const parameters = [script, folder, out, ...sizes, "--device", device === "cpu" ? "cpu" : "cuda"];
  const { status } = spawnSync(process.env.PYTHON ?? "python3", parameters, { stdio: ["ignore", 2, 2] });
  if (status !== 0) throw new Error("bench/peers/accuracy.py failed (it needs python3 with PyTorch)");
  return (name, draw) => {
    const bytes = readFileSync(join(out, `${name}.${draw}.f32`));
    return new Float32Array(bytes.buffer, bytes.byteOffset, bytes.length / 4).slice();
  };
}

/** One step from sigma 1 to 0 takes the prediction away from the latents. */
async function predict(pipe, peers, draw, { rows, columns, text }) {
  const given = peers("latents", draw);
  const { latents } = await pipe.generate({
    latents: { data: given, shape: [1, rows * columns, 64] },
    promptEmbeds: { data: peers("text", draw), shape: [1, text, 4096] },
    pooledPromptEmbeds: { data: peers("pooled", draw), shape: [1, 768] },
    ...{
      height: 16 * rows,
      width: 16 * columns,
      numInferenceSteps: 1,
      guidanceScale: 3.5,
      outputType: "latents",
    },
  });
  return given.map((value, i) => value - latents.data[i]);
}

/** Relative L2 over all draws. */
function error(predictions, exact) {
  let [difference, norm] = [0, 0];
  predictions.forEach((prediction, draw) => {
    for (let i = 0; i < prediction.length; i++) {
      difference += (prediction[i] - exact[draw][i]) ** 2;
      norm += exact[draw][i] ** 2;
    }
  });
  return Math.sqrt(difference / norm);
}

/** The first peer is the one to compare with; where there are others, `peers` has all. */
function row(name, { doubles, singles, draws }, value, measured) {
  const rounded = (number) => Number(number.toPrecision(4));
  const [[peer, peerValue]] = measured;
  const all = Object.fromEntries(measured.map(([label, error]) => [label, rounded(error)]));
  return {
    case: `noise prediction, ${doubles} + ${singles} blocks, ${draws} draws, ${name}`,
    ...{ ms: null, value: rounded(value), unit: "relative L2" },
    ...{ peer, peerValue: rounded(peerValue), ratio: rounded(peerValue / value), floorPercent: null },
    ...(measured.length > 1 && { peers: all }),
  };
}
