// The types of every argument and result of a pipeline have names that a user can import: checked by `npm run typecheck`, which
// fails when one is missing or differs. There is nothing to run.

import type * as fluxwarp from "../lib/index.js";
import type {
  AdapterInfo,
  AttentionType,
  ComponentName,
  DeviceInfo,
  DeviceName,
  DeviceOptions,
  EncodeOptions,
  FluxErrorCode,
  FromPretrainedOptions,
  GenerateOptions,
  GenerateResult,
  HostTensor,
  HotswapOptions,
  ImageFormat,
  ImageInput,
  LoadedLora,
  LoadLoraOptions,
  LoadProgress,
  LoraChoice,
  LoraFormat,
  OpDescription,
  Plan,
  PlanDescription,
  Precision,
  RawImage,
  StepEvent,
  UnusedKey,
  Variant,
} from "../lib/index.js";

type Pipeline = fluxwarp.FluxPipeline;
type Same<A, B> = [A, B] extends [B, A] ? true : false;
export const same: {
  generate: Same<Pipeline["generate"], (options: GenerateOptions) => Promise<GenerateResult>>;
  profile: Same<Pipeline["profile"], (options?: GenerateOptions) => Promise<Plan>>;
  image: Same<GenerateOptions["image"], ImageInput | readonly ImageInput[] | undefined>;
  rawImage: Same<Extract<ImageInput, { width: number }>, RawImage>;
  variant: Same<Pipeline["variant"], Variant>;
  raw: Same<GenerateResult["raw"], HostTensor | undefined>;
  onStep: Same<Parameters<NonNullable<GenerateOptions["onStep"]>>, [event: StepEvent]>;
  onProgress: Same<Parameters<NonNullable<FromPretrainedOptions["onProgress"]>>, [progress: LoadProgress]>;
  component: Same<LoadProgress["component"], ComponentName>;
  precision: Same<FromPretrainedOptions["precision"], Precision | undefined>;
  attention: Same<FromPretrainedOptions["attention"], AttentionType | undefined>;
  toBuffer: Same<Parameters<fluxwarp.FluxImage["toBuffer"]>, [format?: ImageFormat, options?: EncodeOptions]>;
  describe: Same<ReturnType<Plan["describe"]>, PlanDescription>;
  ops: Same<PlanDescription["ops"], OpDescription[]>;
  open: Same<Parameters<typeof fluxwarp.Device.open>, [name?: DeviceName, options?: DeviceOptions]>;
  deviceInfo: Same<ReturnType<typeof fluxwarp.deviceInfo>, DeviceInfo>;
  load: Same<
    Pipeline["loadLoraWeights"],
    (source: string | Uint8Array, options?: LoadLoraOptions) => Promise<LoadedLora>
  >;
  hotswap: Same<Pipeline["enableLoraHotswap"], (options?: HotswapOptions) => Promise<void>>;
  adapters: Same<ReturnType<Pipeline["listAdapters"]>, AdapterInfo[]>;
  loras: Same<GenerateOptions["loras"], readonly LoraChoice[] | undefined>;
  loraFormat: Same<AdapterInfo["format"], LoraFormat>;
  unused: Same<LoadedLora["unused"], readonly UnusedKey[]>;
  codes: Same<(typeof fluxwarp.FLUX_ERROR_CODES)[number], FluxErrorCode>;
} = {
  generate: true,
  profile: true,
  image: true,
  rawImage: true,
  variant: true,
  raw: true,
  onStep: true,
  onProgress: true,
  component: true,
  precision: true,
  attention: true,
  toBuffer: true,
  describe: true,
  ops: true,
  open: true,
  deviceInfo: true,
  load: true,
  hotswap: true,
  adapters: true,
  loras: true,
  loraFormat: true,
  unused: true,
  codes: true,
};
