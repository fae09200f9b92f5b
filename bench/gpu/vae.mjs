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

/** @param {{ device?: string, config?: string, peers?: string[] }} [setting] an empty `peers` is none */
export async function bench({ device: name = "cuda:0", config = "flux1-dev", peers = ["vae"] } = {}) {
  const measured = peers.length === 0 ? {} : measurePeers();
  const { Device } = await import("../../dist/runtime/device.js");
  const { resolveConfig } = await import("../../dist/loaders/pipeline-configs.js");
  const { RandomWeights } = await import("../../dist/loaders/random-weights.js");
  const { AutoencoderKL } = await import("../../dist/models/vae/autoencoder.js");
  const device = Device.open(name);
  const configs = await resolveConfig(config);
  const vae = new AutoencoderKL(device, configs.vae);
  await vae.load(new RandomWeights(vae.tensors(), 0));
  const channels = configs.vae.latentChannels;
  const rows = [];
  const layers = [];
  const decodes = [
    { title: "decode 1024²", batch: 1, height: 1024, width: 1024, peer: "decode/1024" },
    { title: "decode 512×768", batch: 1, height: 512, width: 768 },
    { title: "decode 512×768, batch 4", batch: 4, height: 512, width: 768 },
    { title: "decode 2048²", batch: 1, height: 2048, width: 2048 },
    { title: "decode 2048² in tiles of 1024", batch: 1, height: 2048, width: 2048, tileSize: 1024 },
  ];
  for (const { title, batch, height, width, peer, tileSize } of decodes) {
    const build = async () => {
      const z = device.buffer("f32", [batch, height / 8, width / 8, channels]);
      await z.write(gaussian(z.elements));
      const pixels = device.buffer("u8", [batch, height, width, 3]);
      const plan = device.record(title, (g) => g.toImage(vae.decode(g, z, { tileSize }), pixels));
      return { plan, buffers: [z, pixels] };
    };
    rows.push(...(await measure(device, title, build, peer && measured, peer, layers)));
  }
  const encode = async () => {
    const pixels = device.buffer("u8", [1, 1024, 1024, 3]);
    await pixels.write(new Uint8Array(pixels.elements).map((_, i) => (i * 2654435761) >>> 24));
    const out = device.buffer("f32", [1, 128, 128, 2 * channels]);
    const plan = device.record("encode", (g) => g.copy(vae.encode(g, g.fromImage(pixels)), out));
    return { plan, buffers: [pixels, out] };
  };
  rows.push(...(await measure(device, "encode 1024²", encode, measured, "encode/1024", layers)));
  vae.dispose();
  device.dispose();
  return [...rows, ...layers, ...peerLayers(measured)];
}

/** Rows of a plan: its time, the memory that it takes and what was forecast; with a peer also its layers. */
async function measure(device, title, build, measured, peer, layers) {
  await device.drain();
  const before = device.memoryUsage().allocated;
  const { plan, buffers } = await build();
  const own = buffers.reduce((sum, buffer) => sum + buffer.bytes, 0);
  const ms = await sustainedMs(plan, peer ? SUSTAINED_MS : SUSTAINED_MS / 3);
  const taken = device.memoryUsage().allocated - before - own;
  const rows = [];
  const { flops, arenaBytes } = plan.describe();
  const floor = Number(((1e5 * flops) / PEAK_FLOPS / ms).toPrecision(4));
  const row = { ...timeRow(`VAE ${title}`, ms), floorPercent: floor };
  const others = Object.entries(measured ?? {}).filter(([name]) => peer && name.startsWith(`${peer}/`));
  rows.push(...(others.length === 0 ? [row] : others.map(([name, value]) => beside(row, name, value))));
  rows.push({
    ...timeRow(`VAE ${title}, memory in the arena (MB)`, taken / 1e6),
    ms: null,
    unit: "MB",
    peer: "the plan's forecast",
    peerValue: Number((arenaBytes / 1e6).toPrecision(4)),
  });
  if (peer) {
    await plan.profile();
    layers.push(...layerRows(title, plan.describe().ops));
  }
  plan.dispose();
  for (const buffer of buffers) buffer.dispose();
  return rows;
}

function beside(row, name, value) {
  const peer = `PyTorch, ${name.split("/").at(-1)}`;
  return {
    ...row,
    peer,
    peerValue: Number(value.toPrecision(4)),
    ratio: Number((value / row.ms).toPrecision(4)),
  };
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

/** PyTorch's plain convolutions, for comparison with the layers. */
function peerLayers(measured) {
  return Object.entries(measured)
    .filter(([name]) => name.startsWith("conv/"))
    .map(([name, value]) => timeRow(`PyTorch ${name}`, value));
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
