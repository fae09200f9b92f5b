// The same pictures with one LoRA adapter after another, and with a mixture of two, side by side in one sheet. The adapters are
// swapped into slots between pictures: nothing is compiled or recorded again.
//
//   node examples/adapters.mjs path/to/FLUX.1-dev sheet.png ink.safetensors snow.safetensors
import { readdirSync } from "node:fs";
import { basename } from "node:path";
import { FluxPipeline } from "fluxwarp";
import sharp from "sharp";

const [model = "models/tiny", output = "adapters.png", ...files] = process.argv.slice(2);
const adapters =
  files.length > 0
    ? files
    : readdirSync("models/tiny-loras")
        .filter((name) => name.endsWith(".safetensors"))
        .map((name) => `models/tiny-loras/${name}`);
const prompts = [
  "a red circle above a blue square",
  "a green star on a white background",
  "a purple ring to the left of an orange triangle",
  "a small yellow heart in the top left on a cyan background",
];

const pipe = await FluxPipeline.fromPretrained(model);
await pipe.enableLoraHotswap({ targetRank: 64 });
const names = [];
for (const file of adapters) {
  const { name, unused } = await pipe.loadLoraWeights(file, { adapterName: basename(file, ".safetensors") });
  names.push(name);
  console.log(`${name}: rank ${pipe.listAdapters().at(-1).rank}, ${unused.length} tensors not used`);
}

// None, each alone, and the first two at once.
const columns = [
  [],
  ...names.map((name) => [{ name }]),
  names.slice(0, 2).map((name) => ({ name, weight: 0.7 })),
];
const rows = [];
for (const prompt of prompts) {
  const row = await Promise.all(columns.map((loras) => pipe.generate({ prompt, seed: 3, loras })));
  rows.push(row.map(({ images }) => images[0]));
  console.log(prompt);
}

const { width, height } = rows[0][0];
const pictures = rows.flatMap((row, y) =>
  row.map(({ data }, x) => ({
    input: data,
    raw: { width, height, channels: 3 },
    left: x * width,
    top: y * height,
  })),
);
const sheet = {
  width: columns.length * width,
  height: rows.length * height,
  channels: 3,
  background: "white",
};
await sharp({ create: sheet }).composite(pictures).png({ palette: true }).toFile(output);
console.log(`${output}: ${["none", ...names, names.slice(0, 2).join(" + ")].join(" | ")}`);
pipe.dispose();
