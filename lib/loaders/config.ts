// The configs of a diffusers folder as typed objects. Defaults are those of diffusers 0.40 and transformers 5; what a config
// may ask for and this library does not do is refused here, by name, before any weight is read.

import { join } from "node:path";
import { JsonFields, readJson } from "./json-fields.js";

/** Pipeline classes whose folders can be loaded. */
const PIPELINE_CLASSES = [
  "FluxPipeline",
  "FluxImg2ImgPipeline",
  "FluxInpaintPipeline",
  "FluxKontextPipeline",
  "FluxKontextInpaintPipeline",
  "FluxFillPipeline",
  "FluxControlPipeline",
  "FluxControlImg2ImgPipeline",
  "FluxControlInpaintPipeline",
] as const;

/** The parts of a FLUX.1 folder, and the classes that each may have. */
const COMPONENT_CLASSES = {
  scheduler: ["FlowMatchEulerDiscreteScheduler"],
  text_encoder: ["CLIPTextModel"],
  text_encoder_2: ["T5EncoderModel"],
  tokenizer: ["CLIPTokenizer", "CLIPTokenizerFast"],
  tokenizer_2: ["T5TokenizerFast", "T5Tokenizer"],
  transformer: ["FluxTransformer2DModel"],
  vae: ["AutoencoderKL"],
} as const;

/** Name of a component, which is also the name of its folder. */
export type ComponentName = keyof typeof COMPONENT_CLASSES;

export interface ModelIndex {
  readonly pipelineClass: (typeof PIPELINE_CLASSES)[number];
  /** Class of each component. */
  readonly components: Readonly<Record<ComponentName, string>>;
}

export interface ClipTextConfig {
  readonly vocabSize: number;
  readonly hiddenSize: number;
  readonly intermediateSize: number;
  readonly numHiddenLayers: number;
  readonly numAttentionHeads: number;
  readonly maxPositionEmbeddings: number;
  readonly hiddenAct: "quick_gelu" | "gelu_tanh";
  readonly layerNormEps: number;
  /** Whose row is pooled; 2 in old configs, which means the largest id of the prompt. */
  readonly eosTokenId: number;
}

export interface T5Config {
  readonly vocabSize: number;
  /** Width of the residual stream. */
  readonly dModel: number;
  /** Width of one attention head. */
  readonly dKv: number;
  readonly dFf: number;
  readonly numLayers: number;
  readonly numHeads: number;
  readonly relativeAttentionNumBuckets: number;
  readonly relativeAttentionMaxDistance: number;
  readonly layerNormEpsilon: number;
}

export interface FluxTransformerConfig {
  readonly patchSize: 1;
  /** What a token brings in: 64 for dev, schnell and Kontext; 128 for Canny and Depth, 384 for Fill. */
  readonly inChannels: number;
  /** Channels of a packed latent token, 64. */
  readonly outChannels: number;
  /** Double blocks. */
  readonly numLayers: number;
  /** Single blocks. */
  readonly numSingleLayers: number;
  readonly attentionHeadDim: number;
  readonly numAttentionHeads: number;
  /** Width of the T5 embeddings. */
  readonly jointAttentionDim: number;
  /** Width of the pooled CLIP embedding. */
  readonly pooledProjectionDim: number;
  readonly guidanceEmbeds: boolean;
  /** RoPE dimensions of (index, row, column); their sum is the head dimension. */
  readonly axesDimsRope: readonly [number, number, number];
}

export interface AutoencoderKLConfig {
  /** Side in pixels of the images that it was made for: the default size of a picture. */
  readonly sampleSize: number;
  readonly inChannels: number;
  readonly outChannels: number;
  readonly blockOutChannels: readonly number[];
  readonly layersPerBlock: number;
  readonly latentChannels: number;
  readonly normNumGroups: number;
  readonly scalingFactor: number;
  readonly shiftFactor: number;
  readonly midBlockAddAttention: boolean;
  readonly useQuantConv: boolean;
  readonly usePostQuantConv: boolean;
}

