import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { readAutoencoderKLConfig } from "../../../lib/loaders/config.js";
import { WeightSource } from "../../../lib/loaders/weights.js";
import { AutoencoderKL } from "../../../lib/models/vae/autoencoder.js";
import type { Device } from "../../../lib/runtime/device.js";
import { Plan } from "../../../lib/runtime/plan.js";
import { Recorder } from "../../../lib/runtime/recorder.js";
import { bufferFrom, compute, cpuDevice } from "../../support/device.js";
import { temporaryFolder, writeWeights } from "../../support/fixture-folder.js";
import { golden, goldenPath, hasGolden, relativeL2 } from "../../support/golden.js";
import { toChannelsLast } from "../../support/layout.js";
import { randomValues } from "../../support/random.js";

const FOLDER = goldenPath("tiny-flux/vae");
/** The smallest size is in the repository; the others, and the values between the layers, are in ../shared only. */
const SMALL = "cases/vae_64.safetensors";
const FULL = "cases/vae.safetensors";
const channelsLast = (name: string) =>
  toChannelsLast(golden(name.startsWith("64x64.") ? SMALL : FULL).tensor(name));
const SIZES = [
  { size: "64x64", isHere: true, from: "" },
  { size: "128x128", isHere: hasGolden(FULL), from: " (read from ../shared/golden)" },
  { size: "96x160", isHere: hasGolden(FULL), from: " (read from ../shared/golden)" },
];

async function tinyVae(device: Device): Promise<AutoencoderKL> {
  const model = new AutoencoderKL(device, await readAutoencoderKLConfig(FOLDER));
  await model.load(await WeightSource.open(FOLDER));
  return model;
}

/** Means, then log-variances, as diffusers stores them. */
function splitMoments(
  moments: Float32Array,
  latentChannels: number,
): { mean: Float32Array; logvar: Float32Array } {
  const pixels = moments.length / (2 * latentChannels);
  const mean = new Float32Array(pixels * latentChannels);
  const logvar = new Float32Array(pixels * latentChannels);
  for (let p = 0; p < pixels; p++) {
    for (let c = 0; c < latentChannels; c++) {
      mean[p * latentChannels + c] = moments[p * 2 * latentChannels + c];
      logvar[p * latentChannels + c] = moments[(p * 2 + 1) * latentChannels + c];
    }
  }
  return { mean, logvar };
}

