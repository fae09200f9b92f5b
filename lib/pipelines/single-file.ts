import { readdir, stat } from "node:fs/promises";
import { basename, join } from "node:path";
import { badArgument, FluxError } from "../errors.js";
import { inferTransformerConfig } from "../loaders/infer-config.js";
import {
  type FluxConfig,
  type PipelineConfigs,
  parsePipelineConfigs,
  resolveConfig,
} from "../loaders/pipeline-configs.js";
import { quoted } from "../loaders/safetensors-header.js";
import { findComponents, fp8Of, type WeightComponent } from "../loaders/single-file.js";
import type { TensorSource } from "../loaders/tensor-source.js";
import type { CheckpointParts } from "./checkpoint.js";
import { findTokenizers, loadTokenizers, tokenizerFolders } from "./tokenizer-folders.js";

/** Where the parts come from that a single file does not have. */
export interface SingleFileParts {
  /** `ae.safetensors`, or a `vae/` folder. */
  vae?: string;
  /** `clip_l.safetensors`, or a `text_encoder/` folder. */
  clip?: string;
  /** `t5xxl_….safetensors`, or a `text_encoder_2/` folder. */
  t5?: string;
  /** A folder with `tokenizer/` and `tokenizer_2/`. */
  tokenizers?: string;
  /**
   * What the parts are like that do not show it: `"flux1-dev"` or `"flux1-schnell"`, told apart by the file itself, by default. A folder in
   * diffusers' layout also gives the tokenizers, and the parts that are neither in the file nor named here.
   */
  config?: FluxConfig;
}

/** Each option that names a part: the component, and what to call it. */
const PARTS = {
  vae: { component: "vae", title: "autoencoder", example: "ae.safetensors" },
  clip: { component: "text_encoder", title: "CLIP", example: "clip_l.safetensors" },
  t5: { component: "text_encoder_2", title: "T5", example: "t5xxl_fp16.safetensors" },
} as const;
type PartOption = keyof typeof PARTS;

/**
 * Opens a transformer in one file, alone or with the other parts.
 * @throws FluxError `ERR_FLUX_BAD_WEIGHTS` for a file that is damaged or not FLUX.1, `ERR_FLUX_BAD_ARGUMENT` when parts are missing, naming all of
 *   them, `ERR_FLUX_UNSUPPORTED` for formats that cannot be read.
 */
export async function openSingleFile(path: string, options: SingleFileParts): Promise<CheckpointParts> {
  await requireFile(path);
  const { source, found } = await findComponents(path);
  const sources: { [component in WeightComponent]?: TensorSource } = { ...found };
  if (sources.transformer === undefined) throw noTransformer(path, source.names());
  const inferred = inferTransformerConfig(sources.transformer);
  const base = options.config ?? (inferred.guidance_embeds ? "flux1-dev" : "flux1-schnell");
  const resolved = await resolveConfig(base);
  requireEncoders(path, inferred, resolved, options.config !== undefined);
  const transformer = { ...resolved.files.transformer, ...inferred };
  const configs = parsePipelineConfigs({ ...resolved.files, transformer }, path);

  for (const [option, { component, title }] of Object.entries(PARTS)) {
    const given = options[option as PartOption];
    if (given !== undefined) sources[component] = await openPart(option, given, component, title);
    else sources[component] ??= await partOf(resolved.folder, component);
  }
  const folders =
    options.tokenizers === undefined
      ? await findTokenizers(resolved.folder)
      : tokenizerFolders(options.tokenizers);
  requireAll(path, sources, folders.t5Length === undefined);
  return {
    name: basename(path),
    configs,
    tokenizers: await loadTokenizers(folders),
    tokenizerFolders: folders,
    stored: fp8Of(sources),
    weights: async (component) => sources[component]!,
  };
}

/** The widths of a transformer's texts tell whose encoders it was trained with. */
function requireEncoders(
  path: string,
  { joint_attention_dim: sequence, pooled_projection_dim: pooled }: ReturnType<typeof inferTransformerConfig>,
  { t5, clip }: PipelineConfigs,
  isGiven: boolean,
): void {
  if (t5.dModel === sequence && clip.hiddenSize === pooled) return;
  throw badArgument(
    `${path} reads texts of ${sequence} (T5) and ${pooled} (CLIP) numbers, and the encoders of ${isGiven ? "the given config" : "FLUX.1"} ` +
      `write ${t5.dModel} and ${clip.hiddenSize}; give the folder with this model's own configs as { config }`,
  );
}

async function openPart(
  option: string,
  path: string,
  component: WeightComponent,
  title: string,
): Promise<TensorSource> {
  if (typeof path !== "string")
    throw badArgument(`${option} is the path of a .safetensors file or of a folder`);
  const { source, found } = await findComponents(path);
  const part = found[component];
  if (part !== undefined) return part;
  throw new FluxError(
    "ERR_FLUX_BAD_WEIGHTS",
    `${path}, given as ${option}, holds no ${title}: its first tensors are ${firstOf(source.names())}. Give another file.`,
  );
}

/** A component's weights in a folder of diffusers' layout, where it has them. */
async function partOf(
  folder: string | undefined,
  component: WeightComponent,
): Promise<TensorSource | undefined> {
  if (folder === undefined) return undefined;
  const path = join(folder, component);
  const present = await readdir(path).catch(() => []);
  if (!present.some((name) => name.includes(".safetensors"))) return undefined;
  return (await findComponents(path)).found[component];
}

function requireAll(
  path: string,
  sources: { readonly [component in WeightComponent]?: TensorSource },
  hasTokenizers: boolean,
): void {
  const missing = Object.entries(PARTS).filter(([, { component }]) => sources[component] === undefined);
  const titles: string[] = missing.map(([, { title }]) => title);
  const options = missing.map(([option, { example }]) => `${option}: "${example}"`);
  if (!hasTokenizers) {
    titles.push("tokenizers");
    options.push('tokenizers: "folder with tokenizer/ and tokenizer_2/"');
  }
  if (titles.length === 0) return;
  throw badArgument(
    `${path} comes without ${titles.join(", ")}: give { ${options.join(", ")} }, or a folder in diffusers' layout that has them as { config }`,
  );
}

async function requireFile(path: string): Promise<void> {
  if (typeof path !== "string" || path === "") {
    throw badArgument("fromSingleFile() takes the path of a .safetensors file");
  }
  const found = await stat(path).catch(() => undefined);
  if (found?.isFile() && !/\.(safetensors|sft|json)$/i.test(path)) {
    throw new FluxError(
      "ERR_FLUX_UNSUPPORTED",
      `${path} is not a .safetensors file (.sft, or the .json index of shards); other formats, GGUF and pickles among them, are not read.`,
    );
  }
  if (found?.isFile()) return;
  const advice = found?.isDirectory()
    ? "is a folder; fromPretrained() loads folders"
    : "is not there; check the path";
  throw new FluxError("ERR_FLUX_BAD_WEIGHTS", `${path} ${advice}.`);
}

function noTransformer(path: string, names: Iterable<string>): FluxError {
  return new FluxError(
    "ERR_FLUX_BAD_WEIGHTS",
    `${path} holds no FLUX.1 transformer: its first tensors are ${firstOf(names)}. ` +
      "Give a file such as flux1-dev.safetensors; LoRA files, text encoders and the autoencoder are not models by themselves.",
  );
}

function firstOf(names: Iterable<string>): string {
  return [...names].slice(0, 4).map(quoted).join(", ");
}
