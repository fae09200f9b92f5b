import { badArgument, FluxError } from "../errors.js";
import type { FluxConfig } from "../loaders/pipeline-configs.js";
import { Adapters } from "../lora/adapters.js";
import { sitesOf } from "../lora/sites.js";
import type { Device } from "../runtime/device.js";
import type { Plan } from "../runtime/plan.js";
import { type CacheOptions, checkCache } from "./cache.js";
import { Call } from "./call.js";
import { CallQueue } from "./call-queue.js";
import type { Checkpoint, CheckpointParts } from "./checkpoint.js";
import { openFolder } from "./checkpoint-folder.js";
import { PictureEncoder } from "./conditioning/encode.js";
import { hasPictures, outputSize, standIns } from "./conditioning/task.js";
import type { Variant } from "./conditioning/variant.js";
import { Denoisers } from "./denoisers.js";
import { drawCalls } from "./draw-calls.js";
import {
  type FromConfigOptions,
  type FromPretrainedOptions,
  type FromSingleFileOptions,
  type LoadedCheckpoint,
  loadOnto,
} from "./load-onto.js";
import { checkLoadOptions, type LoadCall } from "./load-options.js";
import { LoraLoader } from "./lora-loader.js";
import type { GenerateOptions } from "./options.js";
import { Output } from "./output.js";
import { PromptEncoder } from "./prompt-encoder.js";
import { openRandom } from "./random-checkpoint.js";
import { capabilitiesOf, readRequest, withTexts } from "./read-request.js";
import { type Capabilities, checkCall, checkRequest, type Request } from "./request.js";
import type { GenerateResult } from "./result.js";
import { openSingleFile } from "./single-file.js";

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
  readonly #can: Capabilities;
  readonly #prompts: PromptEncoder;
  readonly #pictures: PictureEncoder;
  readonly #denoisers: Denoisers;
  readonly #output: Output;
  readonly #queue: CallQueue;
  /** Of every call that does not say otherwise. */
  #cache: CacheOptions | undefined;
  /** @internal */
  protected readonly adapters: Adapters;
  #disposed = false;

  private constructor(
    { device, ownsDevice, checkpoint }: LoadedCheckpoint,
    { loraPoolBytes, batchConcurrent = false }: FromPretrainedOptions,
  ) {
    super();
    this.device = device;
    this.#checkpoint = checkpoint;
    this.#ownsDevice = ownsDevice;
    const { clip, t5, transformer } = checkpoint;
    const { pooledProjectionDim: pooled, jointAttentionDim: sequence } = transformer.config;
    this.#can = capabilitiesOf(checkpoint);
    this.#prompts = new PromptEncoder(device, { clip, t5 }, { pooled, sequence });
    this.#pictures = new PictureEncoder(checkpoint.vae, checkpoint.vaeConfig, checkpoint.variant);
    const requireAlive = () => this.#alive();
    this.#denoisers = new Denoisers(checkpoint, this.#prompts, this.#pictures, requireAlive);
    this.#output = new Output(checkpoint, requireAlive);
    this.adapters = this.#makeAdapters(loraPoolBytes);
    this.#queue = new CallQueue(batchConcurrent, async (calls) => {
      this.#alive();
      await this.adapters.apply(calls[0]!.request.loras);
      await drawCalls(calls, { denoisers: this.#denoisers, output: this.#output });
    });
  }

  /**
   * Loads a checkpoint folder in diffusers' layout.
   * @throws FluxError `ERR_FLUX_BAD_ARGUMENT` for a wrong option, `ERR_FLUX_BAD_WEIGHTS`, `ERR_FLUX_UNSUPPORTED`, `ERR_FLUX_NO_DEVICE`,
   *   `ERR_FLUX_OUT_OF_MEMORY`, `ERR_FLUX_IO`; the signal's reason when it is aborted.
   */
  static fromPretrained(folder: string, options: FromPretrainedOptions = {}): Promise<FluxPipeline> {
    return FluxPipeline.#load("fromPretrained", () => openFolder(folder), options);
  }

  /**
   * Makes a model of any size on the device, without a checkpoint: for benchmarks and tests. Its pictures are noise.
   *
   *     await FluxPipeline.fromConfig("flux1-dev", { weights: "random", seed: 0 });
   *
   * @throws FluxError `ERR_FLUX_BAD_ARGUMENT` for a config or a seed that is none, and as `fromPretrained` does.
   */
  static fromConfig(config: FluxConfig, options: FromConfigOptions): Promise<FluxPipeline> {
    const open = async () => {
      if (options?.weights !== "random") throw badArgument('fromConfig() takes { weights: "random" }');
      return openRandom(config, options);
    };
    return FluxPipeline.#load("fromConfig", open, options ?? {});
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
    return FluxPipeline.#load("fromSingleFile", () => openSingleFile(path, options), options);
  }

  static async #load(
    call: LoadCall,
    open: () => Promise<CheckpointParts>,
    options: FromPretrainedOptions,
  ): Promise<FluxPipeline> {
    checkLoadOptions(call, options);
    return new FluxPipeline(await loadOnto(open, options), options);
  }

  /** What the checkpoint was made for, and so which pictures `generate` takes. */
  get variant(): Variant {
    return this.#checkpoint.variant;
  }

  /**
   * Draws images.
   * @throws FluxError `ERR_FLUX_BAD_ARGUMENT` for a wrong option or picture, `ERR_FLUX_OUT_OF_MEMORY`, `ERR_FLUX_IO` for a picture that cannot
   *   be read, `ERR_FLUX_BAD_WEIGHTS` when latents overflow, `ERR_FLUX_DISPOSED` when the pipeline is disposed before or meanwhile; the
   *   signal's reason when it is aborted.
   */
  async generate(options: GenerateOptions): Promise<GenerateResult> {
    this.#alive();
    checkCall(options);
    const call = new Call(options, this.#read(options));
    this.#queue.add(call);
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
    checkCache(options, this.#can.blocks);
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
    checkCall(options);
    if (hasPictures(options)) {
      throw badArgument(
        "plan() reads no pictures: give height and width, or use profile(), which takes them",
      );
    }
    const size = outputSize(options, this.#can, undefined);
    const request = checkRequest({ ...this.#withCache(withTexts(options)), ...size }, this.#can);
    return this.#denoisers.of(request).step;
  }

  /**
   * Runs one denoising step of such a request with a clock around every op. The plan that comes back shows the times.
   * @throws FluxError as `generate` does.
   */
  async profile(options: GenerateOptions = {}): Promise<Plan> {
    this.#alive();
    checkCall(options);
    const call = new Call(options, this.#read(standIns(withTexts(options), this.#can)));
    const turn = this.#queue.alone(options.signal, async () => {
      await call.ready;
      this.#alive();
      await this.adapters.apply(call.request.loras);
      return this.#denoisers.use([call], async ({ prepare, step }) => {
        await prepare.run();
        await step.profile();
        return step;
      });
    });
    turn.catch(() => {});
    await call.ready;
    return turn;
  }

  /**
   * Gives all device memory back to the GPU. A `generate` that is running rejects with `ERR_FLUX_DISPOSED` at its next step.
   */
  dispose(): void {
    if (this.#disposed) return;
    this.#disposed = true;
    for (const part of [this.#denoisers, this.#output, this.#prompts, this.#pictures, this.adapters])
      part.dispose();
    const { clip, t5, transformer, vae } = this.#checkpoint;
    for (const model of [clip.model, t5.model, transformer, vae]) model.dispose();
    this.device.trim();
    if (this.#ownsDevice) this.device.dispose();
  }

  [Symbol.dispose](): void {
    this.dispose();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.dispose();
    await this.#queue.idle();
  }

  /** @internal */
  protected async inOrder<T>(work: () => Promise<T>): Promise<T> {
    this.#alive();
    return this.#queue.alone(undefined, async () => {
      this.#alive();
      return work();
    });
  }

  #makeAdapters(poolBytes: number | undefined): Adapters {
    const { transformer, clip, original } = this.#checkpoint;
    const onClip = new Set(clip.model.linears);
    return new Adapters(
      this.device,
      sitesOf(transformer, clip.model),
      {
        forgetPlans: () => {
          this.#denoisers.dispose();
          this.#prompts.forgetClip({ plan: true });
        },
        forgetEmbeddings: () => this.#prompts.forgetClip({ plan: false }),
        originals: (linear) => original(onClip.has(linear) ? "text_encoder" : "transformer"),
      },
      poolBytes,
    );
  }

  /** Whether it is cached is decided at the call. */
  #read(options: GenerateOptions): Promise<Request> {
    return readRequest(this.#withCache(options), this.#can);
  }

  #withCache(options: GenerateOptions): GenerateOptions {
    return { ...options, cache: options.cache ?? this.#cache ?? false };
  }

  #alive(): void {
    if (this.#disposed) throw new FluxError("ERR_FLUX_DISPOSED", "this pipeline is disposed; load it again");
  }
}
