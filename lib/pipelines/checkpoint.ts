import { FluxError } from "../errors.js";
import type { AutoencoderKLConfig, ComponentName } from "../loaders/config.js";
import type { PipelineConfigs } from "../loaders/pipeline-configs.js";
import { WEIGHT_COMPONENTS, type WeightComponent } from "../loaders/single-file.js";
import type { TensorSource } from "../loaders/tensor-source.js";
import type { Tokenizer } from "../loaders/tokenizers.js";
import { CLIPTextEncoder } from "../models/clip-text-encoder.js";
import { FluxTransformer } from "../models/flux/transformer.js";
import { FlowMatchEulerScheduler } from "../models/scheduler.js";
import { T5Encoder } from "../models/t5-encoder.js";
import { AutoencoderKL } from "../models/vae/autoencoder.js";
import type { Model } from "../nn/model.js";
import type { Precision } from "../nn/scope.js";
import type { Device } from "../runtime/device.js";
import type { AttentionType } from "../runtime/heads.js";
import { type Variant, variantOf } from "./conditioning/variant.js";
import type { TokenizerFolders } from "./tokenizer-folders.js";

/** How far loading has come. */
export interface LoadProgress {
  /** What is being loaded. */
  readonly component: ComponentName;
  readonly loadedBytes: number;
  /** Of this component. */
  readonly totalBytes: number;
}

/** What a pipeline is made of, wherever it lies: checked, and none of its weights read. */
export interface CheckpointParts {
  /** Its pipeline class or its file's name, which may say what it was trained for. */
  readonly name?: string;
  readonly configs: PipelineConfigs;
  readonly tokenizers: { readonly clip: Tokenizer; readonly t5: Tokenizer };
  readonly tokenizerFolders: TokenizerFolders;
  /** The components whose linears are stored in fp8. */
  readonly stored: ReadonlySet<WeightComponent>;
  /** The tensors of a component, whose model says what it needs. */
  weights(component: WeightComponent, model: Model): Promise<TensorSource>;
}

/** All parts of a FLUX.1 checkpoint, loaded. */
export interface Checkpoint {
  readonly variant: Variant;
  readonly transformer: FluxTransformer;
  readonly vae: AutoencoderKL;
  readonly vaeConfig: AutoencoderKLConfig;
  readonly clip: {
    readonly model: CLIPTextEncoder;
    readonly tokenizer: Tokenizer;
    readonly eosTokenId: number;
  };
  readonly t5: { readonly model: T5Encoder; readonly tokenizer: Tokenizer };
  readonly scheduler: FlowMatchEulerScheduler;
  /** Where the weights of a component came from, under the names of its model. */
  original(component: WeightComponent): Promise<TensorSource>;
}

/** What the linears of the parts compute in. */
export interface Precisions {
  readonly transformer: Precision;
  readonly textEncoders: Precision;
  /** The transformer's attention. */
  readonly attention?: AttentionType;
}

/** The networks of a checkpoint, without their weights. */
export type Models = ReturnType<typeof modelsOf>;

export function modelsOf(configs: PipelineConfigs, device: Device, precisions: Precisions) {
  return {
    text_encoder: new CLIPTextEncoder(device, configs.clip),
    text_encoder_2: new T5Encoder(device, configs.t5, precisions.textEncoders),
    vae: new AutoencoderKL(device, configs.vae),
    transformer: new FluxTransformer(
      device,
      configs.transformer,
      precisions.transformer,
      precisions.attention,
    ),
  } satisfies Record<WeightComponent, Model>;
}

/** An id without an embedding would be read as another one's. */
function requireVocabulary(component: WeightComponent, { idCount }: Tokenizer, vocabSize: number): void {
  if (idCount <= vocabSize) return;
  throw new FluxError(
    "ERR_FLUX_BAD_WEIGHTS",
    `the tokenizer of ${component} has ids up to ${idCount - 1}, and its vocab_size is ${vocabSize}; these parts are not of one checkpoint.`,
  );
}

/**
 * Loads all weights. On a failure nothing stays allocated.
 * @throws FluxError `ERR_FLUX_BAD_WEIGHTS` or `ERR_FLUX_UNSUPPORTED`, naming the file and what is wrong with it.
 */
export async function loadCheckpoint(
  parts: CheckpointParts,
  device: Device,
  precisions: Precisions,
  options: {
    signal?: AbortSignal | undefined;
    onProgress?: ((progress: LoadProgress) => void) | undefined;
    /** What the caller says that the checkpoint is. */
    variant?: Variant | undefined;
  },
): Promise<Checkpoint> {
  const { configs, tokenizers } = parts;
  const variant = variantOf({ ...configs.transformer, name: parts.name }, options.variant);
  requireVocabulary("text_encoder", tokenizers.clip, configs.clip.vocabSize);
  requireVocabulary("text_encoder_2", tokenizers.t5, configs.t5.vocabSize);
  const models = modelsOf(configs, device, precisions);
  try {
    for (const component of WEIGHT_COMPONENTS) {
      options.signal?.throwIfAborted();
      const model: Model = models[component];
      await model.load(await parts.weights(component, model), {
        signal: options.signal,
        onProgress: options.onProgress && ((progress) => options.onProgress!({ component, ...progress })),
      });
    }
  } catch (error) {
    for (const model of Object.values(models)) model.dispose();
    throw error;
  }
  return {
    variant,
    transformer: models.transformer,
    vae: models.vae,
    vaeConfig: configs.vae,
    clip: { model: models.text_encoder, tokenizer: tokenizers.clip, eosTokenId: configs.clip.eosTokenId },
    t5: { model: models.text_encoder_2, tokenizer: tokenizers.t5 },
    scheduler: new FlowMatchEulerScheduler(configs.scheduler),
    original: async (component) => {
      const model: Model = models[component];
      return model.named(await parts.weights(component, model));
    },
  };
}
