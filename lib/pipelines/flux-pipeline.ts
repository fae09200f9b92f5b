import { setImmediate } from "node:timers/promises";
import { badArgument, FluxError } from "../errors.js";
import type { FluxConfig } from "../loaders/pipeline-configs.js";
import { MAX_T5_LENGTH } from "../loaders/tokenizers.js";
import { Adapters } from "../lora/adapters.js";
import { sitesOf } from "../lora/sites.js";
import { imageIds, SIZE_MULTIPLE, textIds } from "../models/latents.js";
import type { Device } from "../runtime/device.js";
import { Generator } from "../runtime/generator.js";
import type { Plan } from "../runtime/plan.js";
import { type CacheOptions, type CacheReport, checkCache } from "./cache.js";
import { batchKey, Call, watchersOf } from "./call.js";
import type { Checkpoint, CheckpointParts } from "./checkpoint.js";
import { openFolder } from "./checkpoint-folder.js";
import { PictureEncoder, perBatch, writeImages } from "./conditioning/encode.js";
import { referenceIds } from "./conditioning/kontext.js";
import { pasteBack } from "./conditioning/mask-crop.js";
import {
  checkTask,
  hasPictures,
  imageTask,
  outputSize,
  readPictures,
  standIns,
} from "./conditioning/task.js";
import type { Variant } from "./conditioning/variant.js";
import { runSteps } from "./denoise-loop.js";
import { Denoiser } from "./denoiser.js";
import { allFinite, type HostTensor, repeatRows, stack } from "./host-tensor.js";
import { FluxImage } from "./image.js";
import { ImageDecoder } from "./image-decoder.js";
import { kept } from "./kept.js";
import {
  type FromConfigOptions,
  type FromPretrainedOptions,
  type FromSingleFileOptions,
  type LoadedCheckpoint,
  loadOnto,
} from "./load-onto.js";
import { LoraLoader } from "./lora-loader.js";
import type { GenerateOptions } from "./options.js";
import { PromptEncoder } from "./prompt-encoder.js";
import { openRandom } from "./random-checkpoint.js";
import { type Capabilities, checkNames, checkRequest, countOf, type Request } from "./request.js";
import { openSingleFile } from "./single-file.js";
import { textTokensOf, writeConditions } from "./text-conditions.js";
import { Turns } from "./turns.js";

/** What `generate` gives; what `outputType` did not ask for is absent. */
export interface GenerateResult {
  /** With `"image"`: prompts in order, each with its images in order. */
  images: FluxImage[];
  /** With `"raw"`: [B, H, W, 3] in [0, 1]. */
  raw?: HostTensor;
  /** With `"latents"`: packed, [B, tokens, 64]. */
  latents?: HostTensor;
  /** The seed that was used: pass it again for the same images. */
  seed: number | bigint;
  /** With a cache: which steps were skipped, and why. */
  cache?: CacheReport;
  /** Where the time went, from this call's turn on. */
  timings: Timings;
}

/** Milliseconds. */
export interface Timings {
  /** Texts and pictures to what the loop reads, and the recording of a shape that is new. */
  encode: number;
  /** All steps. */
  denoise: number;
  /** Latents to pixels in host memory. */
  decode: number;
}

/** Recorded shapes that are kept; the least recently used goes first. */
const KEPT_DENOISERS = 4;
const KEPT_DECODERS = 4;
/** Images in a batch with `batchConcurrent: true`. */
const DEFAULT_BATCH = 4;

/**
 * FLUX.1 from prompt to picture. `generate` calls run one after another in the order in which they were made.
 *
 *     await using pipe = await FluxPipeline.fromPretrained("FLUX.1-schnell");
 *     const { images } = await pipe.generate({ prompt: "a cat", seed: 42 });
 *     await images[0].save("cat.png");
 */
