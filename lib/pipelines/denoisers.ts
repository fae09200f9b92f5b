import { FluxError } from "../errors.js";
import { imageIds, textIds } from "../models/latents.js";
import { Generator } from "../runtime/generator.js";
import type { Call } from "./call.js";
import type { Checkpoint } from "./checkpoint.js";
import { type PictureEncoder, writeImages } from "./conditioning/encode.js";
import { referenceIds } from "./conditioning/kontext.js";
import { Denoiser } from "./denoiser.js";
import { repeatRows } from "./host-tensor.js";
import { Kept } from "./kept.js";
import type { PromptEncoder } from "./prompt-encoder.js";
import type { Request } from "./request.js";
import { textTokensOf, writeConditions } from "./text-conditions.js";

/** Bytes of loops that are kept: about seven of FLUX.1-dev at 1024×1024 and 28 steps. */
const KEPT_BYTES = 2 ** 30;

/** Recorded denoising loops by their shape, and what is written into one before it runs. */
export class Denoisers {
  readonly #known = new Kept<Denoiser>(KEPT_BYTES);
  /** In `use`: it must outlive plans that are asked for meanwhile. */
  #running: Denoiser | undefined;

  /** @param requireAlive throws when the pipeline is disposed, meanwhile perhaps. */
  constructor(
    private readonly checkpoint: Pick<Checkpoint, "transformer" | "scheduler">,
    private readonly prompts: PromptEncoder,
    private readonly pictures: PictureEncoder,
    private readonly requireAlive: () => void,
  ) {}

  /** The one for such a request, recorded where it is new. */
  of(request: Request, batch = request.batch): Denoiser {
    this.requireAlive();
    const { size, negative } = request;
    const { rows, columns } = size;
    const shape = {
      ...{ batch, textTokens: textTokensOf(request.positive, request), rows, columns },
      steps: this.#sigmas(request).length - 1,
      trueCfgScale: negative === undefined ? 1 : request.trueCfgScale,
      images: this.pictures.shapeOf(request),
      ...(request.cache && { cache: request.cache.shape }),
    };
    const make = () => new Denoiser(this.checkpoint.transformer, shape);
    return this.#known.of(JSON.stringify(shape), make, this.#running);
  }

  /**
   * The denoiser of the calls' shape, filled with everything that the loop reads, for `work` alone: one turn at a time, and no other goes for it
   * or takes its memory until then.
   */
  async use<T>(calls: readonly Call[], work: (denoiser: Denoiser) => Promise<T>): Promise<T> {
    try {
      return await work(await this.#prepare(calls));
    } finally {
      this.#running = undefined;
    }
  }

  async #prepare(calls: readonly Call[]): Promise<Denoiser> {
    const { request } = calls[0]!;
    const { size } = request;
    const batch = calls.reduce((sum, call) => sum + call.request.batch, 0);
    const sigmas = this.#sigmas(request);
    const perStep = sigmas.subarray(0, -1);
    const textTokens = textTokensOf(request.positive, request);
    if (request.negative !== undefined && textTokensOf(request.negative, request) !== textTokens) {
      throw new FluxError(
        "ERR_FLUX_BAD_ARGUMENT",
        "promptEmbeds and negativePromptEmbeds must have the same number of tokens",
      );
    }
    const denoiser = await this.#withRoom(() => {
      this.#running = this.of(request, batch);
      return this.#running;
    });
    const ids = new Float32Array(denoiser.ids.elements);
    ids.set(textIds(textTokens));
    ids.set(imageIds(size), 3 * textTokens);
    const references = request.task?.references.map((reference) => reference.size) ?? [];
    ids.set(referenceIds(references), 3 * (textTokens + size.tokens));
    const guidance = calls.flatMap((call) =>
      new Array<number>(call.request.batch).fill(call.request.guidanceScale),
    );
    const encoded = this.#writeTexts(denoiser, calls);
    for (const write of encoded) write.catch(() => {}); // awaited below, after the pictures
    const writes = [
      ...encoded,
      ...(await this.#start(denoiser, calls)),
      denoiser.ids.write(ids),
      denoiser.sigmas.write(sigmas),
      denoiser.timesteps.write(repeatRows({ data: perStep, shape: [perStep.length] }, batch).data),
      denoiser.guidance.write(Float32Array.from(guidance)),
      denoiser.counter.write(Int32Array.of(0)),
      denoiser.resetCache(request.cache?.limits),
      denoiser.resetKeyOffsets(),
    ];
    await Promise.all(writes);
    return denoiser;
  }

  /** The transformer's linears are others from now on, or nobody draws any more. */
  dispose(): void {
    this.#known.dispose();
  }

  /** Gives other shapes' memory back where a new one has none. */
  async #withRoom(make: () => Denoiser): Promise<Denoiser> {
    try {
      return make();
    } catch (error) {
      if (!FluxError.is(error, "ERR_FLUX_OUT_OF_MEMORY") || this.#known.isEmpty) throw error;
      this.#known.dispose();
      await this.checkpoint.transformer.device.drain();
      return make();
    }
  }

  #writeTexts(denoiser: Denoiser, calls: readonly Call[]): Promise<void>[] {
    const { positive, negative } = denoiser;
    const texts = (side: "positive" | "negative") =>
      calls.map((call) => ({ conditions: call.request[side]!, request: call.request }));
    return [
      ...writeConditions(positive, texts("positive"), this.prompts),
      ...(negative === undefined ? [] : writeConditions(negative, texts("negative"), this.prompts)),
    ];
  }

  /** What the loop starts from: every call's own noise, or the latents that it brought; and its pictures, which a batch of calls has none of. */
  async #start(denoiser: Denoiser, calls: readonly Call[]): Promise<Promise<void>[]> {
    const { noise, start, images, shape } = denoiser;
    const writes: Promise<void>[] = [];
    const brought: Promise<void>[] = [];
    let row = 0;
    for (const { request } of calls) {
      // From the seed every time: a batch that had no memory is drawn again, call by call.
      const encoded = await this.pictures.encode(request, new Generator(request.seed));
      const queued = [
        ...(encoded.noise === undefined
          ? []
          : [noise.write(encoded.noise, (row * noise.elements) / shape.batch)]),
        ...(images === undefined ? [] : writeImages(images, encoded)),
      ];
      for (const write of queued) write.catch(() => {}); // awaited by the caller, after the next call's pictures
      writes.push(...queued);
      row += request.batch;
    }
    if (writes.length > 0) writes.push(denoiser.pack.run());
    row = 0;
    for (const { request } of calls) {
      const { latents, batch } = request;
      // Behind pack, which writes all rows.
      if (latents !== undefined)
        brought.push(start.write(latents.data, (row * start.elements) / shape.batch));
      row += batch;
    }
    return [...writes, ...brought];
  }

  /** The sigmas of the steps that are run, with the terminal 0. */
  #sigmas({ numInferenceSteps, sigmas, size, task }: Request): Float32Array {
    const steps = sigmas === undefined ? { numInferenceSteps } : { sigmas };
    const strength = task?.strength ?? 1;
    const options = { ...steps, imageSeqLen: size.tokens, strength };
    const schedule = this.checkpoint.scheduler.schedule(options);
    return schedule.sigmas.subarray(schedule.startIndex);
  }
}
