// Another picture after a picture: the higher strength, the further it may be from it.
//
//   node examples/image-to-image.mjs path/to/FLUX.1-dev "an oil painting of a harbour" harbour.jpg 0.7 painting.png
import { FluxPipeline } from "fluxwarp";

const [
  model = "models/tiny",
  prompt = "a blue star above a red square",
  input,
  strength = "0.7",
  output = "image.png",
] = process.argv.slice(2);

const pipe = await FluxPipeline.fromPretrained(model);
// Without a picture to start from, one is drawn.
const drawn = () => pipe.generate({ prompt: "a red circle above a blue square", seed: 1 });
const image = input ?? (await drawn()).images[0];
const { images } = await pipe.generate({ prompt, image, strength: Number(strength), seed: 2 });
await images[0].save(output);
console.log(`${output}: ${images[0].width}×${images[0].height}`);
pipe.dispose();
