// One picture from a prompt, with progress.
//
//   node examples/text-to-image.mjs path/to/FLUX.1-schnell "a cat holding a sign" cat.png
import { FluxPipeline } from "fluxwarp";

const [model = "models/tiny", prompt = "a red circle above a blue square", output = "image.png"] =
  process.argv.slice(2);

const pipe = await FluxPipeline.fromPretrained(model);
const { images, seed } = await pipe.generate({
  prompt,
  onStep: ({ step, total }) => console.log(`step ${step} of ${total}`),
});
await images[0].save(output);
console.log(`${output}: ${images[0].width}×${images[0].height}, seed ${seed}`);
pipe.dispose();
