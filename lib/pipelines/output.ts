import type { Checkpoint } from "./checkpoint.js";
import { perBatch } from "./conditioning/encode.js";
import { pasteBack } from "./conditioning/mask-crop.js";
import { type HostTensor, stack } from "./host-tensor.js";
import { FluxImage } from "./image.js";
import { ImageDecoder } from "./image-decoder.js";
import { Kept } from "./kept.js";
import type { Request } from "./request.js";
import type { GenerateResult } from "./result.js";

/** Bytes of decoders that are kept: some thirty of 1024×1024. */
const KEPT_BYTES = 2 ** 27;

/** What a call asked to get, of its latents. */
export class Output {
  readonly #decoders = new Kept<ImageDecoder>(KEPT_BYTES);

  /** @param requireAlive throws when the pipeline is disposed, meanwhile perhaps. */
  constructor(
    private readonly checkpoint: Pick<Checkpoint, "vae" | "vaeConfig">,
    private readonly requireAlive: () => void,
  ) {}

  async of(
    request: Request,
    latents: HostTensor,
    signal?: AbortSignal,
  ): Promise<Pick<GenerateResult, "images" | "raw" | "latents">> {
    const { size, batch, outputType } = request;
    if (outputType === "latents") return { images: [], latents };
    const { height, width } = size;
    const decoder = this.#decoder(request, outputType === "raw" ? "f32" : "u8");
    const length = latents.data.length / batch;
    const pictures: (Uint8Array | Float32Array)[] = [];
    for (let i = 0; i < batch; i++) {
      signal?.throwIfAborted();
      pictures.push(await decoder.decode(latents.data.subarray(i * length, (i + 1) * length)));
    }
    signal?.throwIfAborted();
    if (outputType === "image") {
      const images = pictures.map((data) => new FluxImage(width, height, data as Uint8Array));
      const patches = perBatch(request.task?.patches ?? [], request);
      if (patches.length === 0) return { images };
      const pasted = images.map((image, i) => {
        const { picture, mask, box } = patches[i]!;
        return pasteBack(image, picture, mask, box);
      });
      return { images: await Promise.all(pasted) };
    }
    const shape = [height, width, 3];
    return { images: [], raw: stack(pictures.map((data) => ({ data: data as Float32Array, shape }))) };
  }

  dispose(): void {
    this.#decoders.dispose();
  }

  #decoder({ size, vaeTileSize }: Request, dtype: "u8" | "f32"): ImageDecoder {
    this.requireAlive();
    const { vae, vaeConfig } = this.checkpoint;
    const key = `${size.height}×${size.width} ${dtype} ${vaeTileSize}`;
    const make = () => new ImageDecoder(vae, vaeConfig, size, dtype, vaeTileSize);
    return this.#decoders.of(key, make);
  }
}
