import { stat } from "node:fs/promises";
import { join } from "node:path";
import { badArgument, FluxError } from "../errors.js";
import {
  type AutoencoderKLConfig,
  type ComponentName,
  readAutoencoderKLConfig,
  readClipTextConfig,
  readFluxTransformerConfig,
  readModelIndex,
  readSchedulerConfig,
  readT5Config,
} from "../loaders/config.js";
import { loadClipTokenizer, loadT5Tokenizer, type Tokenizer } from "../loaders/tokenizers.js";
import { WeightSource } from "../loaders/weights.js";
import { CLIPTextEncoder } from "../models/clip-text-encoder.js";
import { FluxTransformer } from "../models/flux/transformer.js";
import { FlowMatchEulerScheduler } from "../models/scheduler.js";
import { T5Encoder } from "../models/t5-encoder.js";
import { AutoencoderKL } from "../models/vae/autoencoder.js";
import type { Model } from "../nn/model.js";
import type { Precision } from "../nn/scope.js";
import type { Device } from "../runtime/device.js";

/** How far loading has come. */
export interface LoadProgress {
  /** What is being loaded. */
  readonly component: ComponentName;
  readonly loadedBytes: number;
  /** Of this component. */
  readonly totalBytes: number;
}

/** All parts of a FLUX.1 checkpoint, loaded. */
export interface Checkpoint {
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
}

/**
 * Loads a diffusers folder: configs and tokenizers first, so that a wrong folder fails before any weight is read. On a
 * failure nothing stays allocated.
 * @throws FluxError `ERR_FLUX_BAD_WEIGHTS` or `ERR_FLUX_UNSUPPORTED`, naming the file and what is wrong with it.
 */
export async function loadCheckpoint(
  folder: string,
  device: Device,
  precision: Precision,
  options: { signal?: AbortSignal | undefined; onProgress?: ((progress: LoadProgress) => void) | undefined },
): Promise<Checkpoint> {
  await requireFolder(folder);
  await readModelIndex(folder);
  const at = (component: ComponentName) => join(folder, component);
  const [clipConfig, t5Config, transformerConfig, vaeConfig, schedulerConfig] = await Promise.all([
    readClipTextConfig(at("text_encoder")),
    readT5Config(at("text_encoder_2")),
    readFluxTransformerConfig(at("transformer")),
    readAutoencoderKLConfig(at("vae")),
    readSchedulerConfig(at("scheduler")),
  ]);
  requireWidth(
    folder,
    "text_encoder hidden_size",
    clipConfig.hiddenSize,
    "pooled_projection_dim",
    transformerConfig.pooledProjectionDim,
  );
  requireWidth(
    folder,
    "text_encoder_2 d_model",
    t5Config.dModel,
    "joint_attention_dim",
    transformerConfig.jointAttentionDim,
  );
  const [clipTokenizer, t5Tokenizer] = await Promise.all([
    loadClipTokenizer(at("tokenizer")),
    loadT5Tokenizer(at("tokenizer_2")),
  ]);

  const checkpoint: Checkpoint = {
    transformer: new FluxTransformer(device, transformerConfig, precision),
    vae: new AutoencoderKL(device, vaeConfig),
    vaeConfig,
    clip: {
      model: new CLIPTextEncoder(device, clipConfig),
      tokenizer: clipTokenizer,
      eosTokenId: clipConfig.eosTokenId,
    },
    t5: { model: new T5Encoder(device, t5Config, precision), tokenizer: t5Tokenizer },
    scheduler: new FlowMatchEulerScheduler(schedulerConfig),
  };
  const parts: [ComponentName, Model][] = [
    ["text_encoder", checkpoint.clip.model],
    ["text_encoder_2", checkpoint.t5.model],
    ["vae", checkpoint.vae],
    ["transformer", checkpoint.transformer],
  ];
  try {
    for (const [component, model] of parts) {
      options.signal?.throwIfAborted();
      await model.load(await WeightSource.open(at(component)), {
        signal: options.signal,
        onProgress: options.onProgress && ((progress) => options.onProgress!({ component, ...progress })),
      });
    }
  } catch (error) {
    for (const [, model] of parts) model.dispose();
    throw error;
  }
  return checkpoint;
}

async function requireFolder(folder: string): Promise<void> {
  if (typeof folder !== "string" || folder === "") {
    throw badArgument("fromPretrained() takes the path of a checkpoint folder");
  }
  const found = await stat(folder).catch(() => undefined);
  if (found?.isDirectory()) return;
  throw new FluxError(
    "ERR_FLUX_BAD_WEIGHTS",
    `${folder} is not a folder. Give the path of a FLUX.1 checkpoint in diffusers' layout (the folder that holds model_index.json); ` +
      "nothing is downloaded.",
  );
}

function requireWidth(folder: string, ours: string, width: number, theirs: string, wanted: number): void {
  if (width === wanted) return;
  throw new FluxError(
    "ERR_FLUX_BAD_WEIGHTS",
    `${folder}: ${ours} is ${width} and the transformer's ${theirs} is ${wanted}; these parts are not of one checkpoint.`,
  );
}
