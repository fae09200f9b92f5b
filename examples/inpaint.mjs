// Repaints what is white in a mask, and leaves the rest as it is: with FLUX.1-dev, FLUX.1-schnell or, best, FLUX.1-Fill-dev.
//
//   node examples/inpaint.mjs path/to/FLUX.1-Fill-dev "a red door" house.jpg mask.png house-2.png
import { FluxPipeline } from "fluxwarp";

const [
  model = "models/tiny",
  prompt = "a yellow star below a red circle",
  input,
  mask,
  output = "image.png",
] = process.argv.slice(2);

if (input !== undefined && mask === undefined) {
  console.error("usage: node examples/inpaint.mjs [MODEL PROMPT [PICTURE MASK [OUTPUT]]]");
  process.exit(2);
}

const pipe = await FluxPipeline.fromPretrained(model);
// Without a picture, one is drawn, and its lower half repainted.
const drawn = () => pipe.generate({ prompt: "a red circle above a blue square", seed: 1 });
const image = input ?? (await drawn()).images[0];
const lowerHalf = ({ width, height }) => ({
  width,
  height,
  data: new Uint8Array(width * height).fill(255, width * Math.floor(height / 2)),
});
const { images } = await pipe.generate({
  prompt,
  image,
  maskImage: mask ?? lowerHalf(image),
  ...(pipe.variant !== "fill" && { strength: 0.9 }),
  seed: 2,
});
await images[0].save(output);
console.log(`${output}: ${images[0].width}×${images[0].height}`);
pipe.dispose();