export interface SchedulerConfig {
  readonly numTrainTimesteps: number;
  /** Static shift, used without dynamic shifting. */
  readonly shift: number;
  readonly useDynamicShifting: boolean;
  readonly baseShift: number;
  readonly maxShift: number;
  readonly baseImageSeqLen: number;
  readonly maxImageSeqLen: number;
  readonly timeShiftType: "exponential" | "linear";
}

/** Reads model_index.json of a diffusers folder. */
export async function readModelIndex(folder: string): Promise<ModelIndex> {
  const file = join(folder, "model_index.json");
  return parseModelIndex(await readJson(file), file);
}

export async function readClipTextConfig(folder: string): Promise<ClipTextConfig> {
  const file = join(folder, "config.json");
  return parseClipTextConfig(await readJson(file), file);
}

export async function readT5Config(folder: string): Promise<T5Config> {
  const file = join(folder, "config.json");
  return parseT5Config(await readJson(file), file);
}

export async function readFluxTransformerConfig(folder: string): Promise<FluxTransformerConfig> {
  const file = join(folder, "config.json");
  return parseFluxTransformerConfig(await readJson(file), file);
}

export async function readAutoencoderKLConfig(folder: string): Promise<AutoencoderKLConfig> {
  const file = join(folder, "config.json");
  return parseAutoencoderKLConfig(await readJson(file), file);
}

export async function readSchedulerConfig(folder: string): Promise<SchedulerConfig> {
  const file = join(folder, "scheduler_config.json");
  return parseSchedulerConfig(await readJson(file), file);
}

/**
 * Checks a model_index.json.
 *
 * @throws FluxError ERR_FLUX_UNSUPPORTED naming a class that is not supported, ERR_FLUX_BAD_WEIGHTS for a missing component.
 */
export function parseModelIndex(json: unknown, file: string): ModelIndex {
  const fields = new JsonFields(json, file);
  const pipelineClass = fields.string("_class_name") as ModelIndex["pipelineClass"];
  if (!PIPELINE_CLASSES.includes(pipelineClass)) {
    throw fields.unsupported("_class_name", PIPELINE_CLASSES.join(", "));
  }
  for (const key of fields.keys()) {
    const value = fields.raw(key);
    // diffusers writes [null, null] for an optional part that is not there.
    const isPart = Array.isArray(value) && value.some((item) => item !== null);
    if (isPart && !Object.hasOwn(COMPONENT_CLASSES, key)) {
      throw fields.unsupported(key, `the components ${Object.keys(COMPONENT_CLASSES).join(", ")}`);
    }
  }
  const components = {} as Record<ComponentName, string>;
  for (const [name, classes] of Object.entries(COMPONENT_CLASSES) as [ComponentName, readonly string[]][]) {
    const pair = fields.raw(name);
    if (!Array.isArray(pair) || pair.length !== 2 || typeof pair[1] !== "string") {
      throw fields.invalid(name, "a list of a library and a class");
    }
    if (!classes.includes(pair[1])) throw fields.unsupported(name, classes.join(", "));
    components[name] = pair[1];
  }
  return { pipelineClass, components };
}

export function parseClipTextConfig(json: unknown, file: string): ClipTextConfig {
  const fields = new JsonFields(json, file);
  requireArchitecture(fields, "CLIPTextModel", "clip_text_model");
  const hiddenAct = CLIP_ACTIVATIONS.get(fields.string("hidden_act", "quick_gelu"));
  if (hiddenAct === undefined)
    throw fields.unsupported("hidden_act", [...CLIP_ACTIVATIONS.keys()].join(", "));
  const config = {
    vocabSize: fields.integer("vocab_size", 49408),
    hiddenSize: fields.integer("hidden_size", 512),
    intermediateSize: fields.integer("intermediate_size", 2048),
    numHiddenLayers: fields.layers("num_hidden_layers", 12),
    numAttentionHeads: fields.integer("num_attention_heads", 8),
    maxPositionEmbeddings: fields.integer("max_position_embeddings", 77),
    hiddenAct,
    layerNormEps: fields.positive("layer_norm_eps", 1e-5),
    eosTokenId: fields.integer("eos_token_id", 49407, 0),
  };
  if (config.hiddenSize % config.numAttentionHeads !== 0) {
    throw fields.invalid("hidden_size", `a multiple of num_attention_heads (${config.numAttentionHeads})`);
  }
  return config;
}

