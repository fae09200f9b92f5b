// FLUX's autoencoder on the GPU with made-up weights: decode to 8-bit pixels and encode, sustained, beside PyTorch in the same run
// (bench/peers/vae.py); every layer of the decode and of the encode at 1024² by itself; and memory beside the plan's forecast.
import { spawnSync } from "node:child_process";
import { mkdtempSync, readFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { timeRow } from "../results.mjs";

/** Of the H200's data sheet, dense bf16; and a device copy's measured rate (bench/NOTES.md). */
const PEAK_FLOPS = 989e12;
const BYTES_PER_SECOND = 4.27e12;
/** Of what has a peer; of the others a third. */
const SUSTAINED_MS = 1000;

/**
 * Ours first, row by row; then, unless `peers` is empty, PyTorch, and our whole decode and encode once more right after it.
 * @param {{ device?: string, config?: string, peers?: string[] }} [setting]
 */
export async function* bench({ device: name = "cuda:0", config = "flux1-dev", peers = ["vae"] } = {}) {
  const { Device } = await import("../../dist/runtime/device.js");
  const { resolveConfig } = await import("../../dist/loaders/pipeline-configs.js");
  const { RandomWeights } = await import("../../dist/loaders/random-weights.js");
  const { AutoencoderKL } = await import("../../dist/models/vae/autoencoder.js");
  const device = Device.open(name);
  const configs = await resolveConfig(config);
  const vae = new AutoencoderKL(device, configs.vae);
  await vae.load(new RandomWeights(vae.tensors(), 0));
  const runs = runsOf(device, vae, configs.vae.latentChannels);
  for (const run of runs) yield* measure(device, run);
  if (peers.length > 0) yield* besidePeers(runs);
  vae.dispose();
  device.dispose();
}

/** What is measured: titles, the peer's name for it where there is one, and what builds the plan. */
function runsOf(device, vae, channels) {
  const decode = (title, batch, height, width, { tileSize, peer } = {}) => ({
    title,
    peer,
    build: async () => {
      const z = device.buffer("f32", [batch, height / 8, width / 8, channels]);
      await z.write(gaussian(z.elements));
      const pixels = device.buffer("u8", [batch, height, width, 3]);
      const plan = device.record(title, (g) => g.toImage(vae.decode(g, z, { tileSize }), pixels));
      return { plan, buffers: [z, pixels] };
    },
  });
  const encode = async () => {
    const pixels = device.buffer("u8", [1, 1024, 1024, 3]);
    await pixels.write(new Uint8Array(pixels.elements).map((_, i) => (i * 2654435761) >>> 24));
    const out = device.buffer("f32", [1, 128, 128, 2 * channels]);
    const plan = device.record("encode", (g) => g.copy(vae.encode(g, g.fromImage(pixels)), out));
    return { plan, buffers: [pixels, out] };
  };
  return [
    decode("decode 1024²", 1, 1024, 1024, { peer: "decode/1024" }),
    { title: "encode 1024²", peer: "encode/1024", build: encode },
    decode("decode 512×768", 1, 512, 768),
    decode("decode 512×768, batch 4", 4, 512, 768),
    decode("decode 2048²", 1, 2048, 2048),
    decode("decode 2048² in tiles of 1024", 1, 2048, 2048, { tileSize: 1024 }),
  ];
}

/** Rows of a plan: its time, the memory that it takes and what was forecast; with a peer also its layers. */
async function* measure(device, { title, peer, build }) {
  await device.drain();
  const before = device.memoryUsage().allocated;
  const { plan, buffers } = await build();
  const own = buffers.reduce((sum, buffer) => sum + buffer.bytes, 0);
  const ms = await sustainedMs(plan, peer ? SUSTAINED_MS : SUSTAINED_MS / 3);
  const taken = device.memoryUsage().allocated - before - own;
  yield wholeRow(title, plan, ms);
  yield {
    ...timeRow(`VAE ${title}, memory in the arena (MB)`, taken / 1e6),
    ms: null,
    unit: "MB",
    peer: "the plan's forecast",
    peerValue: Number((plan.describe().arenaBytes / 1e6).toPrecision(4)),
  };
  if (peer) {
    await plan.profile();
    yield* layerRows(title, plan.describe().ops);
  }
  release(plan, buffers);
}

/** Rows beside PyTorch's whole decodes and encodes, and its convolutions alone, for comparison with our layers. */
async function* besidePeers(runs) {
  const measured = Object.entries(measurePeers());
  for (const { title, peer, build } of runs) {
    const others = measured.filter(([name]) => peer && name.startsWith(`${peer}/`));
    if (others.length === 0) continue;
    const { plan, buffers } = await build();
    const row = wholeRow(title, plan, await sustainedMs(plan, SUSTAINED_MS));
    for (const [name, value] of others) {
      const other = `PyTorch, ${name.split("/").at(-1)}`;
      yield {
        ...row,
        case: `${row.case} beside ${other}`,
        peer: other,
        peerValue: Number(value.toPrecision(4)),
        ratio: Number((value / row.ms).toPrecision(4)),
      };
    }
    release(plan, buffers);
  }
  for (const [name, value] of measured) {
    if (name.startsWith("conv/")) yield timeRow(`PyTorch ${name}`, value);
  }
}

function wholeRow(title, plan, ms) {
  const floor = (1e5 * plan.describe().flops) / PEAK_FLOPS / ms;
  return { ...timeRow(`VAE ${title}`, ms), floorPercent: Number(floor.toPrecision(4)) };
}

function release(plan, buffers) {
  plan.dispose();
  for (const buffer of buffers) buffer.dispose();
}

/** Mean of a run that follows others: two are queued at any time. */
async function sustainedMs(plan, least) {
  const timed = async (count) => {
    const begin = performance.now();
    let last = plan.run();
    for (let i = 1; i < count; i++) {
      const next = plan.run();
      await last;
      last = next;
    }
    await last;
    return (performance.now() - begin) / count;
  };
  await timed(3);
  return timed(Math.max(5, Math.ceil(least / (await timed(3)))));
}

/** A row for each kind of layer, by shapes: the mean of its ops, run one after another by themselves. */
function layerRows(title, ops) {
  const groups = new Map();
  for (const op of ops) {
    const { x, q, sums, affine, residual } = op.inputs;
    const shape = (x ?? q ?? sums ?? "").replace(/ \w+$/, "");
    const to = (op.outputs.y ?? op.outputs.sums ?? "").replace(/ \w+$/, "");
    const parts = [
      affine && "norm",
      residual && "residual",
      op.outputs.sums && op.kind === "conv2d" && "sums",
    ];
    const with_ = parts.filter(Boolean).join(", ");
    const key = `VAE ${title}, ${op.kind} ${shape} → ${to}${with_ && `, ${with_}`}`;
    groups.set(key, [...(groups.get(key) ?? []), op]);
  }
  return [...groups].map(([key, list]) => {
    const ms = list.reduce((sum, op) => sum + op.ms, 0) / list.length;
    const floor = 1000 * Math.max(list[0].flops / PEAK_FLOPS, list[0].bytes / BYTES_PER_SECOND);
    const matrix = /^VAE .*, (conv2d|linear|attention) /.test(key);
    return {
      ...timeRow(`${key} (${list.length}×)`, ms),
      ...(matrix && { value: Number((list[0].flops / ms / 1e9).toPrecision(4)), unit: "TFLOP/s" }),
      floorPercent: Number(((100 * floor) / ms).toPrecision(4)),
    };
  });
}

/** Normal values, always the same. */
function gaussian(count) {
  let state = 1;
  const uniform = () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return (state + 1) / 2 ** 32;
  };
  return new Float32Array(count).map(
    () => Math.sqrt(-2 * Math.log(uniform())) * Math.cos(2 * Math.PI * uniform()),
  );
}

function measurePeers() {
  const file = join(mkdtempSync(join(tmpdir(), "fluxwarp-bench-")), "peers.json");
  const script = fileURLToPath(new URL("../peers/vae.py", import.meta.url));
  const { status } = spawnSync("python3", [script, "--json", file], {
    stdio: ["ignore", "inherit", "inherit"],
  });
  if (status === 0) return JSON.parse(readFileSync(file, "utf8"));
  console.error("bench/peers/vae.py did not run (it needs python3 with PyTorch): no peers in these rows");
  return {};
}