export class FluxPipeline extends LoraLoader {
  readonly device: Device;
  readonly #checkpoint: Checkpoint;
  readonly #ownsDevice: boolean;
  readonly #prompts: PromptEncoder;
  readonly #pictures: PictureEncoder;
  readonly #denoisers = new Map<string, Denoiser>();
  readonly #decoders = new Map<string, ImageDecoder>();
  /** What the generate or profile whose turn it is uses: it must outlive plans that are asked for meanwhile. */
  #running: Denoiser | undefined;
  /** Of every call that does not say otherwise. */
  #cache: CacheOptions | undefined;
  readonly #turns = new Turns<Call>();
  /** That calls may share in a batch. */
  readonly #mostImages: number;
  /** @internal */
  protected readonly adapters: Adapters;
  #disposed = false;

  private constructor(
    { device, ownsDevice, checkpoint }: LoadedCheckpoint,
    { loraPoolBytes, batchConcurrent = false }: FromPretrainedOptions,
  ) {
    super();
    this.device = device;
    this.#mostImages = batchConcurrent === true ? DEFAULT_BATCH : Number(batchConcurrent);
    this.#checkpoint = checkpoint;
    this.#ownsDevice = ownsDevice;
    const { clip, t5, transformer } = checkpoint;
    const { pooledProjectionDim: pooled, jointAttentionDim: sequence } = transformer.config;
    this.#prompts = new PromptEncoder(device, { clip, t5 }, { pooled, sequence });
    this.adapters = this.#makeAdapters(loraPoolBytes);
    this.#pictures = new PictureEncoder(checkpoint.vae, checkpoint.vaeConfig, checkpoint.variant);
  }

  /**
   * Loads a checkpoint folder in diffusers' layout.
   * @throws FluxError `ERR_FLUX_BAD_WEIGHTS`, `ERR_FLUX_UNSUPPORTED`, `ERR_FLUX_NO_DEVICE`, `ERR_FLUX_OUT_OF_MEMORY`.
   */
  static fromPretrained(folder: string, options: FromPretrainedOptions = {}): Promise<FluxPipeline> {
    return FluxPipeline.#load(() => openFolder(folder), options);
  }