describe("AutoencoderKL", () => {
  describe.each(SIZES)("$size$from", ({ size, isHere }) => {
    it.skipIf(!isHere)("decodes as diffusers does", async () => {
      const device = cpuDevice();
      const model = await tinyVae(device);
      const z = bufferFrom(device, channelsLast(`${size}.z`));
      const { image } = await compute(device, (g) => ({ image: model.decode(g, z) }));
      expect(relativeL2(image, channelsLast(`${size}.decoded`).data)).toBeLessThan(1e-4);
    });

    it.skipIf(!isHere)(
      "decodes and encodes as diffusers does with norms inside convolutions, as on a GPU",
      async () => {
        const device = cpuDevice();
        const model = await tinyVae(device);
        const z = bufferFrom(device, channelsLast(`${size}.z`));
        const decoded = channelsLast(`${size}.decoded`);
        const image = bufferFrom(device, channelsLast(`${size}.image`));
        const mean = channelsLast(`${size}.mean`);
        const pixels = device.buffer("f32", decoded.shape);
        const moments = device.buffer("f32", mean.shape.with(-1, 32));
        const g = new Recorder("f32", true);
        g.copy(model.decode(g, z), pixels);
        g.copy(model.encode(g, image), moments);
        const plan = new Plan(device, "fused", g.ops);
        const { ops } = plan.describe();
        expect(ops.filter(({ kind, inputs }) => kind === "conv2d" && inputs.affine).length).toBeGreaterThan(
          20,
        );
        expect(ops.filter(({ outputs }) => outputs.sums).length).toBeGreaterThan(20);
        await plan.run();
        expect(relativeL2(await pixels.read(), decoded.data)).toBeLessThan(1e-4);
        expect(relativeL2(splitMoments(await moments.read(), 16).mean, mean.data)).toBeLessThan(1e-4);
      },
    );

    it.skipIf(!isHere)("encodes as diffusers does", async () => {
      const device = cpuDevice();
      const model = await tinyVae(device);
      const image = bufferFrom(device, channelsLast(`${size}.image`));
      const { moments } = await compute(device, (g) => ({ moments: model.encode(g, image) }));
      const { mean, logvar } = splitMoments(moments, 16);
      expect(relativeL2(mean, channelsLast(`${size}.mean`).data)).toBeLessThan(1e-4);
      expect(relativeL2(logvar, channelsLast(`${size}.logvar`).data)).toBeLessThan(1e-4);
    });
  });

  it.skipIf(!hasGolden(FULL))(
    "gives the decoder's intermediate values (read from ../shared/golden)",
    async () => {
      const device = cpuDevice();
      const { decoder } = await tinyVae(device);
      const z = bufferFrom(device, channelsLast("96x160.z"));
      const values = await compute(device, (g) => {
        const dec_in = decoder.convIn.forward(g, z);
        const resnet0 = decoder.mid.resnets[0].forward(g, dec_in);
        const dec_mid_attn = decoder.mid.attention!.forward(g, resnet0);
        const dec_mid = decoder.mid.forward(g, dec_in);
        const dec_up0 = decoder.up[0].forward(g, dec_mid);
        const dec_up3 = decoder.up.slice(1).reduce((x, block) => block.forward(g, x), dec_up0);
        return { dec_in, dec_mid_attn, dec_mid, dec_up0, dec_up3 };
      });
      for (const [name, value] of Object.entries(values)) {
        expect(relativeL2(value, channelsLast(`96x160.${name}`).data), name).toBeLessThan(1e-4);
      }
    },
  );

  it.skipIf(!hasGolden(FULL))(
    "gives the encoder's intermediate values (read from ../shared/golden)",
    async () => {
      const device = cpuDevice();
      const { encoder } = await tinyVae(device);
      const image = bufferFrom(device, channelsLast("96x160.image"));
      const values = await compute(device, (g) => {
        const enc_down0 = encoder.down[0].forward(g, encoder.convIn.forward(g, image));
        const deepest = encoder.down.slice(1).reduce((x, block) => block.forward(g, x), enc_down0);
        return { enc_down0, enc_mid: encoder.mid.forward(g, deepest) };
      });
      for (const [name, value] of Object.entries(values)) {
        expect(relativeL2(value, channelsLast(`96x160.${name}`).data), name).toBeLessThan(1e-4);
      }
    },
  );

  it("puts 1×1 convolutions around the latents where the config asks for them", async () => {
    const device = cpuDevice();
    const path = join(await temporaryFolder(), "quant.safetensors");
    const quant = pointwise(32, 1);
    const postQuant = pointwise(16, 2);
    await writeWeights(path, {
      "quant_conv.weight": { shape: [32, 32, 1, 1], data: quant.weight },
      "quant_conv.bias": { shape: [32], data: quant.bias },
      "post_quant_conv.weight": { shape: [16, 16, 1, 1], data: postQuant.weight },
      "post_quant_conv.bias": { shape: [16], data: postQuant.bias },
    });
    const [extra, weights] = await Promise.all([WeightSource.open(path), WeightSource.open(FOLDER)]);
    const config = { ...(await readAutoencoderKLConfig(FOLDER)), useQuantConv: true, usePostQuantConv: true };
    const model = new AutoencoderKL(device, config);
    await model.load({ location: FOLDER, find: (name) => extra.find(name) ?? weights.find(name) });
    const plain = await tinyVae(device);
    const z = channelsLast("64x64.z");
    const zBuffer = bufferFrom(device, z);
    const mixedBuffer = bufferFrom(device, { shape: z.shape, data: postQuant.apply(z.data) });
    const image = bufferFrom(device, channelsLast("64x64.image"));
    const values = await compute(device, (g) => ({
      decoded: model.decode(g, zBuffer),
      expectedDecoded: plain.decode(g, mixedBuffer),
      moments: model.encode(g, image),
      plainMoments: plain.encode(g, image),
    }));
    expect(relativeL2(values.decoded, values.expectedDecoded)).toBeLessThan(1e-5);
    expect(relativeL2(values.moments, quant.apply(values.plainMoments))).toBeLessThan(1e-5);
  });

  it("has no attention, and asks for none of its weights, where the config says so", async () => {
    const device = cpuDevice();
    const source = await WeightSource.open(FOLDER);
    const config = { ...(await readAutoencoderKLConfig(FOLDER)), midBlockAddAttention: false };
    const model = new AutoencoderKL(device, config);
    await model.load({
      location: FOLDER,
      find: (name) => (name.includes("attentions") ? undefined : source.find(name)),
    });
    const { decoder } = await tinyVae(device);
    const z = bufferFrom(device, channelsLast("64x64.z"));
    const { actual, expected, attended } = await compute(device, (g) => {
      const x = decoder.convIn.forward(g, z);
      return {
        actual: model.decoder.mid.forward(g, x),
        expected: decoder.mid.resnets.reduce((h, resnet) => resnet.forward(g, h), x),
        attended: decoder.mid.forward(g, x),
      };
    });
    expect(actual).toEqual(expected);
    expect(relativeL2(actual, attended)).toBeGreaterThan(1e-3);
  });
});

/** A random 1×1 convolution and, in f64 on the host, what it does to channels-last data. */
function pointwise(channels: number, seed: number) {
  const weight = randomValues(channels * channels, seed, 0.3);
  const bias = randomValues(channels, seed + 100, 0.3);
  const apply = (data: Float32Array): Float32Array =>
    data.map((_, at) => {
      const out = at % channels;
      const pixel = data.subarray(at - out, at - out + channels);
      return pixel.reduce((sum, value, c) => sum + value * weight[out * channels + c], bias[out]);
    });
  return { weight, bias, apply };
}
