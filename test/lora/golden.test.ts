// Adapters in every file format, mixed, re-weighted, deleted and fused, against diffusers and PEFT in float32.
// All of it needs ../shared/golden: the adapters and their model are too large for this repository.

import { afterAll, beforeAll, beforeEach, describe, expect, it } from "vitest";
import { readClipTextConfig, readFluxTransformerConfig } from "../../lib/loaders/config.js";
import { WeightSource } from "../../lib/loaders/weights.js";
import { Adapters } from "../../lib/lora/adapters.js";
import { sitesOf } from "../../lib/lora/sites.js";
import { CLIPTextEncoder } from "../../lib/models/clip-text-encoder.js";
import { FluxTransformer } from "../../lib/models/flux/transformer.js";
import type { Precision } from "../../lib/nn/scope.js";
import type { Buffer } from "../../lib/runtime/buffer.js";
import { Device } from "../../lib/runtime/device.js";
import type { Plan } from "../../lib/runtime/plan.js";
import { golden, goldenPath, hasGolden, relativeL2 } from "../support/golden.js";

const TOLERANCE = 1e-4;
const CASES = "cases/lora.safetensors";
const present =
  hasGolden("lora/A_kohya.safetensors") && hasGolden(CASES) && hasGolden("tiny-flux/transformer");

/** The golden model with its adapters, recorded for the case's inputs. */
class Bench {
  readonly adapters: Adapters;
  /** Recordings so far. */
  recorded = 0;
  #plan: Plan | undefined;
  readonly #inputs = new Map<string, Buffer>();
  readonly #out: Buffer<"f32">;

  private constructor(
    readonly device: Device,
    readonly transformer: FluxTransformer,
    readonly clip: CLIPTextEncoder,
  ) {
    const folder = goldenPath("tiny-flux/transformer");
    this.adapters = new Adapters(device, sitesOf(transformer, clip), {
      forgetPlans: () => this.#forget(),
      forgetEmbeddings: () => {},
      originals: async () => WeightSource.open(folder),
    });
    const file = golden(CASES);
    const input = (name: string, shape = file.shape(name)) => {
      const buffer = device.buffer("f32", shape);
      this.#inputs.set(name, buffer);
      return buffer.write(file.f32(name));
    };
    for (const name of [
      "in.hidden_states",
      "in.encoder_hidden_states",
      "in.pooled_projections",
      "in.guidance",
    ]) {
      input(name);
    }
    input("in.timestep", [1, 1]);
    const ids = device.buffer("f32", [80, 3]);
    ids.write(file.f32("in.txt_ids"));
    ids.write(file.f32("in.img_ids"), 48);
    this.#inputs.set("ids", ids);
    const step = device.buffer("i32", [1]);
    step.write(Int32Array.of(0));
    this.#inputs.set("step", step);
    this.#out = device.buffer("f32", [1, 64, 64]);
  }

  static async open(device: Device, precision: Precision = "f32"): Promise<Bench> {
    const folder = goldenPath("tiny-flux/transformer");
    const transformer = new FluxTransformer(device, await readFluxTransformerConfig(folder), precision);
    await transformer.load(await WeightSource.open(folder));
    const clip = new CLIPTextEncoder(device, await readClipTextConfig(goldenPath("tiny-flux/text_encoder")));
    return new Bench(device, transformer, clip);
  }

  /** Loads `golden/lora/…` under a name, active alone. */
  async load(path: string, name: string): Promise<void> {
    await this.adapters.add(await this.adapters.pool.read(goldenPath(`lora/${path}`)), name, false);
  }

  async use(weights: Readonly<Record<string, number>>): Promise<void> {
    await this.adapters.setActive(Object.entries(weights).map(([name, weight]) => ({ name, weight })));
  }

  async unload(): Promise<void> {
    await this.adapters.unfuse();
    await this.adapters.delete(this.adapters.list().map(({ name }) => name));
  }

