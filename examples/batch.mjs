// The same prompt with several seeds, one after another, with a limit of time: what is done by then is kept.
//
//   node examples/batch.mjs path/to/FLUX.1-schnell "a lighthouse" 60      (seconds)
import { FluxPipeline } from "fluxwarp";

const [model = "models/tiny", prompt = "a green triangle", seconds = "600"] = process.argv.slice(2);

const signal = AbortSignal.timeout(1000 * Number(seconds));
const pipe = await FluxPipeline.fromPretrained(model);
try {
  for (const seed of [1, 2, 3, 4]) {
    const { images } = await pipe.generate({ prompt, seed, signal });
    await images[0].save(`seed-${seed}.webp`, { quality: 85 });
    console.log(`seed-${seed}.webp`);
  }
} catch (error) {
  if (!signal.aborted) throw error;
  console.log(`stopped after ${seconds} s`);
} finally {
  pipe.dispose();
}
