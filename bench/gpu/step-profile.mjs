// Where a step of FLUX.1-dev at 1024² goes: every kind of op with its count, time, share of the step and share of its floor (the
// longer of its arithmetic and its bytes at the H200's data-sheet rates).
const PEAK = { fp8: 1979e9, bf16: 989e9 }; // operations a millisecond
const BYTES = 4.8e9; // a millisecond

/** @param {{ device?: string, config?: string, precision?: "fp8" | "bf16" }} [setting] */
export async function bench({ device = "cuda:0", config = "flux1-dev", precision = "fp8" } = {}) {
  const { FluxPipeline } = await import("../../dist/index.js");
  const pipe = await FluxPipeline.fromConfig(config, { weights: "random", device, precision });
  const request = { width: 1024, height: 1024, maxSequenceLength: 512, numInferenceSteps: 28 };
  await pipe.generate({ ...request, prompt: "warm", outputType: "latents" });
  const { ops } = (await pipe.profile(request)).describe();
  pipe.dispose();
  const kinds = new Map();
  for (const [at, op] of ops.entries()) {
    if (op.ms === undefined) continue;
    const name = op.kind === "together" ? `${ops[at + 1].kind} of text and image` : op.kind;
    const kind = kinds.get(name) ?? { count: 0, ms: 0, floor: 0 };
    kind.count++;
    kind.ms += op.ms;
    kind.floor += Math.max(op.flops / PEAK[precision], op.bytes / BYTES);
    kinds.set(name, kind);
  }
  const total = [...kinds.values()].reduce((sum, { ms }) => sum + ms, 0);
  return [...kinds]
    .toSorted(([, a], [, b]) => b.ms - a.ms)
    .map(([kind, { count, ms, floor }]) => ({
      case: `${kind} × ${count}`,
      ms: rounded(ms),
      value: rounded((100 * ms) / total),
      unit: "% of the step",
      peer: null,
      peerValue: null,
      ratio: null,
      floorPercent: rounded((100 * floor) / ms),
    }));
}

function rounded(value) {
  return Number(value.toPrecision(3));
}
