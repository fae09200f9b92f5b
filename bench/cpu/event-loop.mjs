// How long Node's event loop is held up, while a checkpoint loads and while an image is made: a timer that should fire every
// millisecond, and when it did. The figures are those of perf_hooks as they are, so an idle loop's are about 1 ms.
//
// With the vocabularies of FLUX.1 (optional, ../shared/tokenizers) loading them is measured, too: they are the largest thing
// that is parsed by JavaScript.
import { existsSync } from "node:fs";
import { monitorEventLoopDelay } from "node:perf_hooks";
import { fileURLToPath } from "node:url";
import { timeRow } from "../results.mjs";
import { benchModel, SIDE, STEPS } from "./model.mjs";

const vocabularies = fileURLToPath(new URL("../../../shared/tokenizers", import.meta.url));

/** Runs `work` and returns its result with the delays meanwhile, in milliseconds. */
async function watch(work) {
  const delays = monitorEventLoopDelay({ resolution: 1 });
  // The first timer has to have fired for the next delay to count.
  delays.enable();
  await new Promise((resolve) => setTimeout(resolve, 20));
  delays.reset();
  const result = await work();
  await new Promise((resolve) => setTimeout(resolve, 20));
  delays.disable();
  return { result, p99: delays.percentile(99) / 1e6, longest: delays.max / 1e6 };
}

export async function bench(benchOptions) {
  const { FluxPipeline } = await import("../../dist/index.js");
  const { folder, name, title } = benchModel(benchOptions);
  const loading = await watch(() => FluxPipeline.fromPretrained(folder, { device: "cpu" }));
  const pipe = loading.result;
  const options = { width: SIDE, height: SIDE, numInferenceSteps: STEPS, seed: 7 };
  // A new prompt each time: the first call records its plans, the second only replays them.
  const draw = (prompt) =>
    watch(async () => {
      const { images } = await pipe.generate({ prompt, ...options });
      return images[0].toBuffer("png");
    });
  const first = await draw("a red circle above a blue square");
  const second = await draw("a green triangle on a white background");
  pipe.dispose();
  const rows = [
    timeRow(`event loop, loading ${name}, longest delay`, loading.longest),
    timeRow(`event loop, first image, ${title}, 99th percentile of the delay`, first.p99),
    timeRow(`event loop, first image, ${title}, longest delay`, first.longest),
    timeRow(`event loop, second image, ${title}, 99th percentile of the delay`, second.p99),
    timeRow(`event loop, second image, ${title}, longest delay`, second.longest),
  ];
  if (!existsSync(vocabularies)) {
    console.error("no ../shared/tokenizers: loading the vocabularies of FLUX.1 is not measured");
    return rows;
  }
  const { loadClipTokenizer, loadT5Tokenizer } = await import("../../dist/loaders/tokenizers.js");
  const clip = await watch(() => loadClipTokenizer(`${vocabularies}/clip`));
  const t5 = await watch(() => loadT5Tokenizer(`${vocabularies}/t5`));
  const encoding = await watch(async () => {
    const prompt = "a photograph of an astronaut riding a horse on the moon, ".repeat(150);
    t5.result.encode(prompt, { maxLength: 512 });
    clip.result.encode(prompt, { maxLength: 77 });
  });
  rows.push(timeRow("event loop, loading CLIP's vocabulary (49408 tokens), longest delay", clip.longest));
  rows.push(timeRow("event loop, loading T5's vocabulary (32100 tokens), longest delay", t5.longest));
  rows.push(
    timeRow("event loop, both encoding a prompt of 8550 characters, longest delay", encoding.longest),
  );
  return rows;
}
