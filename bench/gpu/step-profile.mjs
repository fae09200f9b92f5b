// Where a step of FLUX.1-dev and of Kontext at 1024² goes: every kind of op with its count, time, share of the step and share of its
// floor (the longer of its arithmetic and its bytes at the H200's data-sheet rates).
const PEAK = { fp8: 1979e9, bf16: 989e9 }; // operations a millisecond
const BYTES = 4.8e9; // a millisecond
const SIDE = 1024;
/** Kontext's weights have dev's shapes, so that one model, loaded as Kontext, serves both; its reference is as large as the image. */
const STEPS = [
  { name: "", request: {} },
  {
    name: "Kontext, ",
    request: {
      image: { width: SIDE, height: SIDE, data: new Uint8Array(3 * SIDE * SIDE).fill(90) },
      autoResize: false,
    },
  },
];

/** @param {{ device?: string, config?: string, precision?: "fp8" | "bf16" }} [setting] */
export async function* bench({ device = "cuda:0", config = "flux1-dev", precision = "fp8" } = {}) {
  const { FluxPipeline } = await import("../../dist/index.js");
  const options = { weights: "random", device, precision, variant: "kontext" };
  const pipe = await FluxPipeline.fromConfig(config, options);
  const common = { width: SIDE, height: SIDE, maxSequenceLength: 512, numInferenceSteps: 28 };
  for (const { name, request } of STEPS) {
    const asked = { ...common, ...request };
    await pipe.generate({ ...asked, prompt: "warm", outputType: "latents" });
    const { ops } = (await pipe.profile(asked)).describe();
    yield* rows(name, ops, precision);
  }
  pipe.dispose();
}

/** The kinds of ops, the longest first, and all of them. */
function* rows(name, ops, precision) {
  const kinds = new Map();
  const all = { count: 0, ms: 0, floor: 0 };
  for (const [at, op] of ops.entries()) {
    if (op.ms === undefined) continue;
    const title = op.kind === "together" ? `${ops[at + 1].kind} of text and image` : op.kind;
    const kind = kinds.get(title) ?? { count: 0, ms: 0, floor: 0 };
    kinds.set(title, kind);
    const floor = Math.max(op.flops / PEAK[precision], op.bytes / BYTES);
    for (const sum of [kind, all]) {
      sum.count++;
      sum.ms += op.ms;
      sum.floor += floor;
    }
  }
  const sorted = [...kinds].toSorted(([, a], [, b]) => b.ms - a.ms);
  for (const [kind, { count, ms, floor }] of [...sorted, ["all ops one by one", all]]) {
    yield {
      case: `${name}${kind} × ${count}`,
      ms: rounded(ms),
      value: rounded((100 * ms) / all.ms),
      unit: "% of the step",
      peer: null,
      peerValue: null,
      ratio: null,
      floorPercent: rounded((100 * floor) / ms),
    };
  }
}

function rounded(value) {
  return Number(value.toPrecision(3));
}
