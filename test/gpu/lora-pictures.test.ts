// The shipped adapters on the GPU: swapping gives the picture that fusing gives, and slots are written without a trace.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { FluxPipeline } from "../../dist/index.js";

const REQUEST = { prompt: "a red circle", seed: 1, height: 128, width: 128, numInferenceSteps: 6 };
const NAMES = ["outline", "sticker", "night", "pixel"];
const fileOf = (name: string) => `models/tiny-loras/${name}.safetensors`;
let pipe: FluxPipeline;

before(async () => {
  pipe = await FluxPipeline.fromPretrained("models/tiny", { device: "cuda:0", precision: "bf16" });
});
after(() => pipe?.dispose());

async function picture(of = pipe): Promise<Buffer> {
  return Buffer.from((await of.generate(REQUEST)).images[0]!.data);
}

/** Of two pictures, in dB. */
function psnr(a: Buffer, b: Buffer): number {
  const squares = a.reduce((sum, value, i) => sum + (value - b[i]!) ** 2, 0);
  return 10 * Math.log10(255 ** 2 / (squares / a.length));
}

for (const name of NAMES) {
  test(`${name}: swapping gives the picture that fusing gives, PSNR at least 40 dB`, async () => {
    const plain = await picture();
    await pipe.loadLoraWeights(fileOf(name), { adapterName: name });
    const swapped = await picture();
    assert.ok(psnr(plain, swapped) < 30);
    await pipe.fuseLora();
    await pipe.unloadLoraWeights();
    const fused = psnr(swapped, await picture());
    console.log(`${name}: swapped against fused ${fused.toFixed(1)} dB`);
    assert.ok(fused >= 40);
    await pipe.unfuseLora();
    assert.ok(plain.equals(await picture()));
  });
}

for (const precision of ["bf16", "fp8"] as const) {
  test(`${precision}: 100 swaps in slots of fixed size give a fresh load's picture, without growth`, async () => {
    const own = await FluxPipeline.fromPretrained("models/tiny", { device: "cuda:0", precision });
    try {
      await own.enableLoraHotswap({ targetRank: 32 });
      const empty = await picture(own);
      const fresh = new Map<string, Buffer>();
      for (const name of NAMES) {
        await own.loadLoraWeights(fileOf(name), { adapterName: name });
        fresh.set(name, await picture(own));
      }
      await own.device.drain();
      const { allocated } = own.device.memoryUsage();
      for (let i = 0; i < 100; i++) {
        const name = NAMES[(i * 7 + (i >> 2)) % NAMES.length]!;
        await own.setAdapters(name, i % 3);
        await own.setAdapters(name);
        if (i % 20 === 0) assert.ok(fresh.get(name)!.equals(await picture(own)), name);
      }
      await own.device.drain();
      assert.equal(own.device.memoryUsage().allocated, allocated);
      await own.unloadLoraWeights();
      assert.ok(empty.equals(await picture(own)));
    } finally {
      own.dispose();
    }
  });
}