const CLIP_ACTIVATIONS: ReadonlyMap<string, ClipTextConfig["hiddenAct"]> = new Map([
  ["quick_gelu", "quick_gelu"],
  ["gelu_new", "gelu_tanh"],
  ["gelu_pytorch_tanh", "gelu_tanh"],
]);

export function parseT5Config(json: unknown, file: string): T5Config {
  const fields = new JsonFields(json, file);
  requireArchitecture(fields, "T5EncoderModel", "t5");
  // transformers derives both from feed_forward_proj, and lets the explicit fields win.
  const proj = fields.string("feed_forward_proj", "relu");
  const isGated = fields.boolean("is_gated_act", proj.startsWith("gated-"));
  const activation = fields.string(
    "dense_act_fn",
    proj === "gated-gelu" ? "gelu_new" : (proj.split("-").at(-1) ?? ""),
  );
  if (!isGated || !["gelu_new", "gelu_pytorch_tanh"].includes(activation)) {
    const key =
      fields.raw("dense_act_fn") === undefined
        ? "feed_forward_proj"
        : isGated
          ? "dense_act_fn"
          : "is_gated_act";
    throw fields.unsupported(key, "the gated GELU of T5 v1.1 (feed_forward_proj: gated-gelu)");
  }
  return {
    vocabSize: fields.integer("vocab_size", 32128),
    dModel: fields.integer("d_model", 512),
    dKv: fields.integer("d_kv", 64),
    dFf: fields.integer("d_ff", 2048),
    numLayers: fields.layers("num_layers", 6),
    numHeads: fields.integer("num_heads", 8),
    relativeAttentionNumBuckets: fields.integer("relative_attention_num_buckets", 32, 4),
    relativeAttentionMaxDistance: fields.integer("relative_attention_max_distance", 128),
    layerNormEpsilon: fields.positive("layer_norm_epsilon", 1e-6),
  };
}

export function parseFluxTransformerConfig(json: unknown, file: string): FluxTransformerConfig {
  const fields = new JsonFields(json, file);
  requireClass(fields, "FluxTransformer2DModel");
  if (fields.integer("patch_size", 1) !== 1) throw fields.unsupported("patch_size", "1");
  const attentionHeadDim = fields.integer("attention_head_dim", 128);
  if (attentionHeadDim !== 128) throw fields.unsupported("attention_head_dim", "128");
  const axes = fields.integers("axes_dims_rope", [16, 56, 56]);
  const isSplit = axes.length === 3 && axes.every((dim) => dim % 2 === 0);
  if (!isSplit || axes[0] + axes[1] + axes[2] !== attentionHeadDim) {
    throw fields.invalid(
      "axes_dims_rope",
      `three even numbers that sum to attention_head_dim (${attentionHeadDim})`,
    );
  }
  const inChannels = fields.integer("in_channels", 64);
  const isOutGiven = fields.raw("out_channels") !== undefined && fields.raw("out_channels") !== null;
  return {
    patchSize: 1,
    inChannels,
    outChannels: isOutGiven ? fields.integer("out_channels") : inChannels,
    numLayers: fields.layers("num_layers", 19),
    numSingleLayers: fields.layers("num_single_layers", 38),
    attentionHeadDim,
    numAttentionHeads: fields.integer("num_attention_heads", 24),
    jointAttentionDim: fields.integer("joint_attention_dim", 4096),
    pooledProjectionDim: fields.integer("pooled_projection_dim", 768),
    guidanceEmbeds: fields.boolean("guidance_embeds", false),
    axesDimsRope: [axes[0], axes[1], axes[2]],
  };
}

