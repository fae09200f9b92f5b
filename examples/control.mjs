// Draws along edges (FLUX.1-Canny-dev) or a depth map (FLUX.1-Depth-dev). The control image is yours to make; this one's edges are
// found with sharp, good enough to try it.
//
//   node examples/control.mjs path/to/FLUX.1-Canny-dev "a house of gingerbread" house.jpg gingerbread.png
//   node examples/control.mjs path/to/FLUX.1-Depth-dev "a robot in a garden" depth.png robot.png --as-it-is
import { FluxPipeline } from "fluxwarp";
import sharp from "sharp";

const [model, prompt, input, output, flag] = process.argv.slice(2);
if (output === undefined) {
  console.error("usage: node control.mjs MODEL PROMPT PICTURE OUTPUT [--as-it-is]");
  process.exit(2);
}

/** White lines on black: the Laplacian of the blurred picture, over a threshold. */
async function edges(path) {
  const laplacian = { width: 3, height: 3, kernel: [-1, -1, -1, -1, 8, -1, -1, -1, -1] };
  return sharp(path).autoOrient().greyscale().blur(1.4).convolve(laplacian).threshold(24).png().toBuffer();
}

const pipe = await FluxPipeline.fromPretrained(model);
const controlImage = flag === "--as-it-is" ? input : await edges(input);
const guidanceScale = flag === "--as-it-is" ? 10 : 30; // what Black Forest Labs advise for depth and for edges
const { images } = await pipe.generate({ prompt, controlImage, guidanceScale });
await images[0].save(output);
console.log(`${output}: ${images[0].width}×${images[0].height}`);
pipe.dispose();