  /**
   * Makes a model of any size on the device, without a checkpoint: for benchmarks and tests. Its pictures are noise.
   *
   *     await FluxPipeline.fromConfig("flux1-dev", { weights: "random", seed: 0 });
   *
   * @throws FluxError `ERR_FLUX_BAD_ARGUMENT` for a config or a seed that is none, and as `fromPretrained` does.
   */
  static fromConfig(config: FluxConfig, options: FromConfigOptions): Promise<FluxPipeline> {
    return FluxPipeline.#load(async () => {
      if (options?.weights !== "random") throw badArgument('fromConfig() takes { weights: "random" }');
      return openRandom(config, options);
    }, options ?? {});
  }

  /**
   * Loads a single file: Black Forest Labs' (flux1-dev.safetensors), or ComfyUI's in bf16 or fp8, which may hold all parts.
   *
   *     await FluxPipeline.fromSingleFile("flux1-dev.safetensors", { config: "path/to/FLUX.1-dev" });
   *     await FluxPipeline.fromSingleFile("flux1-dev-fp8.safetensors", { tokenizers: "path/to/FLUX.1-dev" });
   *
   * @throws FluxError `ERR_FLUX_BAD_ARGUMENT` when parts are missing, naming all of them, and as `fromPretrained` does.
   */
  static fromSingleFile(path: string, options: FromSingleFileOptions = {}): Promise<FluxPipeline> {
    return FluxPipeline.#load(() => openSingleFile(path, options), options);
  }

  static async #load(
    open: () => Promise<CheckpointParts>,
    options: FromPretrainedOptions,
  ): Promise<FluxPipeline> {
    return new FluxPipeline(await loadOnto(open, options), options);
  }

  /** What the checkpoint was made for, and so which pictures `generate` takes. */
  get variant(): Variant {
    return this.#checkpoint.variant;
  }

  /**
   * Draws images.
   * @throws FluxError `ERR_FLUX_BAD_ARGUMENT` for a wrong option, `ERR_FLUX_OUT_OF_MEMORY`, `ERR_FLUX_DISPOSED` when the
   *   pipeline is disposed before or meanwhile; the signal's reason when it is aborted.
   */
  async generate(options: GenerateOptions): Promise<GenerateResult> {
    this.#alive();
    checkNames(options);
    options.signal?.throwIfAborted();
    const call = new Call(options, this.#read(options));
    const turn = this.#turns.take(options.signal, () => this.#serve(call), call);
    turn.catch(call.reject);
    await call.ready; // what is wrong with the call is said now, not at its turn
    return call.result;
  }

  /**
   * Lets later `generate` calls skip what changes little from step to step; a call's own `cache` takes precedence. Calls that
   * were made before are not affected.
   * @throws FluxError `ERR_FLUX_BAD_ARGUMENT` for a wrong option; what was enabled before then stays.
   */
  enableCache(options: CacheOptions = {}): void {
    this.#alive();
    checkCache(options, this.#capabilities().blocks);
    this.#cache = { ...options };
  }

  /** Later `generate` calls compute every step again. */
  disableCache(): void {
    this.#alive();
    this.#cache = undefined;
  }

  /**
   * The plan of one denoising step for such a request, for printing. Without a prompt its text is as long as
   * `maxSequenceLength` says; pictures are not read here.
   * @throws FluxError `ERR_FLUX_BAD_ARGUMENT` for a wrong option.
   */
  plan(options: GenerateOptions = {}): Plan {
    this.#alive();
    if (hasPictures(options)) {
      throw badArgument(
        "plan() reads no pictures: give height and width, or use profile(), which takes them",
      );
    }
    const size = outputSize(options, this.#capabilities(), undefined);
    const request = this.#request({ ...withTexts(options), ...size });
    const { positive, maxSequenceLength } = request;
    const textTokens = "texts" in positive ? maxSequenceLength : positive.embeds.shape[1]!;
    return this.#denoiser(request, textTokens).step;
  }

  /**
   * Runs one denoising step of such a request with a clock around every op. The plan that comes back shows the times.
   * @throws FluxError as `generate` does.
   */
  async profile(options: GenerateOptions = {}): Promise<Plan> {
    this.#alive();
    const can = this.#capabilities();
    const call = new Call(options, this.#read(standIns(withTexts(options), can)));
    const turn = this.#turns.take(options.signal, async () => {
      await call.ready;
      this.#alive();
      await this.adapters.apply(call.request.loras);
      const { prepare, step } = await this.#prepare([call]);
      await prepare.run();
      await step.profile();
      return step;
    });
    turn.catch(() => {});
    await call.ready;
    return (await turn)!;
  }

  /**
   * Gives back all device memory. A `generate` that is running rejects with `ERR_FLUX_DISPOSED` at its next step.
   */
  dispose(): void {
    if (this.#disposed) return;
    this.#disposed = true;
    for (const denoiser of this.#denoisers.values()) denoiser.dispose();
    for (const decoder of this.#decoders.values()) decoder.dispose();
    this.#prompts.dispose();
    this.#pictures.dispose();
    this.adapters.dispose();
    const { clip, t5, transformer, vae } = this.#checkpoint;
    for (const model of [clip.model, t5.model, transformer, vae]) model.dispose();
    if (this.#ownsDevice) this.device.dispose();
  }

  [Symbol.dispose](): void {
    this.dispose();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.dispose();
    await this.#turns.idle();
  }

  /** @internal */
  protected async inOrder<T>(work: () => Promise<T>): Promise<T> {
    this.#alive();
    const done = this.#turns.take(undefined, async () => {
      this.#alive();
      return work();
    });
    return done as Promise<T>;
  }

  #makeAdapters(poolBytes: number | undefined): Adapters {
    const { transformer, clip, original } = this.#checkpoint;
    const onClip = new Set(clip.model.linears);
    return new Adapters(
      this.device,
      sitesOf(transformer, clip.model),
      {
        forgetPlans: () => {
          for (const denoiser of this.#denoisers.values()) denoiser.dispose();
          this.#denoisers.clear();
          this.#prompts.forgetClip({ plan: true });
        },
        forgetEmbeddings: () => this.#prompts.forgetClip({ plan: false }),
        hasSlots: true,
        originals: (linear) => original(onClip.has(linear) ? "text_encoder" : "transformer"),
      },
      poolBytes,
    );
  }

  /** A call's turn: draws it, and those directly behind it that can be drawn with it. */
  async #serve(call: Call): Promise<void> {
    await call.ready;
    // Calls of the same moment have been read by then, and join.
    if (this.#mostImages > 1) await setImmediate();
    this.#alive();
    const calls = [call, ...this.#companions(call)];
    try {
      await this.#draw(calls);
    } catch (error) {
      if (calls.length > 1 && FluxError.is(error, "ERR_FLUX_OUT_OF_MEMORY")) {
        for (const alone of calls) if (alone.isWanted) await this.#draw([alone]).catch(alone.reject);
      } else {
        for (const failed of calls) failed.reject(error);
      }
    }
  }

  #companions({ request }: Call): Call[] {
    const key = this.#mostImages > 1 ? batchKey(request) : undefined;
    if (key === undefined) return [];
    let images = request.batch;
    return this.#turns.join((other) => {
      const joins =
        other.isReady && batchKey(other.request) === key && images + other.request.batch <= this.#mostImages;
      if (joins) images += other.request.batch;
      return joins;
    });
  }

  /** Draws calls of one batch; each promise settles when its own images are there. */
  async #draw(calls: readonly Call[]): Promise<void> {
    await this.adapters.apply(calls[0]!.request.loras);
    const begun = performance.now();
    const denoiser = await this.#prepare(calls);
    const encoded = performance.now();
    await runSteps(denoiser, watchersOf(calls));
    if (!calls.some(({ isWanted }) => isWanted)) return;
    const latents = { data: await denoiser.latents.read(), shape: denoiser.latents.shape };
    const denoised = performance.now();
    const cache = await denoiser.cacheReport();
    for (const { call, rows } of rowsOf(latents, calls)) {
      if (!call.isWanted) continue;
      try {
        requireFinite(rows);
        const decoding = performance.now();
        const pictures = await this.#finish(call.request, rows, call.options.signal);
        const timings = {
          encode: encoded - begun,
          denoise: denoised - encoded,
          decode: performance.now() - decoding,
        };
        call.resolve({ ...pictures, seed: call.request.seed, ...(cache && { cache }), timings });
      } catch (error) {
        call.reject(error);
      }
    }
  }

  /** The call, checked, with its pictures as they will be encoded. */
  async #read(options: GenerateOptions): Promise<Request> {
    const can = this.#capabilities();
    checkTask(options, can.variant);
    const cache = options.cache ?? this.#cache ?? false; // as it is at the call
    const pictures = hasPictures(options) ? await readPictures(options) : undefined;
    const request = this.#request({ ...options, cache, ...outputSize(options, can, pictures) });
    if (pictures === undefined) return request;
    const prompts = countOf(request.positive);
    return { ...request, task: await imageTask(options, can, pictures, request.size, prompts) };
  }

  /** Fills the denoiser of the calls' shape with everything that the loop reads. */
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
    const denoiser = this.#denoiser(request, textTokens, batch);
    this.#running = denoiser;
    const ids = new Float32Array(denoiser.ids.elements);
    ids.set(textIds(textTokens));
    ids.set(imageIds(size), 3 * textTokens);
    const references = request.task?.references.map((reference) => reference.size) ?? [];
    ids.set(referenceIds(references), 3 * (textTokens + size.tokens));
    const guidance = calls.flatMap((call) =>
      new Array<number>(call.request.batch).fill(call.request.guidanceScale),
    );
    const texts = (side: "positive" | "negative") =>
      calls.map((call) => ({ conditions: call.request[side]!, request: call.request }));
    const encoded = writeConditions(denoiser.positive, texts("positive"), this.#prompts);
    if (denoiser.negative !== undefined) {
      encoded.push(...writeConditions(denoiser.negative, texts("negative"), this.#prompts));
    }
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
    ];
    await Promise.all(writes);
    return denoiser;
  }

  /** What the loop starts from: every call's own noise, or the latents that it brought; and its pictures, which a batch of calls has none of. */
  async #start(denoiser: Denoiser, calls: readonly Call[]): Promise<Promise<void>[]> {
    const { noise, start, images, shape } = denoiser;
    const writes: Promise<void>[] = [];
    const brought: Promise<void>[] = [];
    let row = 0;
    for (const { request } of calls) {
      // From the seed every time: a batch that had no memory is drawn again, call by call.
      const encoded = await this.#pictures.encode(request, new Generator(request.seed));
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

  async #finish(
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

  #request(options: GenerateOptions): Request {
    return checkRequest({ ...options, cache: options.cache ?? this.#cache ?? false }, this.#capabilities());
  }

  /** The sigmas of the steps that are run, with the terminal 0. */
  #sigmas({ numInferenceSteps, sigmas, size, task }: Request): Float32Array {
    const steps = sigmas === undefined ? { numInferenceSteps } : { sigmas };
    const strength = task?.strength ?? 1;
    const options = { ...steps, imageSeqLen: size.tokens, strength };
    const schedule = this.#checkpoint.scheduler.schedule(options);
    return schedule.sigmas.subarray(schedule.startIndex);
  }

  #denoiser(request: Request, textTokens: number, batch = request.batch): Denoiser {
    this.#alive();
    const { size, negative } = request;
    const { rows, columns } = size;
    const steps = this.#sigmas(request).length - 1;
    const trueCfgScale = negative === undefined ? 1 : request.trueCfgScale;
    const images = this.#pictures.shapeOf(request);
    const shape = {
      ...{ batch, textTokens, rows, columns, steps, trueCfgScale, images },
      ...(request.cache && { cache: request.cache.shape }),
    };
    return kept(
      this.#denoisers,
      JSON.stringify(shape),
      KEPT_DENOISERS,
      () => new Denoiser(this.#checkpoint.transformer, shape),
      this.#running,
    );
  }

  #decoder({ size, vaeTileSize }: Request, dtype: "u8" | "f32"): ImageDecoder {
    this.#alive();
    const { vae, vaeConfig } = this.#checkpoint;
    const key = `${size.height}×${size.width} ${dtype} ${vaeTileSize}`;
    const make = () => new ImageDecoder(vae, vaeConfig, size, dtype, vaeTileSize);
    return kept(this.#decoders, key, KEPT_DECODERS, make);
  }

  #capabilities(): Capabilities {
    const { transformer, variant, vaeConfig, t5 } = this.#checkpoint;
    const { jointAttentionDim, pooledProjectionDim, outChannels } = transformer.config;
    return {
      sampleSize: Math.max(1, Math.floor(vaeConfig.sampleSize / SIZE_MULTIPLE)) * SIZE_MULTIPLE,
      variant,
      sequenceLength: Math.min(MAX_T5_LENGTH, t5.tokenizer.modelMaxLength),
      embedWidth: jointAttentionDim,
      pooledWidth: pooledProjectionDim,
      packedChannels: outChannels,
      blocks: transformer.blockCount,
    };
  }

  #alive(): void {
    if (this.#disposed) throw new FluxError("ERR_FLUX_DISPOSED", "this pipeline is disposed; load it again");
  }
}