  async velocity(): Promise<Float32Array> {
    this.#plan ??= this.#record();
    await this.#plan.run();
    return this.#out.read();
  }

  ops(): string[] {
    this.#plan ??= this.#record();
    return this.#plan.describe().ops.map(({ kind }) => kind);
  }

  dispose(): void {
    this.#forget();
    this.adapters.dispose();
    for (const buffer of this.#inputs.values()) buffer.dispose();
    this.#out.dispose();
    this.transformer.dispose();
  }

  #record(): Plan {
    this.recorded++;
    const input = (name: string) => this.#inputs.get(name)!;
    return this.device.record("velocity", (g) => {
      const conditioning = {
        timesteps: input("in.timestep"),
        guidance: input("in.guidance"),
        pooled: input("in.pooled_projections"),
      };
      const table = this.transformer.modulate(g, conditioning);
      const text = this.transformer.embedText(g, input("in.encoder_hidden_states"));
      const modulation = g.takeRow(table, input("step"));
      const rope = this.transformer.rope(g, input("ids"));
      const step = { latents: input("in.hidden_states"), text, modulation, rope };
      g.copy(this.transformer.forward(g, step), this.#out);
    });
  }

  #forget(): void {
    this.#plan?.dispose();
    this.#plan = undefined;
  }
}

const A = "A/pytorch_lora_weights.safetensors";
const B = "B/pytorch_lora_weights.safetensors";
const same = (a: Float32Array, b: Float32Array) =>
  expect(globalThis.Buffer.from(a.buffer).equals(globalThis.Buffer.from(b.buffer))).toBe(true);

