// The configs of a whole pipeline: out of a folder, by the name of a published model, or a few fields changed.

import { stat } from "node:fs/promises";
import { join } from "node:path";
import { badArgument, FluxError } from "../errors.js";
import {
  type AutoencoderKLConfig,
  type ClipTextConfig,
  type FluxTransformerConfig,
  parseAutoencoderKLConfig,
  parseClipTextConfig,
  parseFluxTransformerConfig,
  parseSchedulerConfig,
  parseT5Config,
  type SchedulerConfig,
  type T5Config,
} from "./config.js";
import { readJson } from "./json-fields.js";
import { PUBLISHED_CONFIGS } from "./published-configs.js";

/** The components that have a config. */
const CONFIG_FILES = {
  scheduler: "scheduler_config.json",
  text_encoder: "config.json",
  text_encoder_2: "config.json",
  transformer: "config.json",
  vae: "config.json",
} as const;

export type ConfigName = keyof typeof CONFIG_FILES;
export const CONFIG_NAMES = Object.keys(CONFIG_FILES) as readonly ConfigName[];

/** The JSON of every config, as diffusers and transformers write it. */
export type ConfigFiles = Readonly<Record<ConfigName, object>>;

/** The path of a component's config in a folder. */
export function configPath(folder: string, name: ConfigName): string {
  return join(folder, name, CONFIG_FILES[name]);
}

/** The configs of a pipeline, checked. */
export interface PipelineConfigs {
  readonly clip: ClipTextConfig;
  readonly t5: T5Config;
  readonly transformer: FluxTransformerConfig;
  readonly vae: AutoencoderKLConfig;
  readonly scheduler: SchedulerConfig;
  /** As they were read. */
  readonly files: ConfigFiles;
}

/**
 * What a model is to be like: `"flux1-dev"`, `"flux1-schnell"`, the path of a folder that has the configs of diffusers' layout, or
 * fields to change in one of these, under the names that the config files have:
 *
 *     { base: "flux1-dev", transformer: { num_layers: 2, num_single_layers: 4 } }
 */
export type FluxConfig = string | ({ readonly base?: string } & { readonly [name in ConfigName]?: object });

/** @throws FluxError `ERR_FLUX_BAD_WEIGHTS` naming a file that is missing or a field that is wrong. */
export async function readPipelineConfigs(folder: string): Promise<PipelineConfigs> {
  const files = await readConfigFiles(folder);
  return parsePipelineConfigs(files, folder);
}

/**
 * @returns The configs, and the folder that they came from, where they did.
 * @throws FluxError `ERR_FLUX_BAD_ARGUMENT` for a config that is neither a name nor a folder nor an object of known fields.
 */
export async function resolveConfig(config: FluxConfig): Promise<PipelineConfigs & { folder?: string }> {
  if (typeof config === "string") {
    const published = publishedConfig(config);
    if (published !== undefined) return parsePipelineConfigs(published, config);
    const found = await stat(config).catch(() => undefined);
    if (found?.isDirectory()) return { ...(await readPipelineConfigs(config)), folder: config };
    throw badArgument(`config is ${NAMES}, or a folder with configs; "${config}" is none of them`);
  }
  if (config === null || typeof config !== "object" || Array.isArray(config)) {
    throw badArgument(
      `config is ${NAMES}, a folder with configs, or an object such as { base: "flux1-dev" }`,
    );
  }
  const { base = "flux1-dev", ...changes } = config;
  if (typeof base !== "string") throw badArgument(`config.base is ${NAMES}, or a folder with configs`);
  const { files, folder } = await resolveConfig(base);
  const changed: Record<string, object> = { ...files };
  for (const [name, fields] of Object.entries(changes)) {
    if (!Object.hasOwn(CONFIG_FILES, name))
      throw badArgument(`config has no "${name}"; it may have base, ${CONFIG_NAMES.join(", ")}`);
    if (fields === null || typeof fields !== "object" || Array.isArray(fields))
      throw badArgument(`config.${name} is an object of the fields to change`);
    changed[name] = { ...changed[name], ...fields };
  }
  const configs = parsePipelineConfigs(changed as ConfigFiles, base);
  return folder === undefined ? configs : { ...configs, folder };
}

const NAMES = Object.keys(PUBLISHED_CONFIGS)
  .map((name) => `"${name}"`)
  .join(", ");

function publishedConfig(name: string): ConfigFiles | undefined {
  return Object.hasOwn(PUBLISHED_CONFIGS, name)
    ? PUBLISHED_CONFIGS[name as keyof typeof PUBLISHED_CONFIGS]
    : undefined;
}

async function readConfigFiles(folder: string): Promise<ConfigFiles> {
  const read = CONFIG_NAMES.map(async (name) => [name, await readJson(configPath(folder, name))] as const);
  return Object.fromEntries(await Promise.all(read)) as ConfigFiles;
}

/**
 * Checks all configs, and that they belong together.
 * @param location Where they are from, for messages.
 */
export function parsePipelineConfigs(files: ConfigFiles, location: string): PipelineConfigs {
  const path = (name: ConfigName) => configPath(location, name);
  const clip = parseClipTextConfig(files.text_encoder, path("text_encoder"));
  const t5 = parseT5Config(files.text_encoder_2, path("text_encoder_2"));
  const transformer = parseFluxTransformerConfig(files.transformer, path("transformer"));
  const vae = parseAutoencoderKLConfig(files.vae, path("vae"));
  const scheduler = parseSchedulerConfig(files.scheduler, path("scheduler"));
  requireWidth(
    location,
    "text_encoder hidden_size",
    clip.hiddenSize,
    "pooled_projection_dim",
    transformer.pooledProjectionDim,
  );
  requireWidth(
    location,
    "text_encoder_2 d_model",
    t5.dModel,
    "joint_attention_dim",
    transformer.jointAttentionDim,
  );
  return { clip, t5, transformer, vae, scheduler, files };
}

function requireWidth(location: string, ours: string, width: number, theirs: string, wanted: number): void {
  if (width === wanted) return;
  throw new FluxError(
    "ERR_FLUX_BAD_WEIGHTS",
    `${location}: ${ours} is ${width} and the transformer's ${theirs} is ${wanted}; these parts are not of one checkpoint.`,
  );
}
