// Pictures on the GPU in bf16: image-to-image, inpainting and Kontext against diffusers in float32, Fill and Canny/Depth against the
// CPU with the same random weights.

import assert from "node:assert/strict";
import { after, test } from "node:test";
import { FluxPipeline, type GenerateOptions, type Variant } from "../../dist/index.js";
import { Generator } from "../../dist/runtime/generator.js";
import { cpu, gpu, relativeL2 } from "./both.js";
import { Golden, goldenPath, needs, pipelineFolder } from "./golden.js";

/** A golden picture [1, C, H, W] as [H, W, C]. */
async function channelsLast(file: Golden, name: string) {
  const { shape, data } = await file.f32(name);
  const [, channels, height, width] = shape as [number, 1 | 3, number, number];
  const pixels = height * width;
  const at = (i: number) => (i % channels) * pixels + Math.floor(i / channels);
  return { data: Float32Array.from(data, (_, i) => data[at(i)]!), width, height, channels };
}

/** The same as raw pixels; its values are multiples of 1/255. */
async function rawPixels(file: Golden, name: string) {
  const picture = await channelsLast(file, name);
  return { ...picture, data: Uint8Array.from(picture.data, (value) => Math.round(255 * value)) };
}

const { normal } = Generator.prototype;
after(() => {
  Generator.prototype.normal = normal;
});
/** What the seed's stream gives next, draw by draw. */
function drawing(...draws: Float32Array[]): void {
  Generator.prototype.normal = async function (device, count) {
    return draws.shift() ?? normal.call(this, device, count);
  };
}

const NEEDED = ["tiny-flux/transformer", "tiny-flux/vae"];
const CASES: [name: string, variant: Variant, pictures: (file: Golden) => Promise<GenerateOptions>][] = [
  ["e2e_img2img", "dev", async (file) => ({ image: await rawPixels(file, "in.image"), strength: 0.6 })],
  [
    "e2e_inpaint",
    "dev",
    async (file) => ({
      image: await rawPixels(file, "in.image"),
      maskImage: await rawPixels(file, "in.mask"),
      strength: 0.85,
    }),
  ],
  [
    "e2e_kontext",
    "kontext",
    async (file) => ({
      image: await rawPixels(file, "in.image"),
      autoResize: false,
      latents: await file.f32("in.latents"),
    }),
  ],
];

for (const [name, variant, pictures] of CASES) {
  const skip = needs(`cases/${name}.safetensors`, ...NEEDED);
  test(`${name} is within bf16_impl`, { skip }, async () => {
    const file = await Golden.open(name);
    const { height, width, steps, guidance_scale: guidanceScale } = file.params;
    const options: GenerateOptions = {
      promptEmbeds: await file.f32("in.prompt_embeds"),
      pooledPromptEmbeds: await file.f32("in.pooled_prompt_embeds"),
      ...{ height: height!, width: width!, numInferenceSteps: steps!, guidanceScale: guidanceScale! },
      ...(await pictures(file)),
    };
    using pipe = await FluxPipeline.fromPretrained(pipelineFolder("dev"), { device: gpu, variant });
    if (file.has("in.noise")) {
      drawing((await file.f32("in.posterior_noise")).data, (await file.f32("in.noise")).data);
    }
    let latents = new Float32Array();
    let last = 0;
    const { raw } = await pipe.generate({
      ...options,
      outputType: "raw",
      preview: true,
      onStep: (event) => {
        latents = Float32Array.from(event.latents!.data);
        last = event.total - 1;
      },
    });
    const errors = {
      [`latents.${last}`]: relativeL2(latents, (await file.f32(`latents.${last}`)).data),
      image: relativeL2(raw!.data, (await channelsLast(file, "image")).data),
    };
    for (const [tensor, error] of Object.entries(errors)) {
      console.log(`${name} ${tensor}: ${error.toExponential(2)}, allowed ${file.allowed(tensor)}`);
      assert.ok(error <= file.allowed(tensor), tensor);
    }
  });
}

const picture = {
  width: 70,
  height: 54,
  data: Uint8Array.from({ length: 3 * 70 * 54 }, (_, i) => (i * 37) % 256),
};
const mask = { width: 70, height: 54, data: new Uint8Array(70 * 54).fill(255, 70 * 20) };

for (const [variant, channels, pictures] of [
  ["fill", 384, { image: picture, maskImage: mask }],
  ["control", 128, { controlImage: picture }],
  ["control", 128, { controlImage: picture, image: picture, maskImage: mask }],
] as const) {
  const skip = needs("tiny-flux/model_index.json", "configs/tiny-flux/model_index.json");
  test(`${variant} with ${Object.keys(pictures)} is the CPU's`, { skip }, async () => {
    const base = goldenPath("configs/tiny-flux");
    const config = { base, transformer: { in_channels: channels, out_channels: 64 } };
    const draw = async (device: typeof cpu) => {
      using pipe = await FluxPipeline.fromConfig(config, { weights: "random", seed: 1, device });
      assert.equal(pipe.variant, variant);
      const options = {
        prompt: "a cat",
        seed: 3,
        height: 48,
        width: 64,
        numInferenceSteps: 4,
        maxSequenceLength: 32,
      };
      const { latents } = await pipe.generate({ ...options, ...pictures, outputType: "latents" });
      return latents!.data;
    };
    const error = relativeL2(await draw(gpu), await draw(cpu));
    console.log(`${variant} ${Object.keys(pictures)}: ${error.toExponential(2)}`);
    assert.ok(error <= 3e-2); // several times what bf16 costs the golden cases
  });
}