/** The rows of a batch that are each call's, in order. */
function* rowsOf(
  { data, shape }: HostTensor,
  calls: readonly Call[],
): Iterable<{ call: Call; rows: HostTensor }> {
  const length = data.length / shape[0]!;
  let first = 0;
  for (const call of calls) {
    const { batch } = call.request;
    const own = data.subarray(first * length, (first + batch) * length);
    yield { call, rows: { data: calls.length === 1 ? own : own.slice(), shape: shape.with(0, batch) } };
    first += batch;
  }
}

/** With empty texts where neither texts nor embeddings are given: the ops of a step do not depend on them. */
function withTexts(options: GenerateOptions): GenerateOptions {
  const { prompt, promptEmbeds, negativePrompt, negativePromptEmbeds } = options;
  return {
    ...options,
    ...(prompt === undefined && promptEmbeds === undefined && { prompt: "" }),
    ...(negativePrompt === undefined && negativePromptEmbeds === undefined && { negativePrompt: "" }),
  };
}

/** Finite weights can still overflow: better an error than a black image. */
function requireFinite({ data }: HostTensor): void {
  if (allFinite(data)) return;
  throw new FluxError(
    "ERR_FLUX_BAD_WEIGHTS",
    "the transformer produced NaN or infinite latents; the checkpoint is damaged, or embeddings, guidanceScale or trueCfgScale are far out of range",
  );
}
