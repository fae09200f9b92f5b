// Adapters in a pipeline: the order of calls, swaps, requests of their own, fusing, CLIP's part, and what is left behind.

import { cp, readFile, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { afterAll, beforeAll, beforeEach, describe, expect, it, onTestFinished } from "vitest";
import { psnr } from "../../eval/statistics.js";
import { FluxPipeline, type GenerateOptions } from "../../lib/index.js";
import { openSafetensors, readTensor } from "../../lib/loaders/safetensors.js";
import { Device } from "../../lib/runtime/device.js";
import {
  type FileTensor,
  f32,
  fileBytes,
  MODEL,
  randomTensor,
  shippedAdapter,
  tensorsOf,
  writeAdapter,
} from "../lora/adapter-file.js";
import { temporaryFolder } from "../support/fixture-folder.js";
import { devFolder } from "../support/folders.js";
import { golden, hasGolden, relativeL2 } from "../support/golden.js";

const NAMES = ["outline", "pixel", "sticker", "night"] as const;
const REQUEST = {
  prompt: "a red circle above a blue square",
  seed: 3,
  numInferenceSteps: 2,
  height: 64,
  width: 64,
} satisfies GenerateOptions;

let device: Device;
let pipe: FluxPipeline;
let base: Float32Array;
beforeAll(async () => {
  device = Device.open("cpu", { threads: 2 });
  pipe = await FluxPipeline.fromPretrained(MODEL, { device });
  base = await latents(pipe);
});
afterAll(() => {
  pipe.dispose();
  device.dispose();
});
beforeEach(async () => {
  await pipe.unfuseLora();
  await pipe.unloadLoraWeights();
  await pipe.enableLora();
});

async function latents(from: FluxPipeline, options: GenerateOptions = {}): Promise<Float32Array> {
  const result = await from.generate({ ...REQUEST, outputType: "latents", ...options });
  return result.latents!.data;
}
/** When everything that was given back is back. */
async function usage() {
  await device.drain();
  return device.memoryUsage();
}
const same = (a: Float32Array, b: Float32Array) => Buffer.from(a.buffer).equals(Buffer.from(b.buffer));
const failing = (code: string, message: RegExp) =>
  expect.objectContaining({ code, message: expect.stringMatching(message) });
const badArgument = (message: RegExp) => failing("ERR_FLUX_BAD_ARGUMENT", message);

/** Latents with one adapter alone, from a pipeline that has never seen another. */
const alone = new Map<string, Promise<Float32Array>>();
function freshly(name: string, weight = 1): Promise<Float32Array> {
  const key = `${name} ${weight}`;
  const make = async () => {
    const fresh = await FluxPipeline.fromPretrained(MODEL, { device });
    try {
      await fresh.loadLoraWeights(shippedAdapter(name), { adapterName: name });
      await fresh.setAdapters(name, weight);
      return await latents(fresh);
    } finally {
      fresh.dispose();
    }
  };
  const made = alone.get(key) ?? make();
  alone.set(key, made);
  return made;
}

describe("calls", () => {
  it("take effect in the order in which they are made, between pictures", async () => {
    const results = [
      latents(pipe),
      pipe.loadLoraWeights(shippedAdapter("night"), { adapterName: "night" }).then(() => undefined),
      latents(pipe),
      pipe.loadLoraWeights(shippedAdapter("pixel"), { adapterName: "pixel" }).then(() => undefined),
      latents(pipe),
      pipe.setAdapters("night", 0.5),
      latents(pipe),
      pipe.disableLora(),
      latents(pipe),
      pipe.enableLora(),
      pipe.deleteAdapters("night"),
      latents(pipe),
    ];
    const pictures = (await Promise.all(results)).filter((result) => result !== undefined);
    const expected = [
      base,
      await freshly("night"),
      await freshly("pixel"),
      await freshly("night", 0.5),
      base,
      base,
    ];
    expect(pictures).toHaveLength(expected.length);
    pictures.forEach((picture, i) => {
      expect(same(picture, expected[i]!), `picture ${i}`).toBe(true);
    });
  });

  it("of generate may bring adapters of their own, and leave those that are active alone", async () => {
    for (const name of NAMES) await pipe.loadLoraWeights(shippedAdapter(name), { adapterName: name });
    await pipe.setAdapters("pixel");
    const pictures = await Promise.all([
      latents(pipe, { loras: [{ name: "night" }] }),
      latents(pipe),
      latents(pipe, { loras: [{ name: "night", weight: 0.5 }] }),
      latents(pipe, { loras: [] }),
      latents(pipe, { loras: [{ name: "outline" }] }),
      latents(pipe),
    ]);
    const expected = [
      await freshly("night"),
      await freshly("pixel"),
      await freshly("night", 0.5),
      base,
      await freshly("outline"),
      await freshly("pixel"),
    ];
    pictures.forEach((picture, i) => {
      expect(same(picture, expected[i]!), `picture ${i}`).toBe(true);
    });
    await pipe.disableLora();
    expect(same(await latents(pipe, { loras: [{ name: "night" }] }), await freshly("night"))).toBe(true);
    expect(same(await latents(pipe), base)).toBe(true);
  });

  it("that are wrong say so, and change nothing", async () => {
    await pipe.loadLoraWeights(shippedAdapter("night"));
    await pipe.loadLoraWeights(shippedAdapter("pixel"));
    expect(pipe.listAdapters().map(({ name, active }) => [name, active])).toEqual([
      ["default_0", false],
      ["default_1", true],
    ]);
    const before = pipe.listAdapters();
    const loaded = /no adapter called "x" is loaded; loaded are "default_0" and "default_1"/;
    const taken = { adapterName: "default_0" };
    const calls: [() => Promise<unknown>, ReturnType<typeof failing>][] = [
      [
        () => pipe.loadLoraWeights(shippedAdapter("pixel"), taken),
        badArgument(/"default_0" is loaded; choose another/),
      ],
      [
        () => pipe.loadLoraWeights(shippedAdapter("pixel"), { adapterName: "" }),
        badArgument(/name is a string/),
      ],
      [() => pipe.loadLoraWeights(shippedAdapter("pixel"), { hotswap: true }), badArgument(/say which one/)],
      [
        () => pipe.loadLoraWeights(shippedAdapter("pixel"), { adapterName: "x", hotswap: true }),
        badArgument(/replaces a loaded adapter, and no adapter called "x"/),
      ],
      [
        () => pipe.loadLoraWeights("/nowhere.safetensors"),
        failing("ERR_FLUX_BAD_WEIGHTS", /nowhere.* is not there/),
      ],
      [() => pipe.setAdapters(["default_0", "x"]), badArgument(loaded)],
      [() => pipe.setAdapters(["default_0", "default_0"]), badArgument(/"default_0" is named twice/)],
      [() => pipe.setAdapters(["default_0"], [1, 2]), badArgument(/one for each of the 1 adapters/)],
      [
        () => pipe.setAdapters("default_0", Number.NaN),
        badArgument(/weight of "default_0" is a number, not NaN/),
      ],
      [() => pipe.deleteAdapters(["default_0", "x"]), badArgument(loaded)],
      [() => pipe.fuseLora({ adapterNames: ["x"] }), badArgument(loaded)],
      [() => pipe.fuseLora({ loraScale: Number.POSITIVE_INFINITY }), badArgument(/loraScale is a number/)],
      [() => pipe.enableLoraHotswap({ targetRank: 0 }), badArgument(/targetRank is a whole number/)],
      [() => latents(pipe, { loras: [{ name: "x" }] }), badArgument(loaded)],
      [
        () => latents(pipe, { loras: [{ name: "default_0", weight: "1" as never }] }),
        badArgument(/is a number, not "1"/),
      ],
      [
        () => latents(pipe, { loras: [{ name: "default_0", scale: 1 } as never] }),
        badArgument(/not "scale"/),
      ],
      [() => latents(pipe, { loras: {} as never }), badArgument(/loras is a list such as/)],
    ];
    for (const [call, error] of calls) {
      await expect(call()).rejects.toThrow(error);
      expect(pipe.listAdapters()).toEqual(before);
    }
    expect(same(await latents(pipe), await freshly("pixel"))).toBe(true);
  });

  it("that damaged files make fail leave what was loaded working", async () => {
    await pipe.loadLoraWeights(shippedAdapter("pixel"), { adapterName: "pixel" });
    const tensors = tensorsOf(shippedAdapter("outline"));
    const [first, second] = Object.keys(tensors) as [string, string];
    const damaged: [Record<string, FileTensor>, string][] = [
      [Object.fromEntries(Object.entries(tensors).slice(1)), second],
      [{ ...tensors, [first]: f32([16, 256], new Float32Array(16 * 256).fill(Number.NaN, 7, 8)) }, first],
      [{ ...tensors, [first]: randomTensor([3, 256], 1) }, first],
    ];
    for (const [content, name] of damaged) {
      const message = new RegExp(JSON.stringify(name).replaceAll(".", "\\."));
      await expect(pipe.loadLoraWeights(fileBytes(content))).rejects.toThrow(
        failing("ERR_FLUX_BAD_WEIGHTS", message),
      );
      await expect(
        pipe.loadLoraWeights(await writeAdapter(content), { adapterName: "pixel", hotswap: true }),
      ).rejects.toThrow(failing("ERR_FLUX_BAD_WEIGHTS", message));
      expect(same(await latents(pipe), await freshly("pixel"))).toBe(true);
    }
    expect(pipe.listAdapters().map(({ name }) => name)).toEqual(["pixel"]);
  });
});

describe("with hot-swap", () => {
  it("swaps, mixes, weighs and deletes without a new recording or more memory", async () => {
    for (const name of NAMES) await freshly(name);
    await freshly("night", 0.5);
    const own = await FluxPipeline.fromPretrained(MODEL, { device });
    onTestFinished(() => own.dispose());
    await own.enableLoraHotswap({ targetRank: 32 });
    expect(same(await latents(own), base)).toBe(true);
    const plan = own.plan(REQUEST);
    const { allocated } = await usage();
    await own.loadLoraWeights(shippedAdapter("outline"), { adapterName: "style" });
    await latents(own); // other embeddings: the encoders' plans meet the arena that the first picture left
    const { captures } = device;
    for (const name of NAMES) {
      await own.loadLoraWeights(shippedAdapter(name), { adapterName: "style", hotswap: true });
      expect(same(await latents(own), await freshly(name)), name).toBe(true);
    }
    await own.loadLoraWeights(await readFile(shippedAdapter("pixel")), { adapterName: "pixel" });
    await own.setAdapters(["style", "pixel"], [0.5, 0.7]);
    const mixed = await latents(own);
    expect(same(mixed, base)).toBe(false);
    await own.setAdapters(["style", "pixel"], [0.5, 0]);
    expect(same(await latents(own), await freshly("night", 0.5))).toBe(true);
    await own.setAdapters(["style", "pixel"], [0.5, 0.7]);
    expect(same(await latents(own), mixed)).toBe(true);
    await own.unloadLoraWeights();
    expect(same(await latents(own), base)).toBe(true);
    expect(own.plan(REQUEST)).toBe(plan);
    expect(device.captures).toBe(captures);
    expect((await usage()).allocated).toBe(allocated);
  });

  it("refuses ranks that do not fit together, by how much, and goes on", async () => {
    const own = await FluxPipeline.fromPretrained(MODEL, { device });
    onTestFinished(() => own.dispose());
    await own.enableLoraHotswap({ targetRank: 16 });
    await own.loadLoraWeights(shippedAdapter("outline"), { adapterName: "outline" });
    await own.loadLoraWeights(shippedAdapter("pixel"), { adapterName: "pixel" });
    const refused = badArgument(
      /"outline" and "pixel" together need rank 24 in .*, 8 more than the slot's 16; .*targetRank of 24/,
    );
    await expect(own.setAdapters(["outline", "pixel"])).rejects.toThrow(refused);
    await expect(latents(own, { loras: [{ name: "outline" }, { name: "pixel" }] })).rejects.toThrow(refused);
    expect(same(await latents(own), await freshly("pixel"))).toBe(true);
    await own.enableLoraHotswap({ targetRank: 24 });
    expect(same(await latents(own), await freshly("pixel"))).toBe(true);
    await own.setAdapters(["outline", "pixel"]);
  });
});

describe("the plan", () => {
  it("has no low-rank branch unless an adapter is loaded, and then only where it acts", async () => {
    const branches = () =>
      pipe
        .plan(REQUEST)
        .describe()
        .ops.filter(({ depth, inputs }) => depth === 0 && ("low" in inputs || "0.low" in inputs)).length;
    const ops = pipe.plan(REQUEST).describe().ops.length;
    expect(branches()).toBe(0);
    await pipe.loadLoraWeights(shippedAdapter("pixel"));
    expect(branches()).toBe(7); // three single blocks of two linears, and the last projection
    await pipe.unloadLoraWeights();
    expect(branches()).toBe(0);
    expect(pipe.plan(REQUEST).describe().ops).toHaveLength(ops);
    expect(same(await latents(pipe), base)).toBe(true);
  });
});

describe("the shipped adapters", () => {
  it.each(NAMES)(
    "%s: swapping gives the picture that fusing gives, PSNR at least 40 dB, and unfusing the one without",
    async (name) => {
      const picture = async () => {
        const options = { ...REQUEST, height: 128, width: 128, numInferenceSteps: 6 };
        return (await pipe.generate(options)).images[0]!;
      };
      const plain = await picture();
      await pipe.loadLoraWeights(shippedAdapter(name), { adapterName: name });
      const swapped = await picture();
      expect(psnr(plain, swapped)).toBeLessThan(30);
      await pipe.fuseLora();
      await pipe.unloadLoraWeights();
      const fused = await picture();
      expect(psnr(swapped, fused)).toBeGreaterThanOrEqual(40);
      await pipe.unfuseLora();
      expect(Buffer.from((await picture()).data).equals(Buffer.from(plain.data))).toBe(true);
    },
  );
});

it("CLIP's part is applied: as if its product were in CLIP's own weights", async () => {
  const layers = ["self_attn.q_proj", "self_attn.out_proj", "mlp.fc1"];
  const names = layers.map((layer) => `text_model.encoder.layers.1.${layer}`);
  const file = await openSafetensors(join(MODEL, "text_encoder/model.safetensors"));
  const merged: Record<string, FileTensor> = {};
  for (const name of file.tensors.keys()) {
    const { shape, data } = await readTensor(file, name);
    merged[name] = f32(shape, data as Float32Array);
  }
  const adapter: Record<string, FileTensor> = {};
  names.forEach((name, i) => {
    const weight = merged[`${name}.weight`]!;
    const [rows, columns] = weight.shape as [number, number];
    const [down, up] = [randomTensor([3, columns], 5 + i), randomTensor([rows, 3], 9 + i)];
    adapter[`text_encoder.${name}.lora_A.weight`] = down;
    adapter[`text_encoder.${name}.lora_B.weight`] = up;
    adapter[`text_encoder.${name}.alpha`] = f32([], [1.5]);
    const [w, a, b] = [weight, down, up].map(
      ({ bytes }) => new Float32Array(bytes.slice().buffer),
    ) as Float32Array[];
    for (let row = 0; row < rows; row++) {
      for (let column = 0; column < columns; column++) {
        for (let r = 0; r < 3; r++)
          w![row * columns + column]! += 0.8 * 0.5 * b![row * 3 + r]! * a![r * columns + column]!;
      }
    }
    merged[`${name}.weight`] = f32(weight.shape, w!);
  });
  const folder = await temporaryFolder();
  await cp(MODEL, folder, { recursive: true });
  await writeFile(join(folder, "text_encoder/model.safetensors"), fileBytes(merged));
  const other = await FluxPipeline.fromPretrained(folder, { device });
  onTestFinished(() => other.dispose());
  const expected = await latents(other);
  expect(relativeL2(base, expected)).toBeGreaterThan(1e-2);

  await pipe.loadLoraWeights(fileBytes(adapter), { adapterName: "words" });
  await pipe.setAdapters("words", 0.8);
  expect(relativeL2(await latents(pipe), expected)).toBeLessThanOrEqual(1e-4);
  expect(same(await latents(pipe, { loras: [] }), base)).toBe(true);
  await pipe.fuseLora();
  expect(relativeL2(await latents(pipe), expected)).toBeLessThanOrEqual(1e-4);
  await pipe.unfuseLora();
  await pipe.setAdapters([]);
  expect(same(await latents(pipe), base)).toBe(true);
});

it("warns of tensors that are not used, by name, and lists them", async () => {
  const warnings: string[] = [];
  const listen = (warning: Error & { code?: string }) => {
    if (warning.code === "FLUX_LORA_UNUSED_KEYS") warnings.push(warning.message);
  };
  process.on("warning", listen);
  onTestFinished(() => void process.off("warning", listen));
  const tensors = { ...tensorsOf(shippedAdapter("pixel")), "lora_te3_encoder.alpha": f32([], [1]) };
  const { name, unused } = await pipe.loadLoraWeights(fileBytes(tensors));
  expect(unused).toEqual([{ key: "lora_te3_encoder.alpha", reason: expect.stringMatching(/T5/) }]);
  expect(pipe.listAdapters()).toMatchObject([{ name, unused, format: "diffusers", rank: 8, layers: 16 }]);
  await new Promise(setImmediate);
  expect(warnings).toEqual([
    expect.stringMatching(/adapter "default_0": not used: lora_te3_encoder.alpha \(for the T5/),
  ]);
});

describe("memory", () => {
  it("of the device and of the host is given back", async () => {
    const before = await usage();
    const own = await FluxPipeline.fromPretrained(MODEL, { device });
    await latents(own);
    const without = (await usage()).allocated;
    await own.loadLoraWeights(shippedAdapter("night"));
    await own.loadLoraWeights(await readFile(shippedAdapter("pixel")));
    await latents(own);
    expect((await usage()).host).toBeGreaterThan(before.host);
    await own.fuseLora();
    await own.unfuseLora();
    await own.unloadLoraWeights();
    await latents(own);
    expect((await usage()).allocated).toBe(without);
    own.dispose();
    expect(await usage()).toMatchObject({ allocated: before.allocated, host: before.host });
  });

  it.each([0, 1, 3, 6, 10])(
    "is given back by a pipeline that is disposed %i ms after it began to load",
    async (ms) => {
      const before = await usage();
      const own = await FluxPipeline.fromPretrained(MODEL, { device });
      const calls = [
        own.loadLoraWeights(shippedAdapter("outline")),
        own.fuseLora(),
        own.unfuseLora(),
        latents(own),
      ];
      setTimeout(() => own.dispose(), ms);
      for (const result of await Promise.allSettled(calls)) {
        if (result.status === "rejected") expect(result.reason).toMatchObject({ code: "ERR_FLUX_DISPOSED" });
      }
      own.dispose();
      await expect(own.setAdapters("x")).rejects.toThrow(failing("ERR_FLUX_DISPOSED", /disposed/));
      await expect(own.enableLoraHotswap()).rejects.toThrow(failing("ERR_FLUX_DISPOSED", /disposed/));
      expect(await usage()).toMatchObject({ allocated: before.allocated, host: before.host });
    },
  );

  it("for adapters has a budget: those that left it are read again, unless they have changed", async () => {
    const { host } = await usage();
    const own = await FluxPipeline.fromPretrained(MODEL, { device, loraPoolBytes: 1 });
    onTestFinished(() => own.dispose());
    const path = await writeAdapter(tensorsOf(shippedAdapter("night")));
    await own.loadLoraWeights(path, { adapterName: "night" });
    await own.loadLoraWeights(shippedAdapter("pixel"), { adapterName: "pixel" });
    expect((await usage()).host).toBe(host);
    await own.setAdapters("night");
    expect(same(await latents(own), await freshly("night"))).toBe(true);
    await own.setAdapters("pixel");
    await writeFile(path, fileBytes(tensorsOf(shippedAdapter("outline"))));
    await expect(own.setAdapters("night")).rejects.toThrow(
      failing("ERR_FLUX_BAD_WEIGHTS", /has changed since it was loaded/),
    );
    expect(same(await latents(own), await freshly("pixel"))).toBe(true);
    await rm(path);
    await expect(own.setAdapters("night")).rejects.toThrow(failing("ERR_FLUX_BAD_WEIGHTS", /is not there/));
    expect(same(await latents(own), await freshly("pixel"))).toBe(true);
  });
});

it.skipIf(!hasGolden("cases/lora_e2e.safetensors") || !hasGolden("lora/B/pytorch_lora_weights.safetensors"))(
  "draws what diffusers draws with an adapter, and without it (reads ../shared/golden)",
  async () => {
    const file = golden("cases/lora_e2e.safetensors");
    const dev = await FluxPipeline.fromPretrained(devFolder(), { device });
    onTestFinished(() => dev.dispose());
    const embeds = file.tensor("in.prompt_embeds");
    const pooled = file.tensor("in.pooled_prompt_embeds");
    const options: GenerateOptions = {
      latents: file.tensor("in.latents"),
      promptEmbeds: embeds,
      pooledPromptEmbeds: pooled,
      height: 128,
      width: 128,
      numInferenceSteps: 4,
      guidanceScale: 3.5,
      outputType: "latents",
    };
    const result = async () => (await dev.generate(options)).latents!.data;
    expect(relativeL2(await result(), file.f32("base.latents"))).toBeLessThanOrEqual(1e-4);
    await dev.loadLoraWeights(join(devFolder(), "../lora/B"), { adapterName: "B" });
    await dev.setAdapters("B", 0.9);
    expect(relativeL2(await result(), file.f32("latents.3"))).toBeLessThanOrEqual(1e-4);
  },
);
