/** fluxwarp: FLUX.1 in Node.js. See README.md. */
export { FLUX_ERROR_CODES, FluxError, type FluxErrorCode } from "./errors.js";
export type { ComponentName } from "./loaders/config.js";
export type { FluxConfig } from "./loaders/pipeline-configs.js";
export type { AdapterInfo } from "./lora/adapters.js";
export type { LoraChoice } from "./lora/choices.js";
export type { LoraFormat } from "./lora/format.js";
export type { UnusedKey } from "./lora/pairs.js";
export type { HotswapOptions } from "./lora/targets.js";
export type { Precision } from "./nn/scope.js";
export type { CacheCount, CacheOptions, CacheReport, CacheStep } from "./pipelines/cache.js";
export type { LoadProgress } from "./pipelines/checkpoint.js";
export type { ImageInput, RawImage } from "./pipelines/conditioning/picture.js";
export type { Variant } from "./pipelines/conditioning/variant.js";
export { FluxPipeline } from "./pipelines/flux-pipeline.js";
export type { HostTensor } from "./pipelines/host-tensor.js";
export { type EncodeOptions, FluxImage, type ImageFormat } from "./pipelines/image.js";
export type {
  FromConfigOptions,
  FromPretrainedOptions,
  FromSingleFileOptions,
} from "./pipelines/load-onto.js";
export type { FuseLoraOptions, LoadedLora, LoadLoraOptions } from "./pipelines/lora-loader.js";
export type { GenerateOptions, StepEvent } from "./pipelines/options.js";
export type { GenerateResult, Timings } from "./pipelines/result.js";
export {
  Device,
  type DeviceInfo,
  type DeviceName,
  type DeviceOptions,
  deviceInfo,
} from "./runtime/device.js";
export type { AttentionType } from "./runtime/heads.js";
export type { OpDescription, Plan, PlanDescription } from "./runtime/plan.js";