export function parseAutoencoderKLConfig(json: unknown, file: string): AutoencoderKLConfig {
  const fields = new JsonFields(json, file);
  requireClass(fields, "AutoencoderKL");
  if (fields.string("act_fn", "silu") !== "silu") throw fields.unsupported("act_fn", "silu");
  const blockOutChannels = fields.integers("block_out_channels", [64]);
  requireBlocks(fields, "down_block_types", "DownEncoderBlock2D", blockOutChannels.length);
  requireBlocks(fields, "up_block_types", "UpDecoderBlock2D", blockOutChannels.length);
  const normNumGroups = fields.integer("norm_num_groups", 32);
  if (blockOutChannels.some((channels) => channels % normNumGroups !== 0)) {
    throw fields.invalid("block_out_channels", `multiples of norm_num_groups (${normNumGroups})`);
  }
  for (const key of ["latents_mean", "latents_std"]) {
    if ((fields.raw(key) ?? null) !== null)
      throw fields.unsupported(key, "null, with scaling_factor and shift_factor");
  }
  return {
    sampleSize: fields.integer("sample_size", 1024, 16),
    inChannels: fields.integer("in_channels", 3),
    outChannels: fields.integer("out_channels", 3),
    blockOutChannels,
    layersPerBlock: fields.layers("layers_per_block", 1),
    latentChannels: fields.integer("latent_channels", 4),
    normNumGroups,
    scalingFactor: fields.positive("scaling_factor", 0.18215),
    shiftFactor: fields.numberOrNull("shift_factor") ?? 0,
    midBlockAddAttention: fields.boolean("mid_block_add_attention", true),
    useQuantConv: fields.boolean("use_quant_conv", true),
    usePostQuantConv: fields.boolean("use_post_quant_conv", true),
  };
}

export function parseSchedulerConfig(json: unknown, file: string): SchedulerConfig {
  const fields = new JsonFields(json, file);
  requireClass(fields, "FlowMatchEulerDiscreteScheduler");
  const variants = [
    "invert_sigmas",
    "use_karras_sigmas",
    "use_exponential_sigmas",
    "use_beta_sigmas",
    "stochastic_sampling",
  ];
  for (const key of variants) {
    if (fields.boolean(key, false)) throw fields.unsupported(key, "false");
  }
  if (fields.numberOrNull("shift_terminal") !== null) throw fields.unsupported("shift_terminal", "null");
  const timeShiftType = fields.string("time_shift_type", "exponential");
  if (timeShiftType !== "exponential" && timeShiftType !== "linear") {
    throw fields.unsupported("time_shift_type", "exponential, linear");
  }
  const config = {
    numTrainTimesteps: fields.integer("num_train_timesteps", 1000),
    shift: fields.positive("shift", 1),
    useDynamicShifting: fields.boolean("use_dynamic_shifting", false),
    baseShift: fields.number("base_shift", 0.5),
    maxShift: fields.number("max_shift", 1.15),
    baseImageSeqLen: fields.integer("base_image_seq_len", 256),
    maxImageSeqLen: fields.integer("max_image_seq_len", 4096),
    timeShiftType,
  } as const;
  if (config.maxImageSeqLen === config.baseImageSeqLen) {
    throw fields.invalid("max_image_seq_len", `other than base_image_seq_len (${config.baseImageSeqLen})`);
  }
  return config;
}

/** diffusers configs name their class. */
function requireClass(fields: JsonFields, className: string): void {
  if (fields.string("_class_name", className) !== className)
    throw fields.unsupported("_class_name", className);
}

/** transformers configs name their model type, and mostly their class; published T5 configs lack the class. */
function requireArchitecture(fields: JsonFields, className: string, modelType: string): void {
  if (fields.string("model_type", modelType) !== modelType) throw fields.unsupported("model_type", modelType);
  if ((fields.raw("architectures") ?? null) === null) return;
  if (!fields.strings("architectures").includes(className))
    throw fields.unsupported("architectures", className);
}

function requireBlocks(fields: JsonFields, key: string, blockType: string, count: number): void {
  const types = fields.strings(key, [blockType]);
  if (types.some((type) => type !== blockType)) throw fields.unsupported(key, blockType);
  if (types.length !== count) throw fields.invalid(key, `as long as block_out_channels (${count})`);
}
