// Edits a picture as the prompt says, with FLUX.1-Kontext-dev. Several pictures are references side by side.
//
//   node examples/kontext.mjs path/to/FLUX.1-Kontext-dev "make it winter" winter.png house.jpg [more.jpg …]
import { FluxPipeline } from "fluxwarp";

const [model, prompt, output, ...pictures] = process.argv.slice(2);
if (pictures.length === 0) {
  console.error("usage: node kontext.mjs MODEL PROMPT OUTPUT PICTURE [PICTURE …]");
  process.exit(2);
}

const pipe = await FluxPipeline.fromPretrained(model, { variant: "kontext" });
const { images } = await pipe.generate({ prompt, image: pictures, guidanceScale: 2.5 });
await images[0].save(output);
console.log(`${output}: ${images[0].width}×${images[0].height}`);
pipe.dispose();