describe.skipIf(!present)("golden adapters (reads ../shared/golden)", () => {
  let device: Device;
  let bench: Bench;
  let base: Float32Array;
  const near = async (name: string, tolerance = TOLERANCE) =>
    expect(relativeL2(await bench.velocity(), golden(CASES).f32(`out.${name}`)), name).toBeLessThanOrEqual(
      tolerance,
    );

  beforeAll(async () => {
    device = Device.open("cpu", { threads: 2 });
    bench = await Bench.open(device);
    base = await bench.velocity();
  });
  afterAll(() => {
    bench.dispose();
    device.dispose();
  });
  beforeEach(() => bench.unload());

  it.each([
    [A, "A_1.0", "diffusers"],
    [B, "B_1.0", "diffusers"],
    ["B_alpha_keys.safetensors", "B_alpha_keys_1.0", "diffusers"],
    ["C.safetensors", "C_1.0", "diffusers"],
    ["F.safetensors", "F", "diffusers"],
    ["A_kohya.safetensors", "A_kohya", "kohya"],
    ["B_kohya.safetensors", "B_kohya", "kohya"],
    ["D_kohya.safetensors", "D_kohya", "kohya"],
    ["D_comfy.safetensors", "D_comfy", "comfyui"],
    ["A_onetrainer.safetensors", "A_onetrainer", "onetrainer"],
  ])("%s gives %s, and nothing of it is left over", async (path, expected, format) => {
    await bench.load(path, "it");
    expect(bench.adapters.list()).toMatchObject([
      { name: "it", active: true, weight: 1, format, unused: [] },
    ]);
    await near(expected);
  });

  it("scales, mixes, switches and deletes", async () => {
    await bench.load(A, "A");
    await bench.use({ A: 0.5 });
    await near("A_0.5");
    await bench.use({ A: -0.8 });
    await near("A_-0.8");
    await bench.load(B, "B");
    await near("B_1.0"); // the one that was loaded last is active alone
    await bench.use({ A: 0.7, B: 0.3 });
    await near("A0.7_B0.3");
    await bench.load("C.safetensors", "C");
    await bench.use({ A: 0.5, B: 0.4, C: 1.1 });
    await near("A0.5_B0.4_C1.1");
    await bench.use({ C: 1 });
    await near("switch_to_C");
    await bench.adapters.delete(["B"]);
    await bench.use({ A: 1, C: 1 });
    await near("deleted_B_A1_C1");
    await bench.adapters.setEnabled(false);
    same(await bench.velocity(), base);
    await bench.adapters.setEnabled(true);
    await near("deleted_B_A1_C1");
  });

  it("fuses with the active weights, beside others in slots, and unfuses to the byte", async () => {
    const ops = bench.ops();
    await bench.load(A, "A");
    await bench.use({ A: 0.3 });
    await bench.adapters.fuse(undefined, 2);
    expect(bench.adapters.list()).toMatchObject([{ name: "A", fused: true, weight: 0.6 }]);
    expect(bench.ops()).toEqual(ops);
    await near("A_fused_0.6");
    await bench.adapters.unfuse();
    await bench.load(B, "B");
    await bench.use({ A: 0.7, B: 0.3 });
    await bench.adapters.fuse(["A"], 1);
    await near("A0.7_B0.3"); // A in the weights, B in slots
    await bench.adapters.fuse(["B"], 1);
    await near("A0.7_B0.3");
    await bench.adapters.delete(["A", "B"]);
    expect(bench.ops()).toEqual(ops);
    await near("A0.7_B0.3"); // what is fused stays
    await bench.adapters.unfuse();
    same(await bench.velocity(), base);
  });

  it("is byte for byte what it was once all adapters are gone, and its plan has no branch", async () => {
    const ops = bench.ops();
    await bench.load(B, "B");
    expect(bench.ops().length).toBeGreaterThan(ops.length);
    await bench.velocity();
    await bench.unload();
    expect(bench.ops()).toEqual(ops);
    same(await bench.velocity(), base);
  });

  it("records once with slots of fixed size, whatever is loaded, mixed, weighed or deleted", async () => {
    const other = await Bench.open(device);
    try {
      const close = async (name: string) =>
        expect(
          relativeL2(await other.velocity(), golden(CASES).f32(`out.${name}`)),
          name,
        ).toBeLessThanOrEqual(TOLERANCE);
      await other.velocity();
      await other.adapters.enableHotswap({ targetRank: 32 });
      same(await other.velocity(), base);
      const slots = other.adapters.slotBytes;
      const memory = device.memoryUsage().allocated;
      await other.load("F.safetensors", "F");
      await close("F");
      await other.load(B, "B");
      await close("B_1.0");
      await other.load("D_kohya.safetensors", "D");
      await close("D_kohya");
      await other.load("A_kohya.safetensors", "A"); // rank 12 for q, k and v together, 4 for each
      await close("A_kohya");
      await other.load("C.safetensors", "C");
      await other.use({ A: 0.5, B: 0.4, C: 1.1 });
      await close("A0.5_B0.4_C1.1");
      await other.use({ B: 0 });
      same(await other.velocity(), base);
      await other.use({ B: 1 });
      await close("B_1.0");
      await other.adapters.delete(["A", "B", "C", "D", "F"]);
      same(await other.velocity(), base);
      expect(other.recorded).toBe(2);
      expect(other.adapters.slotBytes).toBe(slots);
      expect(device.memoryUsage().allocated).toBe(memory);
    } finally {
      other.dispose();
    }
  });

  it("says by how much ranks are too large for the slots, and goes on as before", async () => {
    const other = await Bench.open(device);
    const refused = (message: RegExp) =>
      expect.objectContaining({ code: "ERR_FLUX_BAD_ARGUMENT", message: expect.stringMatching(message) });
    try {
      await other.adapters.enableHotswap({ targetRank: 16 });
      await other.load(B, "B");
      await other.load(A, "A");
      await other.use({ A: 0.5 });
      await expect(other.use({ A: 0.7, B: 0.3 })).rejects.toThrow(
        refused(/"A" and "B" together need rank 20 in \S+\.0\.attn\.to_q, 4 more than the slot's 16/),
      );
      expect(relativeL2(await other.velocity(), golden(CASES).f32("out.A_0.5"))).toBeLessThanOrEqual(
        TOLERANCE,
      );
      expect(other.adapters.list().map(({ weight }) => weight)).toEqual([0, 0.5]);
      await expect(
        other.adapters.enableHotswap({ targetRank: 16, targets: ["to_q", "to_k"] }),
      ).rejects.toThrow(refused(/leave out \d+ layers that "B" would change/));
      await expect(other.adapters.enableHotswap({ targets: ["to_x"] })).rejects.toThrow(
        refused(/no layer is called "to_x"/),
      );
      expect(relativeL2(await other.velocity(), golden(CASES).f32("out.A_0.5"))).toBeLessThanOrEqual(
        TOLERANCE,
      );
      await other.adapters.enableHotswap({ targetRank: 20 });
      await other.use({ A: 0.7, B: 0.3 });
      expect(relativeL2(await other.velocity(), golden(CASES).f32("out.A0.7_B0.3"))).toBeLessThanOrEqual(
        TOLERANCE,
      );
    } finally {
      other.dispose();
    }
  });

  it("gives the same bytes after 1,000 random swaps as right after a fresh load", async () => {
    const other = await Bench.open(device);
    const paths = { A, B, C: "C.safetensors", D: "D_kohya.safetensors", F: "F.safetensors" };
    try {
      await other.adapters.enableHotswap({ targetRank: 32 });
      for (const [name, path] of Object.entries(paths)) await other.load(path, name);
      await other.velocity();
      const { recorded } = other;
      const names = Object.keys(paths) as (keyof typeof paths)[];
      let state = 7;
      const next = (count: number) => {
        state = (Math.imul(state, 1103515245) + 12345) >>> 0;
        return (state >>> 8) % count;
      };
      for (let swap = 1; swap <= 1000; swap++) {
        const first = names[next(5)]!;
        const second = names[next(5)]!;
        const weights = { [first]: 1 + next(3), [second]: -0.5 * next(3) };
        await other.use(weights);
        if (swap % 50 > 0) continue;
        const fresh = await Bench.open(device);
        try {
          await fresh.adapters.enableHotswap({ targetRank: 32 });
          for (const name of Object.keys(weights)) await fresh.load(paths[name as keyof typeof paths], name);
          await fresh.use(weights);
          same(await other.velocity(), await fresh.velocity());
        } finally {
          fresh.dispose();
        }
      }
      expect(other.recorded).toBe(recorded);
    } finally {
      other.dispose();
    }
  });

  it("reads adapters again that had to leave the pool", async () => {
    const small = new Adapters(device, bench.adapters.sites, bench.adapters.hooks, 1);
    const adapter = await small.pool.read(goldenPath(`lora/${A}`));
    await small.add(adapter, "A", false);
    expect(adapter.memory).toBeUndefined();
    expect(small.pool.bytes).toBe(0);
    await small.add(await small.pool.read(goldenPath("lora/C.safetensors")), "C", false);
    await small.setActive([{ name: "A" }]);
    await near("A_1.0");
    small.dispose();
    expect(device.memoryUsage().host).toBe(bench.adapters.pool.bytes);
  });

  it("acts on fp8 linears before they are quantised: as near as without adapters", async () => {
    const quantised = await Bench.open(device, "fp8");
    try {
      const distance = async (name: string) =>
        relativeL2(await quantised.velocity(), golden(CASES).f32(`out.${name}`));
      const without = await distance("base");
      await quantised.load(B, "B");
      expect(await distance("B_1.0")).toBeLessThanOrEqual(1.5 * without);
      await quantised.adapters.fuse(undefined, 1);
      expect(await distance("B_1.0")).toBeLessThanOrEqual(1.5 * without);
      await quantised.unload();
      expect(await distance("base")).toBe(without);
    } finally {
      quantised.dispose();
    }
  });
});
