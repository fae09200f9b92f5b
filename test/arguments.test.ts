// Slips in a call's options: names that are none, and values of another kind than the option's.

import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { Device, FluxImage, FluxPipeline } from "../lib/index.js";
import { goldenPath } from "./support/golden.js";

let pipe: FluxPipeline;
beforeAll(async () => {
  pipe = await FluxPipeline.fromConfig(goldenPath("configs/tiny-flux"), { weights: "random", device: "cpu" });
});
afterAll(() => pipe.dispose());

/** As a program in JavaScript would call it. */
type Loose = (...values: unknown[]) => unknown;
const image = new FluxImage(1, 1, new Uint8Array(3));
const CALLS: Record<string, (options: unknown) => unknown> = {
  "fromPretrained()": (options) => (FluxPipeline.fromPretrained as Loose).call(FluxPipeline, "x", options),
  "fromSingleFile()": (options) => (FluxPipeline.fromSingleFile as Loose).call(FluxPipeline, "x", options),
  "fromConfig()": (options) => (FluxPipeline.fromConfig as Loose).call(FluxPipeline, "flux1-dev", options),
  "generate()": (options) => (pipe.generate as Loose).call(pipe, options),
  "plan()": (options) => (pipe.plan as Loose).call(pipe, options),
  "profile()": (options) => (pipe.profile as Loose).call(pipe, options),
  "enableCache()": (options) => (pipe.enableCache as Loose).call(pipe, options),
  "loadLoraWeights()": (options) => (pipe.loadLoraWeights as Loose).call(pipe, "x", options),
  "enableLoraHotswap()": (options) => (pipe.enableLoraHotswap as Loose).call(pipe, options),
  "fuseLora()": (options) => (pipe.fuseLora as Loose).call(pipe, options),
  "Device.open()": (options) => (Device.open as Loose).call(Device, "cpu", options),
  "toBuffer()": (options) => (image.toBuffer as Loose).call(image, "jpeg", options),
};

async function refusal(call: string, options: unknown): Promise<unknown> {
  return Promise.resolve()
    .then(() => CALLS[call]!(options))
    .then(
      (value) => ({ value }),
      (error: unknown) => error,
    );
}

describe("a name that is none is refused with the one that was meant", () => {
  it.for([
    ["fromPretrained()", "precison", "precision"],
    ["fromPretrained()", "batch_concurrent", "batchConcurrent"],
    ["fromSingleFile()", "tokenizer", "tokenizers"],
    ["fromConfig()", "sede", "seed"],
    ["generate()", "guidence_scale", "guidanceScale"],
    ["generate()", "steps", "numInferenceSteps"],
    ["plan()", "hieght", "height"],
    ["profile()", "widht", "width"],
    ["enableCache()", "treshold", "threshold"],
    ["loadLoraWeights()", "adaptername", "adapterName"],
    ["enableLoraHotswap()", "targetrank", "targetRank"],
    ["fuseLora()", "lora_scale", "loraScale"],
    ["Device.open()", "thread", "threads"],
    ["toBuffer()", "qualty", "quality"],
  ] as const)("%s with %s", async ([call, slip, meant]) => {
    const error = await refusal(call, { [slip]: 1 });
    expect(error).toMatchObject({
      code: "ERR_FLUX_BAD_ARGUMENT",
      message: expect.stringContaining(`has no option "${slip}"; did you mean ${meant}?`),
    });
  });

  it("lists all of them when none is near", async () => {
    expect(await refusal("loadLoraWeights()", { prefix: "x" })).toMatchObject({
      message: 'loadLoraWeights() has no option "prefix"; the options are adapterName, hotswap',
    });
  });
});

describe("what is no object of options is refused", () => {
  it.for(Object.keys(CALLS))("%s", async (call) => {
    for (const options of [null, 5, "fp8", [{}]]) {
      if (call === "fromConfig()" && options === null) continue; // says that it needs weights
      expect(await refusal(call, options)).toMatchObject({
        code: "ERR_FLUX_BAD_ARGUMENT",
        message: expect.stringContaining("takes one object of options"),
      });
    }
  });
});

describe("a value of another kind is refused and shown", () => {
  it.for([
    ["fromPretrained()", { threads: "4" }, 'threads is a whole number from 1 to 1024, not "4"'],
    ["fromPretrained()", { loraPoolBytes: "1GB" }, 'loraPoolBytes is a number of at least 0, not "1GB"'],
    ["fromPretrained()", { loraPoolBytes: Number.NaN }, "loraPoolBytes is a number of at least 0, not NaN"],
    ["fromPretrained()", { batchConcurrent: "4" }, 'or a whole number of images, not "4"'],
    ["fromPretrained()", { onProgress: true }, "onProgress is a function, not true"],
    ["fromPretrained()", { signal: new AbortController() }, "signal is an AbortSignal"],
    ["fromPretrained()", { device: 0 }, 'device is "auto", "cpu" or "cuda:0" (a number), not 0'],
    ["generate()", { prompt: "a", height: "64" }, 'height is a number of pixels, not "64"'],
    ["generate()", { prompt: "a", numInferenceSteps: "4" }, 'from 1 to 1000, not "4"'],
    ["generate()", { prompt: "a", guidanceScale: "3.5" }, 'guidanceScale is a number, not "3.5"'],
    ["generate()", { prompt: "a", seed: "42" }, 'not "42"'],
    ["generate()", { prompt: "a", sigmas: "1,0.5" }, "sigmas is a non-empty array of numbers"],
    ["generate()", { prompt: "a", sigmas: ["1", "0.5"] }, "sigmas is a non-empty array of numbers"],
    ["generate()", { prompt: "a", image, strength: "0.5" }, 'at most 1, not "0.5"'],
    ["generate()", { prompt: "a", maxArea: "4096" }, 'not "4096"'],
    ["generate()", { prompt: "a", vaeTileSize: "512" }, 'not "512"'],
    ["generate()", { prompt: "a", outputType: 5 }, "not 5"],
    ["generate()", { prompt: "a", onStep: {} }, "onStep is a function, not an object"],
    ["generate()", { prompt: "a", preview: "false" }, 'preview is true or false, not "false"'],
    ["generate()", { prompt: "a", signal: {} }, "signal is an AbortSignal"],
    ["generate()", { prompt: "a", loras: [{ name: "x", weight: "1" }] }, 'is a number, not "1"'],
    ["enableCache()", { warmupSteps: "2" }, 'warmupSteps is a whole number of at least 0, not "2"'],
    ["loadLoraWeights()", { adapterName: "x", hotswap: "no" }, 'hotswap is true or false, not "no"'],
    ["enableLoraHotswap()", { targetRank: "16" }, 'from 1 to 4096, not "16"'],
    ["enableLoraHotswap()", { targets: "to_q" }, "targets is a list of layers' names"],
    ["fuseLora()", { loraScale: "1" }, 'loraScale is a number, not "1"'],
    ["fuseLora()", { adapterNames: "style" }, "adapters are named by an array"],
    ["toBuffer()", { quality: "90" }, 'but it is "90"'],
  ] as const)("%s with %o", async ([call, options, message]) => {
    const error = await refusal(call, options);
    expect(error).toMatchObject({
      code: "ERR_FLUX_BAD_ARGUMENT",
      message: expect.stringContaining(message),
    });
  });
});
